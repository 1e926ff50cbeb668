"""`new`: a project folder from a folder of images."""

from pathlib import Path
from typing import Annotated

import typer

from tfx_pipeline.cli.shared import app, console


@app.command(epilog="Example: sightline new pets ~/pets")
def new(
    name: Annotated[str, typer.Argument(help="Of the project and its model, e.g. pets.")],
    source: Annotated[
        Path,
        typer.Argument(help="A folder of class folders, a CSV file, TFRecords or a data set."),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(help="Of the ingest job, key=value, e.g. label=breed.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to make NAME/ in.")] = Path(),
    group: Annotated[
        str,
        typer.Option(
            help="Keep images of one group in one split, as for ingest; none to look for no groups."
        ),
    ] = "",
    exif: Annotated[
        str, typer.Option(help="as_stored, or upright to turn images by their EXIF.")
    ] = "as_stored",
) -> None:
    """Make a project: records, a pipeline file with suggested values, and a README.

    Nothing is trained. `sightline run NAME` runs the project.
    """
    from tfx_pipeline.projects.create import NewProject, create

    project = NewProject(
        name, source, out=out, options=tuple(options or ()), group=group, exif=exif
    )
    create(project, console)
