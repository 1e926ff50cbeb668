"""`sightline notebook`: lists the notebooks, and fills in, runs or opens a copy of one."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from tfx_pipeline.notebooks import catalog, execute
from tfx_pipeline.notebooks.catalog import OTHER, RUN, Notebook, NotebookError
from tfx_pipeline.notebooks.run_results import VARIABLE, open_run
from trainers.data.features import DATASET_FILE


def table() -> Table:
    """One row per notebook: its name, what it shows, and its parameters."""
    found = Table(box=None, pad_edge=False)
    for column in ("notebook", "shows", "parameters"):
        found.add_column(column, no_wrap=column == "notebook")
    for one in catalog.catalog():
        names = ", ".join(name.lower() for name in one.parameters if name != RUN)
        found.add_row(one.name, escape(one.description), names)
    return found


def write_copy(
    name: str, run: str, parameters: Sequence[str], out: Path | None, *, headless: bool
) -> Path:
    """Writes a copy of a notebook with its parameters filled in; returns its path.

    Args:
      name: of the notebook.
      run: folder; empty is the environment variable SIGHTLINE_RUN.
      parameters: as key=value.
      out: file to write; None is NAME.ipynb in the current folder.
      headless: whether the notebook is then run without a browser.

    Raises:
      NotebookError: an unknown notebook or parameter, no run, an existing file, or a package that
        is not installed.
      RunError: the run does not exist, or lacks what the notebook reads.
    """
    notebook = catalog.find(name)
    if "=" in run and not Path(run).exists():
        run, parameters = "", [run, *parameters]
    given = run or os.environ.get(VARIABLE, "")
    if not given:
        raise NotebookError(
            f"{notebook.name} needs the folder of a run: `sightline notebook {notebook.name} "
            f"runs/smoke`, or set {VARIABLE}"
        )
    values = {**_values(parameters), RUN: given}
    content = catalog.filled(notebook, _with_absolute_runs(notebook, values))
    execute.check_installed(jupyter=not headless)
    path = out or Path(f"{notebook.name}.ipynb")
    catalog.write(content, path)
    return path


def _values(parameters: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in parameters:
        key, separator, value = text.partition("=")
        if not separator:
            raise NotebookError(f"parameters are written as key=value, got {text!r}")
        found[key.upper()] = value
    return found


def _with_absolute_runs(notebook: Notebook, values: dict[str, str]) -> dict[str, str]:
    """`values` with runs that exist and have what the notebook needs, as absolute paths."""
    found = dict(values)
    for key in (RUN, OTHER):
        given = values.get(key, "")
        if not given:
            continue
        folder = Path(given).expanduser()
        records = notebook.takes_records and (folder / DATASET_FILE).is_file()
        if not records:
            open_run(given).check(notebook.needs)
        found[key] = str(folder.resolve())
    return found
