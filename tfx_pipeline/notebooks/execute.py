"""Runs a notebook without a browser, converts it to HTML, or opens it in Jupyter.

The HTML needs no network: the libraries that nbconvert would load from a server are left out, since
the notebooks contain no formulas, widgets or diagrams.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from core import processes
from core.files import write_text
from tfx_pipeline.notebooks.catalog import NotebookError

_EXTRA = "pip install 'sightline[notebooks]'"
_EXECUTE = ("nbformat", "nbclient", "nbconvert", "ipykernel")
#: Module -> the verb of `jupyter` that starts it, in order of preference.
_JUPYTER = {"jupyterlab": "lab", "notebook": "notebook"}
_CELL_SECONDS = 1800
# Paper has no scroll bars.
_PRINT_STYLE = """<style>@media print {
.jp-RenderedHTMLCommon table { font-size: 7pt; }
.jp-OutputArea-output, .jp-InputArea-editor { overflow: visible !important; }
.highlight pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}</style>
</head>"""


def check_installed(*, jupyter: bool) -> None:
    """Raises NotebookError where a package is missing, with the command that installs it.

    Args:
      jupyter: whether to open the notebook; otherwise it is run without a browser.
    """
    missing = [name for name in (("ipykernel",) if jupyter else _EXECUTE) if not find_spec(name)]
    if missing:
        raise NotebookError(f"{', '.join(missing)} is not installed; run {_EXTRA}")
    if jupyter and not any(map(find_spec, _JUPYTER)):
        raise NotebookError(
            "Jupyter is not installed; run pip install jupyterlab, or write HTML without it with "
            "--execute"
        )


def run_headless(path: Path) -> Path:
    """Executes a notebook in place, and writes an HTML file beside it.

    Args:
      path: of the notebook; its folder is the working directory.

    Returns:
      The HTML file.

    Raises:
      NotebookError: a cell failed. The notebook is written with the outputs up to that cell.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert import HTMLExporter

    book = nbformat.read(path, as_version=4)
    client = NotebookClient(
        book,
        timeout=_CELL_SECONDS,
        resources={"metadata": {"path": str(path.parent)}},
        # Otherwise the kernel warns that it listens on TCP, which is how Jupyter starts kernels.
        extra_arguments=["--log-level=ERROR"],
    )
    try:
        client.execute(env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    except CellExecutionError as error:
        failed = f"{error.ename}: {error.evalue}"
        raise NotebookError(f"{path} stopped: {failed}; the outputs are in it") from error
    finally:
        write_text(path, nbformat.writes(book) + "\n")
    traits = HTMLExporter.class_trait_names()
    exporter = HTMLExporter(**{name: "" for name in traits if name.endswith("_url")})
    text, _ = exporter.from_notebook_node(book, {"metadata": {"name": path.stem}})
    page = path.with_suffix(".html")
    write_text(page, text.replace("</head>", _PRINT_STYLE, 1))
    return page


def open_in_jupyter(path: Path) -> NoReturn:
    """Replaces this process by JupyterLab, or else Jupyter Notebook, which handles Ctrl-C."""
    verb = next(verb for module, verb in _JUPYTER.items() if find_spec(module))
    sys.stdout.flush()
    command = processes.module_command("jupyter", verb, str(path))
    os.execv(command[0], command)
