"""The Typer application, its consoles, and the options that several verbs share."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainers import plugins

app = typer.Typer(
    name="sightline",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Real-time image recognition: from images to a tested, compressed, served model.",
)


@app.callback(epilog="Example: sightline --plugins my_models.py train my_recipe --data data/pets")
def _every_verb(
    files: Annotated[
        list[Path] | None,
        typer.Option(
            plugins.OPTION,
            metavar="FILE",
            help="Python file that registers models, recipes, pipelines, ...; may be repeated. "
            f"${plugins.VARIABLE} lists further files.",
        ),
    ] = None,
) -> None:
    plugins.add(*(files or ()))


# Output to a file or a pipe has no width limit, and a table must keep all its columns.
_WIDTH = None if sys.stdout.isatty() else 130
console = Console(width=_WIDTH)
errors = Console(stderr=True)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDES",
        help="Configuration overrides as key=value, e.g. train.epochs=5.",
        show_default=False,
    ),
]
ProjectRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder of runs/, bundles/, and data/; defaults to the project or current folder."
    ),
]
#: The values of every `--data`; see `tfx_pipeline.request.data_source`.
DATA_HELP = "Folder of records, or JOB:SOURCE of an ingest job, e.g. tfrecord:~/imagenet"
ResumeAnyway = Annotated[
    bool,
    typer.Option(
        "--resume-anyway",
        help="Resume training state of different code or of a run with a different length.",
    ),
]


def records(data: str | Path, root: Path = Path()) -> Path:
    """The folder of records for a value of `--data`; ingest jobs write to `root`/data.

    Raises:
      DataSourceError: the job is unknown or the source does not exist.
      IngestError: the job cannot read the source.
    """
    from tfx_pipeline.request.data_source import CACHE, resolve

    return resolve(data, root / CACHE, console)
