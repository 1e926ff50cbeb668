"""Verbs on images and records: `ingest`, `validate`, `show`."""

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
    job: Annotated[str, typer.Argument(help="folder, imagenet, coco, voc, yolo, tfds, csv, ...")],
    source: Annotated[str | None, typer.Argument(help="A folder, an archive or a name.")] = None,
    options: Annotated[list[str] | None, typer.Argument(help="The job's own, key=value.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; data/JOB if not given.")] = None,
    name: Annotated[str | None, typer.Option(help="The data set's name.")] = None,
    shards: Annotated[int | None, typer.Option(help="Files a split.")] = None,
    split: Annotated[str, typer.Option(help="Put everything into this one.")] = "",
    exif: Annotated[
        str, typer.Option(help="as_stored, or upright to turn images by their EXIF.")
    ] = "as_stored",
    group: Annotated[
        str,
        typer.Option(
            help="Keep images of one group in one split: a column of the table, or a regular "
            "expression on names, e.g. '(\\d+)_\\d+\\.ppm'."
        ),
    ] = "",
    max_repaired: Annotated[
        float, typer.Option(help="Largest share of objects that may be dropped or clipped.")
    ] = 0.2,
    beam: Annotated[
        list[str] | None, typer.Option(help="A Beam option, e.g. --beam=--runner=FlinkRunner.")
    ] = None,
    _: Annotated[
        bool,
        typer.Option("--jobs", is_eager=True, callback=_list_jobs, help="List jobs and options."),
    ] = False,
) -> None:
    """Turn images into sharded TFRecords; goes on where it was stopped."""
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
    data: Annotated[Path, typer.Argument(help="Records of `sightline ingest`.")],
    out: Annotated[Path | None, typer.Option(help="Also write a gallery as HTML.")] = None,
    max_near_leakage: Annotated[
        float,
        typer.Option(
            help="Share of validation and test images that may nearly equal one of another split."
        ),
    ] = 0.05,
) -> None:
    """Look for what would spoil training: corrupt, duplicate, leaked or mislabelled images."""
    from components.data_validation.anomaly import make_settings
    from tfx_pipeline.cli.views.validate import validate as validate_data

    settings = make_settings({"max_near_leakage": max_near_leakage})
    raise typer.Exit(validate_data(data, out=out, settings=settings, console=console))


@app.command(epilog="Example: sightline show data/coco --split test -n 12 --out sheet.png")
def show(
    data: Annotated[Path, typer.Argument(help="Records of `sightline ingest`.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("sheet.png"),
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    count: Annotated[int, typer.Option("-n", "--count", help="How many images.")] = 12,
    seed: Annotated[int, typer.Option(help="Decides which.")] = 0,
) -> None:
    """Draw images from records, with their class or boxes and masks."""
    from tfx_pipeline.cli.views.contact_sheet import contact_sheet

    contact_sheet(data, split=split, count=count, seed=seed, out=out)
    console.print(f"wrote {out}", soft_wrap=True)
