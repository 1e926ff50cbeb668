"""The `sightline loadtest` verb: latency and throughput of a server under load."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfx_pipeline.cli.shared import app, console, errors

if TYPE_CHECKING:
    from serving.benchmark.loadtest import (
        LoadPlan,
        LoadProgress,
        LoadResult,
        LoadTarget,
        RateSearch,
        Requests,
    )

_DEFAULT_RATE = 20.0


@app.command(
    epilog="Example: sightline loadtest http://127.0.0.1:8501 --model digits_cnn --rates 50,100,200"
)
def loadtest(
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="Server: http(s)://host:port or grpc(s)://host:port."),
    ],
    model: Annotated[str, typer.Option(help="Model name.")],
    version: Annotated[int | None, typer.Option(help="Model version.")] = None,
    label: Annotated[
        str, typer.Option(help="Version label, e.g. canary, instead of a version.")
    ] = "",
    signature: Annotated[
        str, typer.Option(help="Signature name; defaults to serving_default.")
    ] = "",
    verb: Annotated[str, typer.Option(help="API: predict, classify, or regress.")] = "predict",
    images: Annotated[
        Path | None,
        typer.Option(help="Image, or folder of images, to send; defaults to generated ones."),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option("--input", help="Request bodies (.json, .jsonl) or arrays (.npz) to send."),
    ] = None,
    rows: Annotated[int, typer.Option(help="Images per request.")] = 1,
    rate: Annotated[
        float | None, typer.Option(help="Mean requests per second (Poisson); defaults to 20.")
    ] = None,
    rates: Annotated[
        str, typer.Option(help="Rates to run one after the other, e.g. 50,100,200.")
    ] = "",
    closed: Annotated[
        int | None, typer.Option(help="Closed loop: number of clients that wait for each response.")
    ] = None,
    find_max: Annotated[
        bool, typer.Option("--find-max", help="Search for the highest rate that meets --p99.")
    ] = False,
    p99: Annotated[float | None, typer.Option(help="Latency limit in ms for --find-max.")] = None,
    percent: Annotated[float, typer.Option(help="Percentile that --p99 limits.")] = 99.0,
    seconds: Annotated[float, typer.Option(help="Measured seconds per run.")] = 10.0,
    warm_up: Annotated[
        float, typer.Option("--warm-up", help="Warm-up seconds before each run.")
    ] = 2.0,
    timeout: Annotated[float, typer.Option(help="Request timeout in seconds.")] = 10.0,
    in_flight: Annotated[
        int, typer.Option("--in-flight", help="Maximum in-flight requests; extra ones are dropped.")
    ] = 512,
    processes: Annotated[int, typer.Option(help="Number of generator processes.")] = 1,
    channels: Annotated[int, typer.Option(help="gRPC connections per generator process.")] = 4,
    seed: Annotated[
        int, typer.Option(help="Seed of the arrival times and the choice of requests.")
    ] = 0,
    ca: Annotated[
        str, typer.Option(help="PEM file of trusted certificates, for https and grpcs.")
    ] = "",
    header: Annotated[
        list[str] | None, typer.Option(help="Header 'Name: value' to send; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the results to this JSON file.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page with plots to this file.")
    ] = None,
) -> None:
    """Load-test a server with Poisson arrivals. Exit status: 3 if a run is not valid."""
    from serving.benchmark.loadtest import LoadError, LoadPlan, LoadTarget

    if images and input_file:
        raise LoadError("give either --images or --input")
    if sum((rate is not None, bool(rates), closed is not None, find_max)) > 1 and not (
        find_max and rate is not None and not rates and closed is None
    ):
        raise LoadError(
            "give only one of --rate, --rates, --closed, --find-max (--rate may start --find-max)"
        )
    if find_max != (p99 is not None):
        raise LoadError("--find-max needs --p99 MS, and --p99 needs --find-max")
    headers = _headers(header or [])
    target = LoadTarget(
        url, model, version, signature, verb, ca_file=ca, label=label, headers=headers
    )
    requests = _requests(target, images, input_file, rows)
    plan = LoadPlan(
        rate=None if closed else (rate if rate is not None else _DEFAULT_RATE),
        clients=closed,
        seconds=seconds,
        warm_up_s=warm_up,
        seed=seed,
        timeout_s=timeout,
        max_in_flight=in_flight,
        channels=channels,
        processes=processes,
    )
    search = None
    if p99 is not None:
        search = _search(target, requests, plan, bound_ms=p99, percent=percent)
        results = list(search.steps)
    else:
        plans = [plan.at(each) for each in _rates(rates)] or [plan]
        results = [_run(target, requests, each) for each in plans]
    _show(results, search, out=out, html=html)
    if not (search.rate if search else all(result.is_valid for result in results)):
        raise typer.Exit(3)


def _headers(texts: list[str]) -> tuple[tuple[str, str], ...]:
    from serving.benchmark.loadtest import LoadError

    for text in texts:
        if ":" not in text:
            raise LoadError(f"--header takes 'Name: value', got {text!r}")
    parts = (text.partition(":") for text in texts)
    return tuple((name.strip(), value.strip()) for name, _, value in parts)


def public_arguments(arguments: list[str]) -> list[str]:
    """The command line without the values of headers, which often hold passwords."""
    found, before = [], ""
    for argument in arguments:
        if before == "--header" or argument.startswith("--header="):
            argument = f"{argument.partition(':')[0]}: ..."
        found.append(argument)
        before = argument
    return found


def _requests(
    target: "LoadTarget", images: Path | None, input_file: Path | None, rows: int
) -> "Requests":
    from serving.benchmark.loadtest import from_file, from_folder, generated

    if images:
        return from_folder(images, target, rows=rows)
    if input_file:
        return from_file(input_file, target)
    return generated(target, rows=rows)


def _rates(text: str) -> list[float]:
    from serving.benchmark.loadtest import LoadError

    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise LoadError(f"--rates takes numbers with commas, e.g. 50,100; got {text!r}") from error


def _run(target: "LoadTarget", requests: "Requests", plan: "LoadPlan") -> "LoadResult":
    from serving.benchmark.loadtest import run_load

    with _bar() as (bar, on_progress):
        bar.start(plan.summary)
        return run_load(target, requests, plan, on_progress=on_progress)


def _search(
    target: "LoadTarget", requests: "Requests", plan: "LoadPlan", *, bound_ms: float, percent: float
) -> "RateSearch":
    from serving.benchmark.loadtest import find_max

    with _bar() as (bar, on_progress):
        return find_max(
            target,
            requests,
            plan,
            bound_ms=bound_ms,
            percent=percent,
            on_step=lambda rate: bar.start(f"{rate:.4g}/s"),
            on_progress=on_progress,
        )


class _Bar:
    """One task of a rich progress bar at a time."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task: Any = None

    def start(self, name: str) -> None:
        """Adds a run below the finished ones."""
        self._task = self._progress.add_task(name, total=None, rate="", failed="")

    def update(self, now: "LoadProgress") -> None:
        """Shows the progress of the current run."""
        rate = now.succeeded / now.elapsed_s if now.elapsed_s else 0.0
        failed = f"{now.failed} failed" if now.failed else ""
        self._progress.update(
            self._task,
            completed=min(now.elapsed_s, now.total_s),
            total=now.total_s,
            rate=f"{rate:.4g}/s",
            failed=failed,
        )


@contextmanager
def _bar() -> Iterator[tuple[_Bar, Any]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}"),
    )
    with Progress(*columns, console=errors, transient=True) as progress:
        bar = _Bar(progress)
        yield bar, bar.update


def _show(
    results: "list[LoadResult]", search: "RateSearch | None", *, out: Path | None, html: Path | None
) -> None:
    from serving.benchmark.loadtest import report

    console.print(report.table(results, search))
    console.print(f"requests: {results[0].source}", soft_wrap=True, markup=False)
    for line in report.notes(results):
        console.print(line, soft_wrap=True, markup=False)
    command = shlex.join(["sightline", *public_arguments(sys.argv[1:])])
    if out:
        report.write_json(report.document(results, search, command=command), out)
        console.print(f"wrote {out}", soft_wrap=True)
    if html:
        report.write_html(results, html, search, command=command)
        console.print(f"wrote {html}", soft_wrap=True)
