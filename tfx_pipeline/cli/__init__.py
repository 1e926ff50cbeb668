"""`sightline`: every verb of the platform.

Only what answers `--help` is imported here; each verb imports what it needs when it runs.
"""

import importlib
import os
import sys
import warnings
from typing import Any

from rich.markup import escape

from core.renamed import FLAGS, current_flags
from tfx_pipeline.cli.shared import app, errors
from trainers.plugins import OPTION

__all__ = ["app", "main"]

# In the order that `--help` lists their verbs.
for _room in ("data", "training", "benchmarks", "projects", "platform", "deploy", "loadtest"):
    importlib.import_module(f"tfx_pipeline.cli.{_room}")


def main(arguments: list[str] | None = None) -> None:
    """The console script: one screen of error, never a trace, unless SIGHTLINE_TRACE is set."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    # Google's client library tells every process that it will soon leave Python 3.10.
    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        for verb in FLAGS.keys() & set(given):
            given = current_flags(given, verb)
        app(_plugins_first(given), standalone_mode=True)
    except KeyboardInterrupt:
        errors.print("\nstopped")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SIGHTLINE_TRACE"):
            raise
        errors.print(f"[bold red]error:[/] {escape(_in_words(error))}", soft_wrap=True)
        sys.exit(1)


def _plugins_first(arguments: list[str]) -> list[str]:
    """`--plugins FILE` moved before the verb, wherever it stands."""
    first: list[str] = []
    rest = list(arguments)
    at = 0
    while at < len(rest) and rest[at] != "--":
        taken = 2 if rest[at] == OPTION else int(rest[at].startswith(f"{OPTION}="))
        first += rest[at : at + taken]
        del rest[at : at + taken]
        at += not taken
    return [*first, *rest]


def _in_words(error: Exception) -> str:
    """The message alone for errors of our own, with the kind and a hint for any other."""
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
