"""`sightline`: every verb of the platform.

Only what answers `--help` is imported here; each verb imports what it needs when it runs.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

app = typer.Typer(
    name="sightline",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Real-time image recognition: from pictures to a served, compressed, proven model.",
)
# In a file or a pipe there is no width to respect, and a table must not lose its columns.
_WIDTH = None if sys.stdout.isatty() else 130
console = Console(width=_WIDTH)
errors = Console(stderr=True)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Configuration as key=value, e.g. train.epochs=5.", show_default=False),
]
Root = Annotated[Path, typer.Option(help="Holds runs/ and bundles/.")]


def _list_jobs(wanted: bool) -> None:
    if wanted:
        from tfx_pipeline.ingest_view import jobs_table

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
        str, typer.Option(help="as_stored, or upright to turn pictures by their EXIF.")
    ] = "as_stored",
    beam: Annotated[
        list[str] | None, typer.Option(help="A Beam option, e.g. --beam=--runner=FlinkRunner.")
    ] = None,
    _: Annotated[
        bool,
        typer.Option("--jobs", is_eager=True, callback=_list_jobs, help="List jobs and options."),
    ] = False,
) -> None:
    """Turn pictures into sharded TFRecords; goes on where it was stopped."""
    from tfx_pipeline.ingest_view import ingest_shown

    given = list(options or ())
    if source and "=" in source and not Path(source).exists():
        given, source = [source, *given], None
    ingest_shown(
        job,
        source,
        out or Path("data") / job,
        console,
        options=given,
        name=name,
        shards=shards,
        split=split,
        exif=exif,
        beam_args=beam or (),
    )


@app.command(epilog="Example: sightline validate data/pets --out pets.html")
def validate(
    data: Annotated[Path, typer.Argument(help="Records of `sightline ingest`.")],
    out: Annotated[Path | None, typer.Option(help="Also write a gallery as HTML.")] = None,
) -> None:
    """Look for what would spoil training: corrupt, duplicate, leaked or mislabelled pictures."""
    from tfx_pipeline.validate import validate as validate_data

    raise typer.Exit(validate_data(data, out=out, console=console))


@app.command(epilog="Example: sightline show data/coco --split test -n 12 --out sheet.png")
def show(
    data: Annotated[Path, typer.Argument(help="Records of `sightline ingest`.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("sheet.png"),
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    count: Annotated[int, typer.Option("-n", "--count", help="How many pictures.")] = 12,
    seed: Annotated[int, typer.Option(help="Decides which.")] = 0,
) -> None:
    """Draw pictures from records, with their class or boxes and masks."""
    from tfx_pipeline.contact_sheet import contact_sheet

    contact_sheet(data, split=split, count=count, seed=seed, out=out)
    console.print(f"wrote {out}", soft_wrap=True)


@app.command(epilog="Example: sightline train digits_cnn train.epochs=5 --data data/digits")
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe, e.g. digits_cnn.")],
    overrides: Overrides = None,
    data: Annotated[Path | None, typer.Option(help="Records; the recipe's if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="work/RECIPE if not given.")] = None,
) -> None:
    """Train a recipe; a run that was stopped goes on from its last epoch."""
    from tfx_pipeline.train_view import train_shown
    from trainers.config import override, validate
    from trainers.registry import recipes

    assignments = [*(overrides or []), *([f"data.dir={data}"] if data else [])]
    config = validate(override(recipes.get(recipe)(), assignments))
    train_shown(config, out or Path("work") / recipe, console)


@app.command(epilog="Example: sightline evaluate bundles/digits_cnn --data data/digits")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A bundle, or a folder of `sightline train`.")],
    data: Annotated[
        Path | None, typer.Option(help="Records; the model's own if not given.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    variant: Annotated[str, typer.Option(help="Of a bundle: saved_model, ptq_int8, ...")] = "",
) -> None:
    """Metrics with 95 % intervals, every example counted once."""
    from tfx_pipeline.evaluate import evaluate_model, evaluation_table

    console.print(evaluation_table(evaluate_model(model, data, split, variant)))


@app.command(epilog="Example: sightline compress work/digits_cnn --method pqat --out work/draft")
def compress(
    trained: Annotated[Path, typer.Argument(help="A folder of `sightline train`.")],
    out: Annotated[Path, typer.Option(help="The draft bundle to write.")],
    method: Annotated[
        list[str] | None, typer.Option(help="prune, qat or pqat; may be repeated.")
    ] = None,
    ptq: Annotated[str, typer.Option(help="Post-training: dynamic, int8.")] = "dynamic,int8",
) -> None:
    """Prune, train for quantisation, convert to TFLite; writes a draft bundle."""
    from tfx_pipeline.train_view import compress_shown

    dtypes = tuple(filter(None, ptq.split(",")))
    compress_shown(trained, out, tuple(method or ()), dtypes, console)


@app.command(epilog="Example: sightline export work/digits_cnn bundles --variant ptq_dynamic")
def export(
    source: Annotated[Path, typer.Argument(help="A trained folder or a draft bundle.")],
    bundles: Annotated[Path, typer.Argument(help="Pushed to BUNDLES/<name>/<next version>.")],
    variant: Annotated[str, typer.Option(help="To recommend, i.e. model.tflite.")] = "",
) -> None:
    """Push a bundle, atomically and once. No gate is asked: that is what `run` is for."""
    from tfx_pipeline.train_view import export_shown

    export_shown(source, bundles, variant, console)


class _BundleByDefault(TyperGroup):
    """`sightline benchmark PATH` is `sightline benchmark bundle PATH`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Click does, after the verb's name was put before a bundle's path or options."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["bundle", *args]
        return super().parse_args(ctx, args)


benchmarks = typer.Typer(
    cls=_BundleByDefault,
    no_args_is_help=True,
    help="Measure a bundle, or the way from pictures to batches, as ratios of one run.",
    epilog="Example: sightline benchmark bundles/digits_cnn",
)
app.add_typer(benchmarks, name="benchmark")


@benchmarks.command("bundle", epilog="Example: sightline benchmark bundles/digits_cnn --runs 500")
def benchmark_bundle(
    bundle: Annotated[Path, typer.Argument(help="A bundle or a model's folder.")],
    runs: Annotated[int, typer.Option(help="Timed calls of each variant.")] = 200,
    threads: Annotated[int, typer.Option(help="For one call.")] = 1,
) -> None:
    """Size, latency and throughput of every variant, in turns, as ratios of one run."""
    from serving.benchmark import benchmark as time_variants
    from serving.benchmark import environment
    from tfx_pipeline.evaluate import benchmark_table

    figures = time_variants(bundle, runs=runs, threads=threads)
    console.print(benchmark_table(figures, environment()))


@benchmarks.command("data", epilog="Example: sightline benchmark data ~/pictures --out rates.json")
def benchmark_data(
    source: Annotated[Path, typer.Argument(help="Records, or a folder or tar of JPEGs.")],
    rounds: Annotated[int, typer.Option(help="Turns of each input.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Images a second of ingest and of each input, against decoding alone on all cores."""
    from tfx_pipeline.data_benchmark import measure, table, write

    figures = measure(source, rounds=rounds)
    console.print(table(figures))
    if out:
        write(figures, out)
        console.print(f"wrote {out}", soft_wrap=True)


@app.command(epilog="Example: sightline run smoke --data data/digits")
def run(
    pipeline: Annotated[str, typer.Argument(help="A pipeline, e.g. smoke.")],
    overrides: Overrides = None,
    data: Annotated[Path, typer.Option(help="Records of `sightline ingest`.")] = Path(
        "data/digits"
    ),
    root: Root = Path(),
    start: Annotated[
        str, typer.Option("--from", help="Run again from here, e.g. Trainer or Compressor.")
    ] = "",
    force: Annotated[bool, typer.Option(help="Run everything again.")] = False,
) -> None:
    """Run a pipeline to pushed models. Exit status: 0 all pushed, 3 one refused, 1 error."""
    import datetime

    from tfx_pipeline.config import RunRequest, make_experiments, pipelines
    from tfx_pipeline.run import run as run_pipeline

    shape = pipelines.get(pipeline)()
    request = RunRequest(
        run=datetime.datetime.now().strftime("%Y%m%d-%H%M%S"),
        pipeline=shape,
        experiments=make_experiments(shape, data.resolve(), tuple(overrides or ())),
        data=str(data.resolve()),
        root=str(root.resolve()),
        start=start,
        force=force,
    )
    raise typer.Exit(run_pipeline(request, console))


@app.command(epilog="Example: sightline serve bundles")
def serve(
    bundles: Annotated[Path, typer.Argument(help="Every model under it is served.")],
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="gRPC; 0 takes a free one.")] = 8500,
    rest_port: Annotated[
        int, typer.Option("--rest_api_port", help="REST; 0 takes a free one.")
    ] = 8501,
) -> None:
    """Serve bundles over TF Serving's REST and gRPC, until Ctrl-C."""
    from serving.server.app import serve as serve_until_stopped

    serve_until_stopped(bundles, host=host, grpc_port=port, rest_port=rest_port)


@app.command(epilog="Example: sightline predict http://127.0.0.1:8501 cat.jpg --model digits_cnn")
def predict(
    where: Annotated[str, typer.Argument(help="http://..., grpc://... or a bundle's folder.")],
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG, BMP or GIF files.")],
    model: Annotated[str, typer.Option(help="On a server: which model.")] = "",
    variant: Annotated[str, typer.Option(help="Of a bundle: saved_model, ptq_int8, ...")] = "",
    top: Annotated[int, typer.Option(help="Classes to show.")] = 3,
) -> None:
    """Classify pictures with a server or straight from a bundle."""
    from tfx_pipeline.predict import predictions_table

    console.print(predictions_table(where, images, model=model, variant=variant, top=top))


@app.command(epilog="Example: sightline report smoke --run latest")
def report(
    pipeline: Annotated[str, typer.Argument(help="The pipeline that ran.")] = "smoke",
    root: Root = Path(),
    run_name: Annotated[str, typer.Option("--run", help="A run, or latest.")] = "latest",
) -> None:
    """Print a finished run's table again and render its report anew."""
    from tfx_pipeline.config import Layout
    from tfx_pipeline.report import write_report
    from tfx_pipeline.run import read_summary, show

    layout = Layout(root.resolve(), pipeline)
    summary = read_summary(layout, run_name)
    write_report(summary, layout.report(summary["run"]))
    raise typer.Exit(show(summary, layout, console))


def main(arguments: list[str] | None = None) -> None:
    """The console script: one screen of error, never a trace, unless SIGHTLINE_TRACE is set."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    # Google's client library tells every process that it will soon leave Python 3.10.
    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    try:
        app(arguments, standalone_mode=True)
    except KeyboardInterrupt:
        errors.print("\nstopped")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SIGHTLINE_TRACE"):
            raise
        errors.print(f"[bold red]error:[/] {escape(_in_words(error))}", soft_wrap=True)
        sys.exit(1)


def _in_words(error: Exception) -> str:
    """The message alone for errors of our own, with the kind and a hint for any other."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; install the extra that this verb needs, e.g. `sightline[pipeline]`"
    if type(error).__module__.split(".")[0] in (
        "trainers",
        "serving",
        "components",
        "tfx_pipeline",
    ):
        return str(error)
    kind: Any = type(error).__name__
    return f"{kind}: {error}\n(SIGHTLINE_TRACE=1 shows where)"


if __name__ == "__main__":
    main()
