"""Charts and galleries as HTML with inline SVG: no script and no request, on screen and in print.

Jupyter and nbconvert embed the HTML of a cell's output as it is. Each output has its own styles,
those of the reports, limited to its element. Colors are light everywhere, since a notebook's theme
need not be the system's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

import core
from core import charts, figures
from core.figures import Estimate
from trainers.evaluation.stats import Interval

#: How a chart shows its figures: shares of one in percent, differences in points, plain numbers.
SHARES, POINTS, PLAIN = "shares", "points", "plain"

_WIDTH, _ROW, _TOP, _BOTTOM = 720, 22, 8, 36
_CHARACTER_PX = 6.2
_LONGEST_LABEL = 42
_RIGHT = 178
_MOST_ROWS = 40
_MEDIA = re.compile(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}")
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")


class Html:
    """HTML that Jupyter shows as the output of a cell."""

    def __init__(self, body: Markup) -> None:
        self.body = body

    def _repr_html_(self) -> str:
        return Markup('<div class="sightline"><style>{}</style>{}</div>').format(
            _styles(), self.body
        )


class Row(NamedTuple):
    """A row of `forest`: a value with its interval, and optionally a second value to mark."""

    label: str
    estimate: Estimate
    color: int = 0
    mark: float | None = None


class Tile(NamedTuple):
    """An item of a gallery: images as data URIs, empty for one that is missing, and lines below."""

    images: Sequence[str]
    lines: Sequence[str]


def interval(value: Interval | Sequence[float]) -> Estimate:
    """The value with its ends, from an interval or `[value, low, high]`."""
    return Estimate(*(value.as_list() if isinstance(value, Interval) else value))


def forest(
    rows: Sequence[Row],
    *,
    title: str,
    x_title: str,
    kind: str = SHARES,
    reference: float | None = None,
) -> Html:
    """Values with their intervals, one row each.

    Args:
      rows: from top to bottom; the chart has the first 40, and its caption states how many others
        there are.
      title: caption, and text for screen readers.
      x_title: of the axis.
      kind: `SHARES`, `POINTS` or `PLAIN`.
      reference: an x value to mark with a vertical line, e.g. 0 for differences.
    """
    shown = rows[:_MOST_ROWS]
    if not shown:
        return text(f"{title}: nothing to show")
    area, x_ticks = _forest_area(shown, reference, kind)
    body = charts.axes(area, x_ticks, (), x_title)
    for value, _ in x_ticks:
        body += charts.vertical(area, value, "grid")
    if reference is not None:
        body += charts.vertical(area, reference, "kept")
    for number, row in enumerate(shown):
        body += _forest_row(area, number + 0.5, row, kind)
    hidden = len(rows) - len(shown)
    caption = title + (f"; {hidden:,} further rows are not shown" if hidden else "")
    return _figure(charts.svg(area, title, body), caption)


def trade_off(dots: Sequence[charts.Dot], *, title: str, x_title: str) -> Html:
    """Shares of one with intervals against a cost on a log axis, with a legend of the models."""
    if not dots:
        return text(f"{title}: nothing to show")
    names = {dot.model: dot.color % charts.COLORS for dot in dots}
    keys = Markup("").join(
        Markup('<li><span class="key s{}"></span>{}</li>').format(color, name)
        for name, color in names.items()
    )
    chart = charts.trade_off(dots, title=title, x_title=x_title)
    return _figure(chart + Markup('<ul class="legend">{}</ul>').format(keys), title)


def gallery(tiles: Iterable[Tile], *, empty: str) -> Html:
    """Images with text below; the text `empty` without tiles."""
    items = [_tile(tile) for tile in tiles]
    if not items:
        return text(empty)
    return Html(Markup('<ul class="gallery">{}</ul>').format(Markup("").join(items)))


def text(sentence: str) -> Html:
    """A sentence."""
    return Html(Markup("<p>{}</p>").format(sentence))


def stacked(parts: Mapping[str, Html]) -> Html:
    """Several outputs, each below its heading."""
    return Html(
        Markup("").join(
            Markup("<h4>{}</h4>{}").format(heading, part.body) for heading, part in parts.items()
        )
    )


def _tile(tile: Tile) -> Markup:
    shots = Markup("").join(
        Markup('<img src="{}" alt="{}">').format(source, tile.lines[0] if tile.lines else "")
        if source
        else Markup('<span class="blank">no image</span>')
        for source in tile.images
    )
    lines = Markup("").join(Markup("<p>{}</p>").format(line) for line in tile.lines)
    pair = " class=pair" if len(tile.images) > 1 else ""
    return Markup('<li{}><div class="shots">{}</div>{}</li>').format(Markup(pair), shots, lines)


def _figure(chart: Markup, caption: str) -> Html:
    return Html(Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(caption, chart))


def _forest_area(
    rows: Sequence[Row], reference: float | None, kind: str
) -> tuple[charts.Plot, list[charts.Tick]]:
    ends = [end for row in rows for end in (*row.estimate, row.mark) if end is not None]
    ends += [] if reference is None else [reference]
    values = charts.ticks(min(ends), max(ends))
    if kind == SHARES:
        values = [value for value in values if -1e-9 <= value <= 1 + 1e-9]
    longest = min(max(len(row.label) for row in rows), _LONGEST_LABEL)
    left, right = round(16 + longest * _CHARACTER_PX), _WIDTH - _RIGHT
    height = _TOP + _ROW * len(rows) + _BOTTOM
    bottom = height - _BOTTOM
    x, y = charts.Axis(values[0], values[-1]), charts.Axis(0, len(rows))
    area = charts.Plot(
        *(_WIDTH, height, left, right, _TOP, bottom, x.scale(left, right), y.scale(_TOP, bottom))
    )
    if kind == POINTS:
        texts = charts.tick_texts([100 * value for value in values])
        return area, [(value, label) for value, (_, label) in zip(values, texts, strict=True)]
    return area, charts.tick_texts(values, shares=kind == SHARES)


def _forest_row(area: charts.Plot, y: float, row: Row, kind: str) -> Markup:
    value, low, high = row.estimate
    short = row.label
    if len(short) > _LONGEST_LABEL:
        short = short[: _LONGEST_LABEL - 1] + "…"
    shown = _shown(row.estimate, kind)
    body = Markup('<text class="label end" x="{}" y="{:.1f}">{}<title>{}</title></text>').format(
        area.left - 8, area.y(y) + 4, short, row.label
    )
    body += Markup('<text class="tick" x="{}" y="{:.1f}">{}</text>').format(
        area.right + 10, area.y(y) + 4, shown
    )
    if low is not None and high is not None:
        body += Markup(
            '<line class="bar s{0}" x1="{1:.1f}" x2="{2:.1f}" y1="{3:.1f}" y2="{3:.1f}"/>'
        ).format(row.color % charts.COLORS, area.x(low), area.x(high), area.y(y))
    if row.mark is not None:
        body += Markup(
            '<line class="kept" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>'
        ).format(area.x(row.mark), area.y(y) - 8, area.y(y) + 8)
    return body + charts.circle(area, (value, y), row.color, 4, f"{row.label}: {shown}")


def _shown(value: Estimate, kind: str) -> str:
    """The value and its interval as text, `97.3 % (95.0 to 98.6)`."""
    first, ends = {
        SHARES: (figures.percent, figures.percent_interval),
        POINTS: (figures.points, figures.points_interval),
    }.get(kind, (lambda one: figures.metric(one, ""), lambda one: figures.metric_interval(one, "")))
    reach = ends(value)
    return f"{first(value)} ({reach})" if reach else first(value)


@cache
def _styles() -> Markup:
    """The styles of the reports, limited to a cell's output, in light colors."""
    page = (Path(core.__file__).with_name("page.css")).read_text(encoding="utf-8")
    rules = []
    for selectors, body in _RULE.findall(_MEDIA.sub("", page)):
        parts = [part.strip() for part in selectors.split(",")]
        scoped = [".sightline" if part == ":root" else f".sightline {part}" for part in parts]
        rules.append(f"{', '.join(scoped)} {{{body}}}")
    own = Path(__file__).with_name("notebook.css").read_text(encoding="utf-8")
    return Markup("\n".join([*rules, own]))
