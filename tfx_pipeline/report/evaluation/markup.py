"""Tables and galleries of the evaluation page. All text is escaped unless it is `Markup`."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from markupsafe import Markup

from core import figures
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.shots import Shot, shot_list
from trainers.evaluation.stats import Interval

#: More rows than this get a filter.
_FILTERED = 20


class Column(NamedTuple):
    """A column of a table.

    Attributes:
      title: heading.
      numeric: aligned to the right.
      help: what the figure is, shown with the heading.
    """

    title: str
    numeric: bool = False
    help: str = ""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
      text: main text.
      under: small text below, such as an interval.
      sort: value by which the column is sorted; None sorts by text, and is last among numbers.
      tone: classes: `good`, `warn`, `bad`, `soft` or none.
      span: number of columns that it covers, in the last cell of a row.
    """

    text: str | Markup
    under: str = ""
    sort: float | None = None
    tone: str = ""
    span: int = 1


Row: TypeAlias = Sequence[Cell | str]


def table(
    label: str,
    columns: Sequence[Column],
    rows: Iterable[Row],
    *,
    sortable: bool = False,
) -> Markup:
    """A table that scrolls within its region; the first cell of a row is its heading.

    Args:
      label: of the table, for screen readers; unique in the page.
      columns: from left to right.
      rows: as many cells as columns each, unless the last spans columns.
      sortable: headings become buttons that sort, and a table of more than 20 rows gets a filter.
    """
    lines = list(rows)
    head = Markup("").join(_heading(column, sortable) for column in columns)
    body = Markup("\n").join(_row(columns, cells) for cells in lines)
    find = Markup("")
    if sortable and len(lines) > _FILTERED:
        find = Markup(
            '<label class="filter" hidden>Filter <input type="search" aria-label="Filter {}">'
            "<output></output></label>\n"
        ).format(label)
    kind = "sortable" if sortable else ""
    return Markup(
        '<div class="filtered">{}<div class="scroll" tabindex="0" role="region" aria-label="{}">'
        '<table class="{}"><thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody></table></div></div>'
    ).format(find, label, kind, head, body)


def interval_cell(value: Interval | None) -> Cell:
    """A share in percent with its 95 % interval below; a dash for None."""
    return Cell(figures.DASH, tone="soft") if value is None else metric_cell(value)


def metric_cell(value: Interval, unit: str = figures.FRACTION) -> Cell:
    """A metric with its 95 % interval below, in its unit."""
    ends = value.as_list()
    return Cell(figures.metric(ends, unit), figures.metric_interval(ends, unit), value.value)


def absent(text: str) -> Markup:
    """A note where there is nothing to show."""
    return Markup('<p class="absent">{}</p>').format(text)


def gallery(evaluation: Evaluation, images: Iterable[tuple[int, str, str]]) -> Markup:
    """Thumbnails with captions.

    Args:
      evaluation: of the page.
      images: position in the predictions, a heading such as `cat, predicted dog`, and a detail such
        as a score.
    """
    shots = []
    for position, heading, detail in images:
        image_id = str(evaluation.model.ids[position])
        source = evaluation.thumbnails.source(image_id)
        name = evaluation.files.get(image_id, "") or image_id[:12]
        shots.append(Shot(source, evaluation.thumbnails.reason(image_id), heading, detail, name))
    return shot_list(shots)


def _heading(column: Column, sortable: bool) -> Markup:
    kind = Markup(' class="num"') if column.numeric else Markup("")
    tip = Markup(' title="{}"').format(column.help) if column.help else Markup("")
    text = Markup('<button type="button">{}</button>') if sortable else Markup("{}")
    return Markup('<th scope="col"{}{}>{}</th>').format(kind, tip, text.format(column.title))


def _row(columns: Sequence[Column], cells: Row) -> Markup:
    parts = [
        _cell(column, cell if isinstance(cell, Cell) else Cell(cell), first=not index)
        for index, (column, cell) in enumerate(zip(columns, cells, strict=False))
    ]
    return Markup("<tr>{}</tr>").format(Markup("").join(parts))


def _cell(column: Column, cell: Cell, *, first: bool) -> Markup:
    kind = " ".join(
        filter(None, ["wrap" if first else "", "num" if column.numeric else "", cell.tone])
    )
    if cell.span > 1:
        kind = cell.tone
    span = Markup(' colspan="{}"').format(cell.span) if cell.span > 1 else ""
    sort = Markup("") if cell.sort is None else Markup(' data-sort="{:.6g}"').format(cell.sort)
    under = Markup('<span class="under">{}</span>').format(cell.under) if cell.under else ""
    name, scope = ("th", Markup(' scope="row"')) if first else ("td", Markup(""))
    return Markup('<{}{} class="{}"{}{}>{}{}</{}>').format(
        name, scope, kind, span, sort, cell.text, under, name
    )
