"""The `sightline new` verb: creates a project."""

from pathlib import Path
from typing import Annotated

import typer

from tfx_pipeline.cli.shared import app, console


@app.command(epilog="Example: sightline new pets ~/pets")
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the project and its model, e.g. pets.")
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Folder with one folder per class, CSV file, TFRecords, or data set.",
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Options of the ingest job, e.g. label=breed.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder in which to create NAME/.")] = Path(),
    group: Annotated[
        str,
        typer.Option(
            help="Keep images of a group in one split, as for ingest; none turns grouping off."
        ),
    ] = "",
    exif: Annotated[
        str, typer.Option(help="as_stored, or upright to rotate images by their EXIF orientation.")
    ] = "as_stored",
) -> None:
    """Create a project: records, a pipeline file with suggested values, and a README.

    Trains nothing; use `sightline run NAME` for that.
    """
    from tfx_pipeline.projects.create import NewProject, create

    project = NewProject(
        name, source, out=out, options=tuple(options or ()), group=group, exif=exif
    )
    create(project, console)
