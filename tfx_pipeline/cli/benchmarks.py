"""The `sightline benchmark` verbs; every ratio is measured within one run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from core.files import write_json
from tfx_pipeline.cli.shared import DATA_HELP, app, console, errors, records

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle or model folder.")]
JsonFile = Annotated[Path | None, typer.Option(help="Also write the results to this JSON file.")]
Images = Annotated[
    list[Path] | None,
    typer.Option(help="Image to classify; may be repeated; defaults to a generated one."),
]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Model, e.g. resnet50.")]
BuilderOptions = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Model options as key=value.")
]
ImageSide = Annotated[int, typer.Option(help="Image side in pixels.")]


class _BundleByDefault(TyperGroup):
    """`sightline benchmark PATH` is `sightline benchmark bundle PATH`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments after inserting the default verb before a path or model name."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["model" if "--model-parallel" in args else "bundle", *args]
        return super().parse_args(ctx, args)


benchmarks = typer.Typer(
    cls=_BundleByDefault,
    no_args_is_help=True,
    help="Benchmark a bundle, its server, training, or data input.",
    epilog="Example: sightline benchmark bundles/digits_cnn",
)
app.add_typer(benchmarks, name="benchmark")


@benchmarks.command("bundle", epilog="Example: sightline benchmark bundles/digits_cnn --runs 500")
def benchmark_bundle(
    bundle: BundleFolder,
    runs: Annotated[int, typer.Option(min=1, help="Timed calls per variant and latency.")] = 200,
    threads: Annotated[int, typer.Option(min=1, help="Threads for the network, per call.")] = 1,
    image: Images = None,
    out: JsonFile = None,
) -> None:
    """Measure size, latency, and throughput of every variant, interleaved.

    Latency is measured twice: of the engine alone, from pixels to scores, and from the bytes of an
    encoded image to its label. Preprocessing is measured with one caller and with two.
    """
    from serving.benchmark.images import read_image
    from serving.benchmark.preprocessing import benchmark_preprocessing
    from serving.benchmark.variants import DEFINITIONS, environment
    from serving.benchmark.variants import benchmark as time_variants
    from tfx_pipeline.cli.views.benchmark import bundle_tables

    encoded = [read_image(file) for file in image or ()]
    figures = time_variants(bundle, runs=runs, threads=threads, images=encoded)
    decoding = benchmark_preprocessing(bundle, encoded, threads=threads)
    machine, source = environment(), ", ".join(file.name for file in image or ()) or "generated"
    console.print(bundle_tables(figures, decoding, machine, source))
    variants = {name: found.to_dict() for name, found in figures.items()}
    facts = {"machine": machine, "definitions": DEFINITIONS, "images": source, "batch": 1}
    facts |= {"runs": runs, "threads": threads, "preprocessing": decoding.to_dict()}
    _save({**facts, "variants": variants}, out)


@benchmarks.command(
    "serving",
    epilog="Example: sightline benchmark serving bundles/digits_cnn --out benchmarks/serving.json",
)
def benchmark_serving(
    bundle: BundleFolder,
    image: Images = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Variant; may be repeated. Defaults to the SavedModel and the recommended TFLite "
            "file."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds per measurement.")] = 0.5,
    rounds: Annotated[
        int, typer.Option(help="Measurements of each configuration, at least 2.")
    ] = 7,
    batching: Annotated[
        bool, typer.Option(help="Also measure --enable_batching and --adaptive_batching.")
    ] = True,
    out: JsonFile = None,
) -> None:
    """Measure the overhead of the embedded server and its gain from batching; takes minutes."""
    from serving.benchmark.server import measure
    from serving.benchmark.targets import tables

    with _progress_bar() as on_progress:
        figures = measure(
            bundle,
            image or (),
            variants=variant or None,
            seconds=seconds,
            rounds=rounds,
            batching=batching,
            on_progress=on_progress,
        )
    console.print(tables(figures))
    _save(figures, out)


def _save(figures: dict[str, Any], out: Path | None) -> None:
    if out:
        write_json(out, figures)
        console.print(f"wrote {out}", soft_wrap=True)


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A progress line that is drawn between measurements only, to leave them undisturbed."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=errors, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=None)

        def on_progress(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what, refresh=True)

        yield on_progress


@benchmarks.command("data", epilog="Example: sightline benchmark data ~/images --out rates.json")
def benchmark_data(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help=f"{DATA_HELP}, or a folder or tar file of JPEGs."),
    ],
    rounds: Annotated[int, typer.Option(help="Measurements of each input.")] = 5,
    out: JsonFile = None,
) -> None:
    """Measure images per second of ingest and data input, relative to decoding alone."""
    from tfx_pipeline.benchmarks.data import measure, table

    figures = measure(records(source), rounds=rounds)
    console.print(table(figures))
    _save(figures, out)


@benchmarks.command(
    "train",
    epilog="Example: sightline benchmark train resnet50 variant=v1 bias=true --data data/pets",
)
def benchmark_train(
    model: ModelName,
    options: BuilderOptions = None,
    against: Annotated[str, typer.Option(help="Baseline model of the ratios.")] = "keras_resnet50",
    data: Annotated[
        str, typer.Option(help=f"{DATA_HELP}, or a folder of class folders.")
    ] = "data/digits",
    size: ImageSide = 224,
    batch: Annotated[int, typer.Option(help="Images per step.")] = 16,
    rounds: Annotated[int, typer.Option(help="Measurements of each model.")] = 10,
    steps: Annotated[int, typer.Option(help="Steps per measurement.")] = 4,
    out: JsonFile = None,
) -> None:
    """Compare training steps of models: time, waiting for data, and memory."""
    from tfx_pipeline.benchmarks.train import measure, table

    found = records(data)
    with console.status("train") as status:
        figures = measure(
            model,
            options or (),
            against=against,
            data=found,
            size=size,
            batch=batch,
            rounds=rounds,
            steps=steps,
            on_round=lambda number: status.update(f"round {number} of {rounds}"),
        )
    console.print(table(figures))
    _save(figures, out)


@benchmarks.command("model", epilog="Example: sightline benchmark vit_s16 --model-parallel 2")
def benchmark_model(
    model: ModelName,
    options: BuilderOptions = None,
    model_parallel: Annotated[
        int, typer.Option(help="Number of devices to split the model over.")
    ] = 2,
    batch: Annotated[int, typer.Option(help="Images per call.")] = 32,
    micro_batch: Annotated[int, typer.Option(help="Images per micro-batch.")] = 8,
    size: ImageSide = 224,
    rounds: Annotated[int, typer.Option(help="Calls of each model.")] = 5,
) -> None:
    """Compare a model that is split into stages over devices with the whole model."""
    from tfx_pipeline.benchmarks.parallel import measure, view

    figures = measure(
        model,
        options or (),
        stages=model_parallel,
        batch=batch,
        micro_batch=micro_batch,
        size=size,
        rounds=rounds,
    )
    console.print(view(figures))


@benchmarks.command(
    "scaling",
    epilog="Example: sightline benchmark scaling vit_s16 --sizes 96,160,224 --batches 1,4,16",
)
def benchmark_scaling(
    model: ModelName,
    options: BuilderOptions = None,
    sizes: Annotated[str, typer.Option(help="Image sides in pixels.")] = "96,160,224",
    batches: Annotated[str, typer.Option(help="Images per call.")] = "1,4,16",
    rounds: Annotated[int, typer.Option(help="Measurements of each cell.")] = 5,
    out: JsonFile = None,
) -> None:
    """Measure how work, time and memory of a model grow with image size and batch."""
    from tfx_pipeline.benchmarks.scaling import measure, table

    with console.status("scaling") as status:
        figures = measure(
            model,
            options or (),
            sizes=_numbers("--sizes", sizes),
            batches=_numbers("--batches", batches),
            rounds=rounds,
            on_round=lambda number: status.update(f"round {number} of {rounds}"),
        )
    console.print(table(figures))
    _save(figures, out)


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        message = f"needs whole numbers separated by commas, e.g. 1,4,16, got {text!r}"
        raise typer.BadParameter(message, param_hint=flag) from None
