"""Charts of shares against shares: both axes from 0 to 100 %."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from core.charts import Axis, Plot, Point, Series, Tick, axes, circle, interval_bar, plot, polyline
from core.charts import svg as drawn

_WIDTH, _HEIGHT = 430, 340
_TICKS: Sequence[Tick] = [(step / 5, f"{step * 20} %") for step in range(6)]


class Mark(NamedTuple):
    """A point with a vertical interval.

    Attributes:
      x: share in [0, 1].
      y: share in [0, 1].
      low: end of the interval.
      high: end of the interval.
      radius: in pixels.
      tip: tooltip.
    """

    x: float
    y: float
    low: float
    high: float
    radius: int
    tip: str


def unit_chart(
    series: Sequence[Series],
    *,
    title: str,
    axis_titles: tuple[str, str],
    marks: Sequence[Mark] = (),
    diagonal: bool = False,
) -> Markup:
    """Lines and points within [0, 1] x [0, 1]; empty markup without any.

    Args:
      series: lines; points that fall on the same pixel are drawn once.
      title: text for screen readers.
      axis_titles: of the x and the y axis.
      marks: points with intervals, in the color of the first series.
      diagonal: draw the line y = x.
    """
    if not marks and not any(line.points for line in series):
        return Markup("")
    unit = Axis(0.0, 1.0)
    area = plot(_WIDTH, _HEIGHT, unit, unit)
    body = axes(area, _TICKS, _TICKS, axis_titles[0])
    body += Markup('<text class="tick start" x="{}" y="{}">{}</text>').format(
        area.left, area.top - 4, axis_titles[1]
    )
    if diagonal:
        body += Markup('<line class="kept" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            area.left, area.right, area.bottom, area.top
        )
    for line in series:
        body += polyline(area, _visible(area, line.points), line.color, dashed=line.dashed)
    for mark in marks:
        body += interval_bar(area, mark.x, (mark.low, mark.high), 0)
        body += circle(area, (mark.x, mark.y), 0, mark.radius, mark.tip)
    return drawn(area, title, body)


def _visible(area: Plot, points: Iterable[Point]) -> Iterator[Point]:
    """The points without those at the same half pixel as the one before; the last is kept."""
    before, last = None, None
    for point in points:
        last = point
        pixel = (round(2 * area.x(point[0])), round(2 * area.y(point[1])))
        if pixel != before:
            before, last = pixel, None
            yield point
    if last is not None:
        yield last
