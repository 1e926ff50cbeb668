"""Charts as inline SVG: they scale, print, follow the color scheme, and need no script.

Axes and marks are small functions that return markup; a chart is their concatenation within `svg`.
All text is escaped. Colors are the classes `s0` to `s5` of `core/page.css`, so that dark mode and
print need no change here.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from markupsafe import Markup

from core.figures import Estimate, percent, short

COLORS = 6
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34
_CHARACTER_PX = 6.2  # Of 11 px text; the width of a label is an estimate.

#: Data to pixels.
Scale: TypeAlias = Callable[[float], float]
Point: TypeAlias = tuple[float, float]
#: A value and its text.
Tick: TypeAlias = tuple[float, str]


class Axis(NamedTuple):
    """The range of an axis; `low` is above 0 on a logarithmic one."""

    low: float
    high: float
    log: bool = False

    def scale(self, start: float, stop: float) -> Scale:
        """Maps `low` to the pixel `start` and `high` to `stop`."""
        if self.log:
            line = Axis(math.log10(self.low), math.log10(self.high)).scale(start, stop)
            return lambda value: line(math.log10(value))
        span = max(self.high - self.low, 1e-12)
        return lambda value: start + (value - self.low) / span * (stop - start)


class Plot(NamedTuple):
    """A drawing area in pixels: its edges within `width` x `height`, and the scales of its axes."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x: Scale
    y: Scale


class Series(NamedTuple):
    """A line: (x, y) points in x order; by convention dashed for training."""

    name: str
    points: Sequence[Point]
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


def plot(width: int, height: int, x: Axis, y: Axis) -> Plot:
    """An empty plot with margins for ticks and the title of the x axis."""
    right, bottom = width - _RIGHT, height - _BOTTOM
    return Plot(
        *(width, height, _LEFT, right, _TOP, bottom, x.scale(_LEFT, right), y.scale(bottom, _TOP))
    )


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_title: str,
    shares: bool = False,
    mark: Tick | None = None,
) -> Markup:
    """Lines over whole numbers; empty markup where no series has a point.

    Args:
      series: the lines.
      title: text for screen readers.
      x_title: of the x axis.
      shares: y is a share of one, shown in percent.
      mark: an x value to mark with a vertical line, and its tooltip.
    """
    series = [line for line in series if line.points]
    if not series:
        return Markup("")
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    y_ticks = ticks(min(ys), min(max(ys), 1.0) if shares else max(ys))
    low, high = min(xs), max(max(xs), min(xs) + 1)
    area = plot(460, 230, Axis(low, high), Axis(y_ticks[0], y_ticks[-1]))
    whole = [tick for tick in ticks(low, high, 7) if tick == int(tick) and low <= tick <= high]
    x_labels = [(tick, f"{tick:.0f}") for tick in whole]
    body = axes(area, x_labels, tick_texts(y_ticks, shares=shares), x_title)
    if mark is not None and low <= mark[0] <= high:
        body += vertical(area, mark[0], "kept", mark[1])
    for line in series:
        body += polyline(area, line.points, line.color, dashed=line.dashed)
        x, y = line.points[-1]
        last = percent(y) if shares else short(y)
        body += circle(area, (x, y), line.color, 3, f"{line.name}, last: {last}")
    return svg(area, title, body)


def trade_off(dots: Sequence[Dot], *, title: str, x_title: str) -> Markup:
    """Shares of one with intervals against a cost on a log axis; empty markup without dots.

    Args:
      dots: one per variant.
      title: text for screen readers.
      x_title: the cost and its unit.
    """
    dots = [dot for dot in dots if dot.x > 0]
    if not dots:
        return Markup("")
    lows = [dot.y.value if dot.y.low is None else dot.y.low for dot in dots]
    highs = [dot.y.value if dot.y.high is None else dot.y.high for dot in dots]
    y_ticks = ticks(min(lows), min(1.0, max(highs)))
    x_ticks = log_ticks(min(dot.x for dot in dots), max(dot.x for dot in dots))
    # A margin at both ends, for the labels beside the dots.
    x_axis = Axis(x_ticks[0] / 10**0.06, x_ticks[-1] * 10**0.06, log=True)
    area = plot(560, 320, x_axis, Axis(y_ticks[0], y_ticks[-1]))
    body = axes(area, [(t, f"{t:g}") for t in x_ticks], tick_texts(y_ticks, shares=True), x_title)
    for dot in dots:
        if dot.y.low is not None and dot.y.high is not None:
            body += interval_bar(area, dot.x, (dot.y.low, dot.y.high), dot.color)
        tip = f"{dot.model}, {dot.variant}: {dot.y_text} at {dot.x_text}"
        body += circle(area, (dot.x, dot.y.value), dot.color, 5, tip)
    return svg(area, title, body + labels(area, [(d.x, d.y.value, d.variant) for d in dots]))


def whisker(
    estimate: Estimate | None,
    low: float,
    high: float,
    *,
    color: int = 0,
    mark: float | None = None,
) -> Markup:
    """An interval as a small bar on a scale that the rows of a table share; empty for None.

    Args:
      estimate: in [low, high].
      low: left end of the scale.
      high: right end of the scale.
      color: of the series.
      mark: a value to compare with, drawn as a vertical line.
    """
    if estimate is None:
        return Markup("")
    x = Axis(low, max(high, low + 1e-9)).scale(4, 116)
    bar = Markup("")
    if estimate.low is not None and estimate.high is not None:
        left, right = x(max(estimate.low, low)), x(min(estimate.high, high))
        bar = Markup('<rect class="reach s{}" x="{:.1f}" y="5" width="{:.1f}" height="6" rx="3"/>')
        bar = bar.format(color % COLORS, left, max(right - left, 1))
    if mark is not None:
        at = x(min(max(mark, low), high))
        bar = (
            Markup('<line class="kept" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="16"/>').format(at) + bar
        )
    return Markup(
        '<svg class="whisker" viewBox="0 0 120 16" aria-hidden="true">'
        '<line class="grid" x1="4" x2="116" y1="8" y2="8"/>{}'
        '<circle class="dot s{}" cx="{:.1f}" cy="8" r="3.5"/></svg>'
    ).format(bar, color % COLORS, x(min(max(estimate.value, low), high)))


def whisker_scale(estimates: Iterable[Estimate | None]) -> tuple[float, float]:
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


def tick_texts(values: Sequence[float], *, shares: bool = False) -> list[Tick]:
    """Evenly spaced ticks with as many digits as distinguish them.

    Args:
      values: at least two.
      shares: shares of one, shown in percent.
    """
    scaled = [value * 100 for value in values] if shares else list(values)
    step = scaled[1] - scaled[0]
    if step < 1e-4:
        return [(value, f"{text:g}") for value, text in zip(values, scaled, strict=True)]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, digits) != round(step, 9):
        digits += 1
    unit = " %" if shares else ""
    return [(v, f"{text:.{digits}f}{unit}") for v, text in zip(values, scaled, strict=True)]


def axes(area: Plot, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick], x_title: str) -> Markup:
    """A grid line per y tick, the text of all ticks, and the x axis with its title."""
    body = Markup("")
    for value, text in y_ticks:
        body += Markup(
            '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
            '<text class="tick end" x="{3}" y="{4:.1f}">{5}</text>'
        ).format(area.left, area.right, area.y(value), area.left - 6, area.y(value) + 3.5, text)
    for value, text in x_ticks:
        body += Markup('<text class="tick mid" x="{:.1f}" y="{}">{}</text>').format(
            area.x(value), area.bottom + 15, text
        )
    return body + Markup(
        '<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
        '<text class="tick mid" x="{3:.1f}" y="{4}">{5}</text>'
    ).format(
        *(area.left, area.right, area.bottom),
        *((area.left + area.right) / 2, area.height - 4, x_title),
    )


def polyline(area: Plot, points: Iterable[Point], color: int, *, dashed: bool = False) -> Markup:
    """A line through `points`."""
    path = " ".join(f"{area.x(x):.1f},{area.y(y):.1f}" for x, y in points)
    return Markup('<polyline class="line s{}{}" points="{}"/>').format(
        color % COLORS, " dashed" if dashed else "", path
    )


def circle(area: Plot, point: Point, color: int, radius: int, tip: str) -> Markup:
    """A circle with a tooltip."""
    return Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="{}">{}</circle>').format(
        color % COLORS, area.x(point[0]), area.y(point[1]), radius, _tip(tip)
    )


def dots(area: Plot, points: Iterable[Point], kind: str) -> Markup:
    """Many points as one path of strokes with round ends, a tenth of the bytes of circles.

    Args:
      area: of the chart.
      points: in any order.
      kind: classes: a color or `bad`, and `small`.
    """
    path = "".join(f"M{area.x(x):.1f} {area.y(y):.1f}h0" for x, y in points)
    return Markup('<path class="dots {}" d="{}"/>').format(kind, path)


def interval_bar(area: Plot, x: float, ends: Point, color: int) -> Markup:
    """A vertical bar at `x` from one y value to another."""
    return Markup(
        '<line class="bar s{0}" x1="{1:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{3:.1f}"/>'
    ).format(color % COLORS, area.x(x), area.y(ends[0]), area.y(ends[1]))


def vertical(area: Plot, x: float, kind: str, tip: str = "") -> Markup:
    """A line across the plot at an x value: class `kept` or `axis`."""
    return Markup(
        '<line class="{0}" x1="{1:.1f}" x2="{1:.1f}" y1="{2}" y2="{3}">{4}</line>'
    ).format(kind, area.x(x), area.top, area.bottom, _tip(tip) if tip else "")


def horizontal(area: Plot, y: float, kind: str) -> Markup:
    """A line across the plot at a y value: class `bound`."""
    return Markup('<line class="{0}" x1="{1}" x2="{2}" y1="{3:.1f}" y2="{3:.1f}"/>').format(
        kind, area.left, area.right, area.y(y)
    )


def legend(area: Plot, names: Sequence[str]) -> Markup:
    """The names of series 0, 1, ... at the top left of the plot."""
    body = Markup("")
    for number, name in enumerate(names):
        y = area.top + 10 + 15 * number
        body += Markup(
            '<line class="line s{}" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}">{}</text>'
        ).format(number % COLORS, area.left + 10, area.left + 28, y, y, area.left + 34, y + 4, name)
    return body


def labels(area: Plot, points: Sequence[tuple[float, float, str]]) -> Markup:
    """Text beside points (x, y, text); text that would cover a point or other text is left out."""
    taken = [(area.x(x) - 6, area.y(y) - 6, 12.0, 12.0) for x, y, _ in points]
    body = Markup("")
    for data_x, data_y, text in points:
        x, y, wide = area.x(data_x), area.y(data_y), len(text) * _CHARACTER_PX
        for left, base, anchor in (
            (x + 9, y + 4, "start"),
            (x - 9 - wide, y + 4, "end"),
            (x + 9, y - 9, "start"),
            (x + 9, y + 17, "start"),
            (x - 9 - wide, y - 9, "end"),
            (x - 9 - wide, y + 17, "end"),
        ):
            box = (left, base - 10, wide, 13.0)
            fits = left > area.left and left + wide < area.width and 10 < base < area.bottom
            if fits and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                body += Markup('<text class="label {}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                    anchor, left if anchor == "start" else left + wide, base, text
                )
                break
    return body


def svg(area: Plot, title: str, body: Markup) -> Markup:
    """The finished chart; `title` is its text for screen readers."""
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(area.width, area.height, title, body)


def _tip(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
