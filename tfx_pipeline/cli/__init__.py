"""The `sightline` command line.

Only what `--help` needs is imported here; each verb imports its dependencies when it runs.
"""

import importlib
import os
import sys
import warnings
from typing import Any

from rich.markup import escape

from core.renamed import FLAGS, current_flags
from tfx_pipeline.cli.shared import app
from tfx_pipeline.cli.shared import errors as error_console
from trainers.plugins import OPTION

__all__ = ["app", "main"]

# In the order of the verbs in `--help`.
_MODULES = (
    *("data", "training", "evaluation", "errors", "study", "benchmarks"),
    *("projects", "platform", "notebooks", "deploy", "loadtest"),
)
for _module in _MODULES:
    importlib.import_module(f"tfx_pipeline.cli.{_module}")


def main(arguments: list[str] | None = None) -> None:
    """Runs the console script; SIGHTLINE_TRACE=1 shows the stack trace of an error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    # Google's client library warns every process that it will soon drop Python 3.10.
    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        for verb in FLAGS.keys() & set(given):
            given = current_flags(given, verb)
        app(_plugins_first(given), standalone_mode=True)
    except KeyboardInterrupt:
        error_console.print("\nstopped")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SIGHTLINE_TRACE"):
            raise
        error_console.print(f"[bold red]error:[/] {escape(_message(error))}", soft_wrap=True)
        sys.exit(1)


def _plugins_first(arguments: list[str]) -> list[str]:
    """The arguments with every `--plugins FILE` moved before the verb."""
    first: list[str] = []
    rest = list(arguments)
    at = 0
    while at < len(rest) and rest[at] != "--":
        taken = 2 if rest[at] == OPTION else int(rest[at].startswith(f"{OPTION}="))
        first += rest[at : at + taken]
        del rest[at : at + taken]
        at += not taken
    return [*first, *rest]


def _message(error: Exception) -> str:
    """The text of our errors; the type, the text and a hint for any other error."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; install the extra that this verb needs, e.g. `sightline[pipeline]`"
    if type(error).__module__.split(".")[0] in (
        "trainers",
        "serving",
        "components",
        "tfx_pipeline",
        "core",
    ):
        return str(error)
    kind: Any = type(error).__name__
    return f"{kind}: {error}\n(SIGHTLINE_TRACE=1 shows where)"
