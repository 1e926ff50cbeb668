"""The application that every verb joins, and what verbs share."""

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
    help="Real-time image recognition: from images to a served, compressed, proven model.",
)


@app.callback(epilog="Example: sightline --plugins my_models.py train my_recipe --data data/pets")
def _every_verb(
    files: Annotated[
        list[Path] | None,
        typer.Option(
            plugins.OPTION,
            metavar="FILE",
            help="A Python file that registers models, recipes, pipelines, ...; may be repeated. "
            f"${plugins.VARIABLE} lists some as well.",
        ),
    ] = None,
) -> None:
    plugins.add(*(files or ()))


# In a file or a pipe there is no width to respect, and a table must not lose its columns.
_WIDTH = None if sys.stdout.isatty() else 130
console = Console(width=_WIDTH)
errors = Console(stderr=True)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Configuration as key=value, e.g. train.epochs=5.", show_default=False),
]
ProjectRoot = Annotated[
    Path | None,
    typer.Option(help="Holds runs/, bundles/ and data/; a project's folder, or the current one."),
]
#: What every `--data` takes; see `tfx_pipeline.request.data_source`.
DATA_HELP = "Records, or JOB:SOURCE of an ingest job, e.g. tfrecord:~/imagenet"
ResumeAnyway = Annotated[
    bool,
    typer.Option(
        "--resume-anyway",
        help="Resume training state that other code, or a run of other length, left.",
    ),
]


def records(data: str | Path, root: Path = Path()) -> Path:
    """The folder of records that `--data` means; those of an ingest job are kept in `root`/data.

    Raises:
      DataSourceError: `data` names no job, or a source that is not there.
      IngestError: the job cannot use the source.
    """
    from tfx_pipeline.request.data_source import CACHE, resolve

    return resolve(data, root / CACHE, console)
