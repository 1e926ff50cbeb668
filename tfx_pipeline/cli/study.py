"""The `study` verb: repeats the study within a budget and reports what it shows."""

from pathlib import Path
from typing import Annotated

import typer

from tfx_pipeline.cli.shared import DATA_HELP, app, console


@app.command(epilog="Example: sightline study --data folder:cifar10_A.tar --budget 60m")
def study(
    data: Annotated[
        str,
        typer.Option(help=f"{DATA_HELP}, a folder of images, or cifar10, digits or imagenet."),
    ],
    budget: Annotated[
        str, typer.Option(help="Wall-clock time of the whole study, e.g. 60m or 2h30m.")
    ],
    seeds: Annotated[int, typer.Option(help="Runs of each of the three models, at least 2.")] = 3,
    recipes: Annotated[
        str,
        typer.Option(
            help="cifar10, digits, imagenet, or cnn=RECIPE,resnet=RECIPE,vit=RECIPE. "
            "[by the classes of the data]"
        ),
    ] = "",
    figures: Annotated[
        Path | None,
        typer.Option(help="CSV file of the study's figures. [those quoted in the project]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; defaults to work/study-SET.")
    ] = None,
) -> None:
    """Repeat the study: train, compress, time, and compare each of its tables with a verdict.

    An interrupted study resumes with the same command, and a longer --budget continues it.
    """
    from tfx_pipeline.study.command import run_study

    report = run_study(
        data, budget, console, seeds=seeds, recipes=recipes, figures=figures, out=out
    )
    console.print(f"wrote {report}", soft_wrap=True)
