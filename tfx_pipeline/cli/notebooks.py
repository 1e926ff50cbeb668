"""The `sightline notebook` verb: a run in one of the analyst's notebooks."""

from pathlib import Path
from typing import Annotated

import typer

from tfx_pipeline.cli.shared import app, console


@app.command(epilog="Example: sightline notebook errors runs/smoke shown=48 --execute")
def notebook(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Notebook; without it, all are listed.", show_default=False
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, e.g. runs/smoke; data_quality also takes a folder of records.",
            show_default="$SIGHTLINE_RUN",
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PARAMETERS",
            help="Parameters of the notebook as key=value, e.g. groups=race.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Copy to write; defaults to NAME.ipynb in this folder.")
    ] = None,
    execute: Annotated[
        bool,
        typer.Option("--execute", help="Run it without a browser; also write it as HTML."),
    ] = False,
) -> None:
    """Open a run in a notebook: data, models, slices, compression, or errors.

    Writes a copy with the run and the parameters filled in, and starts
    Jupyter with it.
    """
    from tfx_pipeline.cli.views import notebook as view
    from tfx_pipeline.notebooks.execute import open_in_jupyter, run_headless

    if name is None:
        console.print(view.table())
        return
    path = view.write_copy(name, run or "", parameters or (), out, headless=execute)
    console.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)
    if not execute:
        open_in_jupyter(path)
    console.print(f"wrote {run_headless(path)}", soft_wrap=True, highlight=False, markup=False)
