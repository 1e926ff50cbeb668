"""A load test's charts as inline SVG, like the project's reports: no script, no request."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from serving.benchmark.loadtest.callers import OK
from serving.benchmark.loadtest.quantiles import percentile
from serving.benchmark.loadtest.result import LoadResult

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 40
_COLORS = 6
#: A scatter of more is a blob, and a page of megabytes.
_MAX_POINTS = 3000
_PERCENTS = (0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99)


class _Frame(NamedTuple):
    """Data to pixels, with what is drawn already."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    body: Markup


def by_percentile(results: Sequence[LoadResult]) -> Markup:
    """Latency at each percentile, the tail stretched: each 9 more is as wide as the one before."""
    longest = max(result.requests for result in results)
    shown = [p for p in _PERCENTS if p < 99 or longest * (1 - p / 100) >= 1]
    finite = [r.ordered_ms[np.isfinite(r.ordered_ms)] for r in results]
    frame = _frame(
        [(_nines(p), f"{p:g}") for p in shown],
        _range([float(v) for f in finite if len(f) for v in (f[0], f[-1])]),
        "percentile of requests; the line ends where they failed",
    )
    body = frame.body
    for color, result in enumerate(results):
        points = [(_nines(p), percentile(result.ordered_ms, p or 1e-9)) for p in shown]
        body += _line(frame, [(a, b) for a, b in points if math.isfinite(b)], color)
    names = [result.plan.in_words for result in results]
    return _svg("latency in ms by percentile", body + _legend(names))


def over_rate(results: Sequence[LoadResult], bound_ms: float | None = None) -> Markup:
    """p50, p90 and p99 against the offered rate, with the bound of a search."""
    runs = sorted((r for r in results if r.plan.rate), key=lambda result: result.plan.rate or 0)
    values = {
        percent: [
            (r.plan.rate or 0.0, p)
            for r in runs
            if math.isfinite(p := percentile(r.ordered_ms, percent))
        ]
        for percent in (50, 90, 99)
    }
    every = [y for points in values.values() for _, y in points] + ([bound_ms] if bound_ms else [])
    low, high = runs[0].plan.rate or 1.0, runs[-1].plan.rate or 1.0
    ticks = [(math.log10(t), f"{t:g}") for t in _steps(low, high)]
    frame = _frame(ticks, _range(every), "offered requests a second")
    body = frame.body
    if bound_ms:
        body += Markup('<line class="bound" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
            _LEFT, _WIDTH - _RIGHT, frame.y(bound_ms), frame.y(bound_ms)
        )
    for color, points in enumerate(values.values()):
        scaled = [(math.log10(x), y) for x, y in points]
        body += _line(frame, scaled, color) + _dots(frame, scaled, f"s{color}")
    return _svg("latency in ms over the offered rate", body + _legend(["p50", "p90", "p99"]))


def over_time(result: LoadResult) -> Markup:
    """Every request of a run at its scheduled arrival; of many an even choice, all failures."""
    failed = result.codes != OK
    step = max(len(result.scheduled_s) // _MAX_POINTS, 1)
    good = np.flatnonzero(~failed)[::step]
    bad = np.flatnonzero(failed)[:_MAX_POINTS]
    latency = np.maximum(result.latency_ms, 1e-3)
    total = result.plan.total_s
    ticks = [(t, f"{t:g}") for t in np.linspace(0, total, 6).round(1).tolist()]
    both = latency[np.concatenate([good, bad])].tolist()
    frame = _frame(ticks, _range(both), "second of the run; red: failed; left of the line: warm-up")
    at = frame.x(result.plan.warm_up_s)
    body = frame.body + Markup(
        '<line class="axis" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
    ).format(at, _TOP, _HEIGHT - _BOTTOM)
    for rows, name in ((good, "small s0"), (bad, "small bad")):
        points = zip(result.scheduled_s[rows].tolist(), latency[rows].tolist(), strict=True)
        body += _dots(frame, list(points), name)
    return _svg(f"latency in ms of every request at {result.plan.in_words}", body)


def _nines(percent: float) -> float:
    return -math.log10(1 - percent / 100)


def _steps(low: float, high: float) -> list[float]:
    """1, 2, 5, 10... around a range above 0."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    first = max((t for t in every if t <= low * 1.001), default=every[0])
    last = min((t for t in every if t >= high * 0.999 and t > first), default=every[-1])
    return [t for t in every if first <= t <= last]


def _range(values: Sequence[float]) -> list[float]:
    positive = [value for value in values if value > 0]
    return _steps(min(positive), max(positive)) if positive else [1.0, 10.0]


def _frame(x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[float], x_title: str) -> _Frame:
    x_low, x_high = x_ticks[0][0], x_ticks[-1][0]
    y_low, y_high = math.log10(y_ticks[0]), math.log10(y_ticks[-1])
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT

    def x(value: float) -> float:
        return _LEFT + (value - x_low) / max(x_high - x_low, 1e-9) * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - (math.log10(value) - y_low) / max(y_high - y_low, 1e-9) * (bottom - _TOP)

    body = Markup("")
    for tick in y_ticks:
        body += Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
            '<text class="end" x="{}" y="{:.1f}">{:g}</text>'
        ).format(_LEFT, right, y(tick), y(tick), _LEFT - 6, y(tick) + 4, tick)
    for value, text in x_ticks:
        body += Markup('<text class="mid" x="{:.1f}" y="{}">{}</text>').format(
            x(value), bottom + 16, text
        )
    body += Markup('<text class="mid" x="{}" y="{}">{}</text>').format(
        (_LEFT + right) // 2, _HEIGHT - 6, x_title
    )
    return _Frame(x, y, body)


def _line(frame: _Frame, points: Sequence[tuple[float, float]], color: int) -> Markup:
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return Markup('<polyline class="line s{}" points="{}"/>').format(color % _COLORS, path)


def _dots(frame: _Frame, points: Sequence[tuple[float, float]], name: str) -> Markup:
    # One path of tiny strokes with round ends: a circle each would be ten times the bytes.
    path = "".join(f"M{frame.x(x):.1f} {frame.y(y):.1f}h0" for x, y in points)
    return Markup('<path class="dots {}" d="{}"/>').format(name, path)


def _legend(names: Sequence[str]) -> Markup:
    body = Markup("")
    for number, name in enumerate(names):
        y = _TOP + 10 + 15 * number
        body += Markup(
            '<line class="line s{}" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}">{}</text>'
        ).format(number % _COLORS, _LEFT + 10, _LEFT + 28, y, y, _LEFT + 34, y + 4, name)
    return body


def _svg(title: str, body: Markup) -> Markup:
    return Markup(
        '<figure><figcaption>{0}</figcaption><svg viewBox="0 0 {1} {2}" role="img" '
        'aria-label="{0}">{3}</svg></figure>'
    ).format(title, _WIDTH, _HEIGHT, body)
