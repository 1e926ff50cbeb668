"""Charts as inline SVG: they print, scale, follow the color scheme and need no script.

Every function answers finished markup; text from the run is escaped here. Colors come from the
page's style sheet by class (`s0`..`s5`), so that dark mode and print need nothing of these files.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from core.figures import Estimate

COLORS = 6
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34
_CHARACTER_PX = 6.2  # of 11 px text; widths of labels are estimates


class Series(NamedTuple):
    """A line: (x, y) points in x order, drawn in color `color`, dashed for training."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    dashed: bool = False


class Dot(NamedTuple):
    """A point of a trade-off: cost `x` > 0, `y` with an interval, its model and variant."""

    x: float
    y: Estimate
    model: str
    variant: str
    color: int
    x_text: str
    y_text: str


class _Frame(NamedTuple):
    """Where data lands: `x` and `y` map data to pixels."""

    width: int
    height: int
    x: Callable[[float], float]
    y: Callable[[float], float]


def curves(
    series: Sequence[Series], *, title: str, percent: bool = False, mark: float | None = None
) -> Markup:
    """Lines over epochs; empty where no series has a point.

    Args:
      series: the lines.
      title: what the chart shows, for people who do not see it.
      percent: y is a share of one.
      mark: the epoch that was kept.
    """
    series = [line for line in series if line.points]
    if not series:
        return Markup("")
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    y_ticks = ticks(min(ys), min(max(ys), 1.0) if percent else max(ys))
    width, height = 460, 230
    low, high = min(xs), max(max(xs), min(xs) + 1)
    x = _linear(low, high, _LEFT, width - _RIGHT)
    y = _linear(y_ticks[0], y_ticks[-1], height - _BOTTOM, _TOP)
    frame = _Frame(width, height, x, y)
    whole = [tick for tick in ticks(low, high, 7) if tick == int(tick) and low <= tick <= high]
    body = _axes(
        frame,
        [(tick, f"{tick:.0f}") for tick in whole],
        [(tick, _tick_text(tick, y_ticks, percent)) for tick in y_ticks],
        "epoch",
    )
    if mark is not None and low <= mark <= high:
        body += Markup(
            '<line class="kept" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}">{3}</line>'
        ).format(x(mark), _TOP, height - _BOTTOM, _tip(f"epoch {mark:.0f} was kept"))
    for line in series:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        dashed = " dashed" if line.dashed else ""
        body += Markup('<polyline class="line s{}{}" points="{}"/>').format(
            line.color % COLORS, dashed, path
        )
        end_x, end_y = line.points[-1]
        end = f"{end_y * 100:.1f} %" if percent else f"{end_y:.3g}"
        body += Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="3">{}</circle>').format(
            line.color % COLORS, x(end_x), y(end_y), _tip(f"{line.name}, last: {end}")
        )
    return _svg(frame, title, body)


def trade_off(dots: Sequence[Dot], *, title: str, x_title: str) -> Markup:
    """Accuracy with intervals against a cost on a log axis; empty where there is no dot.

    Args:
      dots: one a variant.
      title: what the chart shows, for people who do not see it.
      x_title: the cost and its unit.
    """
    dots = [dot for dot in dots if dot.x > 0]
    if not dots:
        return Markup("")
    lows = [dot.y.value if dot.y.low is None else dot.y.low for dot in dots]
    highs = [dot.y.value if dot.y.high is None else dot.y.high for dot in dots]
    y_ticks = ticks(min(lows), min(1.0, max(highs)))
    width, height = 560, 320
    x_ticks = log_ticks(min(dot.x for dot in dots), max(dot.x for dot in dots))
    # Room at both ends: labels stand beside their dots.
    start, stop = math.log10(x_ticks[0]) - 0.06, math.log10(x_ticks[-1]) + 0.06
    position = _linear(start, stop, _LEFT, width - _RIGHT)
    frame = _Frame(
        width,
        height,
        lambda value: position(math.log10(value)),
        _linear(y_ticks[0], y_ticks[-1], height - _BOTTOM, _TOP),
    )
    body = _axes(
        frame,
        [(tick, f"{tick:g}") for tick in x_ticks],
        [(tick, _tick_text(tick, y_ticks, True)) for tick in y_ticks],
        x_title,
    )
    for dot in dots:
        body += _dot(frame, dot)
    return _svg(frame, title, body + _labels(frame, dots))


def whisker(estimate: Estimate | None, low: float, high: float, *, color: int = 0) -> Markup:
    """An estimate's interval as a small bar on a scale that the rows of a table share.

    Args:
      estimate: in [low, high]; None draws nothing.
      low: left end of the scale.
      high: right end of the scale.
      color: of the series.
    """
    if estimate is None:
        return Markup("")
    x = _linear(low, max(high, low + 1e-9), 4, 116)
    bar = Markup("")
    if estimate.low is not None and estimate.high is not None:
        left, right = x(max(estimate.low, low)), x(min(estimate.high, high))
        bar = Markup('<rect class="reach s{}" x="{:.1f}" y="5" width="{:.1f}" height="6" rx="3"/>')
        bar = bar.format(color % COLORS, left, max(right - left, 1))
    return Markup(
        '<svg class="whisker" viewBox="0 0 120 16" aria-hidden="true">'
        '<line class="grid" x1="4" x2="116" y1="8" y2="8"/>{}'
        '<circle class="dot s{}" cx="{:.1f}" cy="8" r="3.5"/></svg>'
    ).format(bar, color % COLORS, x(min(max(estimate.value, low), high)))


def scale(estimates: Sequence[Estimate | None]) -> tuple[float, float]:
    """The common scale of whiskers: from a round number below the lowest to one above."""
    ends = [end for e in estimates if e for end in (e.low, e.value, e.high) if end is not None]
    if not ends:
        return 0.0, 1.0
    found = ticks(min(ends), max(ends), 4)
    return found[0], min(found[-1], 1.0) if max(ends) <= 1.0 else found[-1]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers, the first at most `low` and the last at least `high`."""
    span = max(high - low, abs(high) * 1e-3, 1e-6)
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power * count >= span * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10... around [low, high]; the powers of ten alone for more than three decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
    steps = (1.0,) if last - first > 3 else (1.0, 2.0, 5.0)
    found = [round(s * 10.0**p, 12) for p in range(first, last + 1) for s in steps]
    inside = [i for i, tick in enumerate(found) if low <= tick <= high]
    below = max((i for i, tick in enumerate(found) if tick <= low), default=0)
    above = min((i for i, tick in enumerate(found) if tick >= high), default=len(found) - 1)
    if below == above and not inside:
        above += 1
    return found[below : max(above, below + 1) + 1]


def _linear(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _tick_text(tick: float, every: Sequence[float], percent: bool) -> str:
    scaled = [value * 100 for value in every] if percent else list(every)
    step = scaled[1] - scaled[0]
    if step < 1e-4:
        return f"{scaled[list(every).index(tick)]:g}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, digits) != round(step, 9):
        digits += 1
    return f"{tick * 100:.{digits}f} %" if percent else f"{tick:.{digits}f}"


def _tip(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text)


def _svg(frame: _Frame, title: str, body: Markup) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(frame.width, frame.height, title, body)


def _axes(
    frame: _Frame,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    x_title: str,
) -> Markup:
    bottom, right = frame.height - _BOTTOM, frame.width - _RIGHT
    body = Markup("")
    for value, text in y_ticks:
        body += Markup(
            '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
            '<text class="tick end" x="{3}" y="{4:.1f}">{5}</text>'
        ).format(_LEFT, right, frame.y(value), _LEFT - 6, frame.y(value) + 3.5, text)
    for value, text in x_ticks:
        body += Markup('<text class="tick mid" x="{:.1f}" y="{}">{}</text>').format(
            frame.x(value), bottom + 15, text
        )
    return body + Markup(
        '<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
        '<text class="tick mid" x="{3:.1f}" y="{4}">{5}</text>'
    ).format(_LEFT, right, bottom, (_LEFT + right) / 2, frame.height - 4, x_title)


def _dot(frame: _Frame, dot: Dot) -> Markup:
    x, color = frame.x(dot.x), dot.color % COLORS
    body = Markup("")
    if dot.y.low is not None and dot.y.high is not None:
        body = Markup(
            '<line class="bar s{0}" x1="{1:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{3:.1f}"/>'
        ).format(color, x, frame.y(dot.y.low), frame.y(dot.y.high))
    tip = _tip(f"{dot.model}, {dot.variant}: {dot.y_text} at {dot.x_text}")
    return body + Markup(
        '<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="5">{}</circle>'
    ).format(color, x, frame.y(dot.y.value), tip)


def _labels(frame: _Frame, dots: Sequence[Dot]) -> Markup:
    """Variant names beside the dots; one that would lie on another is left to the tooltip."""
    taken = [(frame.x(d.x) - 6, frame.y(d.y.value) - 6, 12.0, 12.0) for d in dots]
    body = Markup("")
    for dot in dots:
        x, y, wide = frame.x(dot.x), frame.y(dot.y.value), len(dot.variant) * _CHARACTER_PX
        for left, base, anchor in (
            (x + 9, y + 4, "start"),
            (x - 9 - wide, y + 4, "end"),
            (x + 9, y - 9, "start"),
            (x + 9, y + 17, "start"),
            (x - 9 - wide, y - 9, "end"),
            (x - 9 - wide, y + 17, "end"),
        ):
            box = (left, base - 10, wide, 13.0)
            fits = left > _LEFT and left + wide < frame.width and 10 < base < frame.height - _BOTTOM
            if fits and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                at = left if anchor == "start" else left + wide
                body += Markup('<text class="label {}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                    anchor, at, base, escape(dot.variant)
                )
                break
    return body


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
