"""The charts of a load test: latency by percentile, over the offered rate and over time."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from core import charts
from core.charts import Axis, Plot, Tick
from serving.benchmark.loadtest.callers import OK
from serving.benchmark.loadtest.quantiles import percentile
from serving.benchmark.loadtest.result import LoadResult

_WIDTH, _HEIGHT = 640, 300
#: More points would be indistinguishable, and a page of megabytes.
_MAX_POINTS = 3000
_PERCENTS = (0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99)


def by_percentile(results: Sequence[LoadResult]) -> Markup:
    """Latency at each percentile, on an axis where each further 9 has the same width."""
    longest = max(result.requests for result in results)
    shown = [p for p in _PERCENTS if p < 99 or longest * (1 - p / 100) >= 1]
    finite = [r.ordered_ms[np.isfinite(r.ordered_ms)] for r in results]
    x_title = "percentile of requests; a line ends where requests failed"
    area, body = _log_plot(
        [(_nines(p), f"{p:g}") for p in shown],
        [float(v) for f in finite if len(f) for v in (f[0], f[-1])],
        x_title,
    )
    for color, result in enumerate(results):
        points = [(_nines(p), percentile(result.ordered_ms, p or 1e-9)) for p in shown]
        body += charts.polyline(area, [(a, b) for a, b in points if math.isfinite(b)], color)
    body += charts.legend(area, [result.plan.summary for result in results])
    return _figure("latency in ms by percentile", area, body)


def over_rate(results: Sequence[LoadResult], bound_ms: float | None = None) -> Markup:
    """p50, p90 and p99 against the offered rate, with the bound of a search."""
    runs = sorted((r for r in results if r.plan.rate), key=lambda result: result.plan.rate or 0)
    values = {
        percent: [
            (math.log10(r.plan.rate or 1.0), p)
            for r in runs
            if math.isfinite(p := percentile(r.ordered_ms, percent))
        ]
        for percent in (50, 90, 99)
    }
    every = [y for points in values.values() for _, y in points] + ([bound_ms] if bound_ms else [])
    ticks = charts.log_ticks(runs[0].plan.rate or 1.0, runs[-1].plan.rate or 1.0)
    x_ticks = [(math.log10(tick), f"{tick:g}") for tick in ticks]
    area, body = _log_plot(x_ticks, every, "offered requests per second")
    if bound_ms:
        body += charts.horizontal(area, bound_ms, "bound")
    for color, points in enumerate(values.values()):
        body += charts.polyline(area, points, color) + charts.dots(area, points, f"s{color}")
    body += charts.legend(area, [f"p{percent}" for percent in values])
    return _figure("latency in ms over the offered rate", area, body)


def over_time(result: LoadResult) -> Markup:
    """Requests at their scheduled arrival: all failures, and of many others an even selection."""
    failed = result.codes != OK
    step = max(len(result.scheduled_s) // _MAX_POINTS, 1)
    good = np.flatnonzero(~failed)[::step]
    bad = np.flatnonzero(failed)[:_MAX_POINTS]
    latency = np.maximum(result.latency_ms, 1e-3)
    x_ticks = [(t, f"{t:g}") for t in np.linspace(0, result.plan.total_s, 6).round(1).tolist()]
    both = latency[np.concatenate([good, bad])].tolist()
    x_title = "second of the run; red: failed; left of the line: warm-up"
    area, body = _log_plot(x_ticks, both, x_title)
    body += charts.vertical(area, result.plan.warm_up_s, "axis")
    for rows, kind in ((good, "small s0"), (bad, "small bad")):
        points = zip(result.scheduled_s[rows].tolist(), latency[rows].tolist(), strict=True)
        body += charts.dots(area, points, kind)
    return _figure(f"latency in ms of every request at {result.plan.summary}", area, body)


def _nines(percent: float) -> float:
    return -math.log10(1 - percent / 100)


def _log_plot(
    x_ticks: Sequence[Tick], y_values: Sequence[float], x_title: str
) -> tuple[Plot, Markup]:
    """A plot with a logarithmic y axis around `y_values`, and its axes."""
    positive = [value for value in y_values if value > 0] or [1.0, 10.0]
    y_ticks = charts.log_ticks(min(positive), max(positive))
    x_axis, y_axis = Axis(x_ticks[0][0], x_ticks[-1][0]), Axis(y_ticks[0], y_ticks[-1], log=True)
    area = charts.plot(_WIDTH, _HEIGHT, x_axis, y_axis)
    return area, charts.axes(area, x_ticks, [(tick, f"{tick:g}") for tick in y_ticks], x_title)


def _figure(title: str, area: Plot, body: Markup) -> Markup:
    return Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(
        title, charts.svg(area, title, body)
    )
