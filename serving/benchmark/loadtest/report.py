"""A load test as a table for the console, as JSON, and as an HTML page."""

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from core import figures, html
from core.files import write_text
from serving.benchmark.loadtest import charts
from serving.benchmark.loadtest.quantiles import PercentileInterval
from serving.benchmark.loadtest.result import PERCENTS, LoadResult
from serving.benchmark.loadtest.search import RateSearch
from serving.benchmark.variants import environment

_PACKAGES = ("httptools", "grpcio", "protobuf", "sightline")
NOTE = (
    "Latency from the scheduled arrival; failures count as slower than any response. In brackets, "
    "order statistics that cover at least 95 % if requests are independent of each other; those "
    "that queue are not: close to saturation the brackets are too narrow."
)

_RESENT = (
    "the server closed the kept-alive connection within milliseconds of the request, as servers do "
    "with idle connections; if there are many, the server drops requests"
)


def table(results: Sequence[LoadResult], search: RateSearch | None = None) -> Table:
    """One row per run, in 130 columns."""
    first = results[0]
    found = Table(
        title=Text(f"{first.target.model} at {first.target.url}", style="bold"),
        title_justify="left",
        caption=NOTE if search is None else f"{verdict(search)}\n{NOTE}",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    found.add_column("load", no_wrap=True)
    for column in ("good/s", "requests", "p50 ms", "p90", "p99 ms", "p99.9", "mean", "max"):
        found.add_column(column, justify="right", no_wrap=True)
    found.add_column("lag p99", justify="right", no_wrap=True)
    found.add_column("", overflow="fold", min_width=16)
    for result in results:
        found.add_row(*map(Text, row(result, search)))
    return found


def milliseconds(value: float) -> str:
    """A latency with its unit; `failed` for infinity, a dash for NaN."""
    return "failed" if math.isinf(value) else figures.milliseconds(value)


def _ms(value: float) -> str:
    return milliseconds(value).removesuffix(" ms")


def row(result: LoadResult, search: RateSearch | None = None) -> list[str]:
    """The cells of a run: load, rate, requests, latencies, the generator's delay and a remark."""
    p50, p90, p99, p999 = (result.percentile(percent) for percent in PERCENTS)
    return [
        result.plan.summary,
        figures.short(result.achieved_rate, 4),
        str(result.requests),
        _with_interval(p50),
        _ms(p90.value),
        _with_interval(p99),
        _ms(p999.value),
        _ms(result.mean_ms),
        _ms(result.max_ms),
        _ms(result.lag(99)),
        remark(result, search),
    ]


def remark(result: LoadResult, search: RateSearch | None = None) -> str:
    """A run's validity, errors and resends, and whether it passed in a search."""
    parts = [f"{count} x {code}" for code, count in result.errors.items()]
    if result.resends:
        parts.append(f"{result.resends} resent")
    if search is not None:
        parts.insert(0, "passed" if search.passed(result) else "over")
    if not result.is_valid:
        parts.insert(0, "INVALID")
    return ", ".join(parts)


def notes(results: Sequence[LoadResult]) -> list[str]:
    """Each run's problems, and the first message of each kind of failure."""
    found = []
    for result in results:
        found += [f"{result.plan.summary}: {problem}" for problem in result.problems]
        seen = (code for code in result.errors if result.reasons.get(code))
        found += [f"{result.plan.summary}: {code}: {result.reasons[code]}" for code in seen]
        if result.resends:
            found.append(f"{result.plan.summary}: {result.resends} resent: {_RESENT}")
    return found


def verdict(search: RateSearch) -> str:
    """A search's result in a sentence, with its evidence."""
    bound = f"p{search.percent:g} <= {search.bound_ms:g} ms"
    needs = (
        f"Each step had at least {search.min_queries} queries; passed means {bound} at 99 % "
        "confidence (MLPerf's early stopping criterion)."
    )
    if not search.rate:
        return f"No rate passed, not even {search.steps[-1].plan.summary}. {needs}"
    limited = " (the generator's limit, not the server's)" if search.is_limited_by_generator else ""
    return f"Sustains {figures.short(search.rate, 4)} requests/s at {bound}{limited}. {needs}"


def document(
    results: Sequence[LoadResult], search: RateSearch | None = None, *, command: str = ""
) -> dict[str, Any]:
    """The runs as JSON values, with machine, versions, plan, seed and figures.

    Args:
      results: the runs.
      search: whose steps the runs are; None without one.
      command: that started the test.
    """
    return {
        "kind": "loadtest",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": environment(*_PACKAGES),
        "note": NOTE,
        "runs": [result.to_dict() for result in results],
        "search": None if search is None else search.to_dict(),
    }


def write_json(values: Mapping[str, Any], file: Path) -> None:
    """Writes JSON atomically.

    Raises:
      OSError: the file cannot be written; an older one stays as it was.
    """
    write_text(file, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_html(
    results: Sequence[LoadResult],
    file: Path,
    search: RateSearch | None = None,
    *,
    command: str = "",
) -> None:
    """Writes a page with the table and charts of latency by percentile, over rate and over time.

    Raises:
      OSError: the file cannot be written; an older one stays as it was.
    """
    last = results[-1]
    drawn = [charts.by_percentile(results), charts.over_time(last)]
    if len({result.plan.rate for result in results}) > 1:
        drawn.insert(0, charts.over_rate(results, search.bound_ms if search else None))
    page = html.render(
        Path(__file__).parent,
        "page.html.j2",
        title=f"{last.target.model} at {last.target.url}",
        verdict=verdict(search) if search else "",
        rows=[row(result, search) for result in results],
        charts=drawn,
        notes=notes(results),
        facts=_facts(document(results, search, command=command), last),
        note=NOTE,
    )
    write_text(file, page)


def _facts(values: Mapping[str, Any], last: LoadResult) -> dict[str, str]:
    plan = last.plan
    return {
        "created": values["created"],
        "command": values["command"],
        "requests": f"{last.source}, seed {plan.seed}",
        "plan": f"{plan.seconds:g} s after {plan.warm_up_s:g} s of warm-up, at most "
        f"{plan.max_in_flight} in flight, {plan.timeout_s:g} s each",
        **values["machine"],
    }


def _with_interval(found: PercentileInterval) -> str:
    low, high = (_ms(end) if end is not None else "?" for end in (found.low, found.high))
    return f"{_ms(found.value)} [{low}, {high}]"
