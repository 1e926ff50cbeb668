"""Verbs for images and records: `ingest`, `validate`, `show`."""

from pathlib import Path
from typing import Annotated

import typer

from tfx_pipeline.cli.shared import app, console


def _list_jobs(wanted: bool) -> None:
    if wanted:
        from tfx_pipeline.ingest.console import jobs_table

        console.print(jobs_table())
        raise typer.Exit


@app.command(epilog="Example: sightline ingest coco ~/coco captions=true --out data/coco")
def ingest(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB", help="Job: folder, imagenet, coco, voc, yolo, tfds, csv, ..."
        ),
    ],
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="Folder, archive, or name.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Options of the job as key=value."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; defaults to data/JOB.")] = None,
    name: Annotated[str | None, typer.Option(help="Data set name.")] = None,
    shards: Annotated[int | None, typer.Option(help="Shards per split.")] = None,
    split: Annotated[str, typer.Option(help="Assign all images to this split.")] = "",
    exif: Annotated[
        str, typer.Option(help="as_stored, or upright to rotate images by their EXIF orientation.")
    ] = "as_stored",
    group: Annotated[
        str,
        typer.Option(
            help="Keep images of a group in one split: a table column, or a regular expression for "
            "file names, e.g. '(\\d+)_\\d+\\.ppm'."
        ),
    ] = "",
    max_repaired: Annotated[
        float, typer.Option(help="Maximum share of objects that may be dropped or clipped.")
    ] = 0.2,
    beam: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable Beam option, e.g. --beam=--runner=FlinkRunner."),
    ] = None,
    _: Annotated[
        bool,
        typer.Option(
            "--jobs", is_eager=True, callback=_list_jobs, help="List the jobs and their options."
        ),
    ] = False,
) -> None:
    """Convert images to sharded TFRecords; an interrupted job resumes."""
    from tfx_pipeline.ingest.console import ingest_and_print

    given = list(options or ())
    if source and "=" in source and not Path(source).exists():
        given, source = [source, *given], None
    ingest_and_print(
        job,
        source,
        out or Path("data") / job,
        console,
        options=given,
        name=name,
        shards=shards,
        split=split,
        exif=exif,
        group=group,
        max_repaired=max_repaired,
        beam_args=beam or (),
    )


@app.command(epilog="Example: sightline validate data/pets --out pets.html")
def validate(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder of records from `sightline ingest`.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Also write an HTML gallery to this file.")
    ] = None,
    max_near_leakage: Annotated[
        float,
        typer.Option(
            help="Maximum share of validation and test images that nearly repeat another split."
        ),
    ] = 0.05,
) -> None:
    """Find corrupt, duplicate, leaked, and mislabeled images. Exit status: 3 above a limit."""
    from components.data_validation.anomaly import make_settings
    from tfx_pipeline.cli.views.validate import validate as validate_data

    settings = make_settings({"max_near_leakage": max_near_leakage})
    raise typer.Exit(validate_data(data, out=out, settings=settings, console=console))


@app.command(epilog="Example: sightline show data/coco --split test -n 12 --out sheet.png")
def show(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder of records from `sightline ingest`.")
    ],
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("sheet.png"),
    split: Annotated[str, typer.Option(help="Split: train, validation, or test.")] = "train",
    count: Annotated[int, typer.Option("-n", "--count", help="Number of images.")] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the random choice of images.")] = 0,
) -> None:
    """Draw images from records with their classes, boxes, and masks."""
    from tfx_pipeline.cli.views.contact_sheet import contact_sheet

    contact_sheet(data, split=split, count=count, seed=seed, out=out)
    console.print(f"wrote {out}", soft_wrap=True)
