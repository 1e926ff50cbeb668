"""`sightline benchmark`: ratios of one run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tfx_pipeline.cli.shared import DATA_HELP, app, console, errors, records


class _BundleByDefault(TyperGroup):
    """`sightline benchmark PATH` is `sightline benchmark bundle PATH`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Click does, after the verb's name was put before a bundle's path or a model's name."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["model" if "--model-parallel" in args else "bundle", *args]
        return super().parse_args(ctx, args)


benchmarks = typer.Typer(
    cls=_BundleByDefault,
    no_args_is_help=True,
    help="Measure a bundle, its server, training, or the input of images, in ratios of one run.",
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
    from serving.benchmark.variants import benchmark as time_variants
    from serving.benchmark.variants import environment
    from tfx_pipeline.cli.views.evaluate import benchmark_table

    figures = time_variants(bundle, runs=runs, threads=threads)
    console.print(benchmark_table(figures, environment()))


@benchmarks.command(
    "serving",
    epilog="Example: sightline benchmark serving bundles/digits_cnn --out benchmarks/serving.json",
)
def benchmark_serving(
    bundle: Annotated[Path, typer.Argument(help="A bundle or a model's folder.")],
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", "--picture", help="To send; may be repeated. [one is made]"),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="May be repeated. [the SavedModel and the recommended TFLite]"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of a turn.")] = 0.5,
    rounds: Annotated[int, typer.Option(help="Turns of each thing, at least 2.")] = 7,
    batching: Annotated[
        bool, typer.Option(help="Measure --enable_batching and --adaptive_batching as well.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """What the embedded server costs over its bare engine, and gains by batching; minutes."""
    from serving.benchmark.server import measure, write
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
    if out:
        write(figures, out)
        console.print(f"wrote {out}", soft_wrap=True)


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A line drawn between turns only: one that moves takes processor time from what is timed."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=errors, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=None)

        def on_progress(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what, refresh=True)

        yield on_progress


@benchmarks.command("data", epilog="Example: sightline benchmark data ~/images --out rates.json")
def benchmark_data(
    source: Annotated[str, typer.Argument(help=f"{DATA_HELP}, or a folder or tar of JPEGs.")],
    rounds: Annotated[int, typer.Option(help="Turns of each input.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Images a second of ingest and of each input, against decoding alone on all cores."""
    from tfx_pipeline.benchmarks.data import measure, table, write

    figures = measure(records(source), rounds=rounds)
    console.print(table(figures))
    if out:
        write(figures, out)
        console.print(f"wrote {out}", soft_wrap=True)


@benchmarks.command(
    "train",
    epilog="Example: sightline benchmark train resnet50 variant=v1 bias=true --data data/pets",
)
def benchmark_train(
    model: Annotated[str, typer.Argument(help="A model, e.g. resnet50.")],
    options: Annotated[list[str] | None, typer.Argument(help="Of its builder, key=value.")] = None,
    against: Annotated[str, typer.Option(help="The model that ratios are to.")] = "keras_resnet50",
    data: Annotated[
        str, typer.Option(help=f"{DATA_HELP}, or a folder of images by class.")
    ] = "data/digits",
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 224,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 16,
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 10,
    steps: Annotated[int, typer.Option(help="Of a turn.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Training steps of models in turns: time, waiting for data, memory."""
    from tfx_pipeline.benchmarks.train import measure, table, write

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
    if out:
        write(figures, out)
        console.print(f"wrote {out}", soft_wrap=True)


@benchmarks.command("model", epilog="Example: sightline benchmark vit_s16 --model-parallel 2")
def benchmark_model(
    model: Annotated[str, typer.Argument(help="A model, e.g. resnet50.")],
    options: Annotated[list[str] | None, typer.Argument(help="Of its builder, key=value.")] = None,
    model_parallel: Annotated[int, typer.Option(help="Devices to split it over.")] = 2,
    batch: Annotated[int, typer.Option(help="Images a call.")] = 32,
    micro_batch: Annotated[int, typer.Option(help="Images that pass a stage together.")] = 8,
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 224,
    rounds: Annotated[int, typer.Option(help="Calls of each.")] = 5,
) -> None:
    """A model split by stages over devices, against the whole one."""
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
