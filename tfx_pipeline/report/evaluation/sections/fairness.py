"""Rates of groups, the gaps between them, and what such figures cannot show."""

from collections.abc import Sequence

from markupsafe import Markup

from core import charts, figures
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.markup import Cell, Column, Row, absent, table
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.fairness import (
    ACCURACY,
    EQUALIZED_ODDS,
    FALSE_POSITIVE_RATE,
    LIMITS,
    OVERCONFIDENCE,
    POSITIVE_RATE,
    TRUE_POSITIVE_RATE,
    Gap,
    Group,
    minimum_note,
)
from trainers.evaluation.group_figures import GroupFigures
from trainers.evaluation.stats import Interval

# More groups than this are listed below the table unless they are compared.
_MOST_ROWS = 20
# With more tables than this, those of a positive class are folded.
_MOST_OPEN = 6
_TITLES = {
    ACCURACY: ("accuracy", "share of right predictions"),
    TRUE_POSITIVE_RATE: ("true positive rate", "share of the positive class that is found"),
    FALSE_POSITIVE_RATE: ("false positive rate", "share of the other classes called positive"),
    POSITIVE_RATE: ("predicted positive", "share of all images called positive"),
    OVERCONFIDENCE: ("overconfidence", "mean highest score minus accuracy, in points"),
}
_CRITERIA = {
    ACCURACY: "accuracy",
    TRUE_POSITIVE_RATE: "true positive rate: equal opportunity",
    FALSE_POSITIVE_RATE: "false positive rate",
    EQUALIZED_ODDS: "equalized odds, the larger of these two",
    POSITIVE_RATE: "predicted positive: demographic parity",
    OVERCONFIDENCE: "overconfidence: calibration",
}


@sections.register("fairness")
def fairness(evaluation: Evaluation) -> Section | None:
    """Groups by key and positive class; None if no groups were chosen."""
    found = evaluation.analysis.groups
    if not found:
        return None
    lead = (
        "Rates with 95 % intervals. Bars of a column are on one scale, and the dashed line is "
        "the rate of all images. Intervals of gaps hold for all groups at once, so they are wide; "
        f"gaps whose interval begins above 0 are in bold. {_sentence(minimum_note())}"
    )
    shown = [_headed(one, open_=len(found) <= _MOST_OPEN or not one.positive) for one in found]
    limits = Markup("\n").join(Markup("<li>{}</li>").format(text) for text in LIMITS)
    shown.append(Markup("<h3>What these figures cannot show</h3>\n<ul>{}</ul>").format(limits))
    return Section("Fairness", Markup("\n").join(shown), 50, lead)


def _headed(one: GroupFigures, *, open_: bool) -> Markup:
    if open_:
        return Markup("<h3>{}</h3>\n{}").format(_title(one), _of_key(one))
    return Markup("<details><summary>{}</summary>\n{}</details>").format(_title(one), _of_key(one))


def _of_key(one: GroupFigures) -> Markup:
    body = Markup("")
    many = len(one.groups) > _MOST_ROWS
    rows = [group for group in one.groups if group.compared or not many]
    if rows:
        body += _rates(one, rows)
    listed = [group for group in one.groups if not group.compared and many]
    if listed:
        names = "; ".join(f"{group.name} ({group.images:,})" for group in listed)
        body += Markup(
            "<details><summary>{} groups with too few images to be compared</summary><p>{}</p>"
            "</details>"
        ).format(f"{len(listed):,}", names)
    return body + (_gaps(one) if one.gaps else _no_gaps(one))


def _rates(one: GroupFigures, groups: Sequence[Group]) -> Markup:
    names = [name for name in _TITLES if any(name in group.rates for group in one.groups)]
    scales = {name: _scale(name, groups) for name in names}
    whole = {name: _whole(name, one.groups) for name in names}
    columns = [Column("group"), Column("images", numeric=True)]
    for name in names:
        title, meaning = _TITLES[name]
        columns.append(Column(title, numeric=True, help=meaning))
    rows: list[Row] = [
        [
            Cell(_name(group)),
            Cell(f"{group.images:,}", sort=group.images),
            *(_cell(name, group.rates.get(name), scales[name], whole[name]) for name in names),
        ]
        for group in groups
    ]
    return table(f"Groups of {_title(one)}", columns, rows, sortable=True)


def _name(group: Group) -> Markup:
    """The name, and the reason why the group is not compared on lines of normal width."""
    note = Markup('<span class="under wrap reason">{}</span>').format(group.note)
    return Markup("{}{}").format(group.name, note if group.note else "")


def _cell(
    name: str, value: Interval | None, scale: tuple[float, float], whole: float | None
) -> Cell:
    """The rate with its interval and a bar; a dash without images behind it."""
    if value is None:
        return Cell(figures.DASH, "no image", tone="soft")
    ends = value.as_list()
    signed = name == OVERCONFIDENCE
    text = figures.points(ends) if signed else figures.percent(ends)
    under = figures.points_interval(ends) if signed else figures.percent_interval(ends)
    bar = charts.whisker(figures.estimate(ends), *scale, mark=whole)
    return Cell(Markup("{}{}").format(text, bar), under, value.value)


def _scale(name: str, groups: Sequence[Group]) -> tuple[float, float]:
    found = [figures.estimate(g.rates[name].as_list()) for g in groups if name in g.rates]
    return charts.whisker_scale(found)


def _whole(name: str, groups: Sequence[Group]) -> float | None:
    """The rate over the images of all groups."""
    images = sum(group.counts.get(name, 0) for group in groups)
    hits = sum(
        group.counts[name] * group.rates[name].value for group in groups if name in group.rates
    )
    return hits / images if images else None


def _gaps(one: GroupFigures) -> Markup:
    shown = [gap for name in _CRITERIA for gap in one.gaps if gap.rate == name]
    scale = (0.0, charts.whisker_scale([figures.estimate(g.size.as_list()) for g in shown])[1])
    columns = [
        Column("gap"),
        Column("points", numeric=True, help="highest minus lowest rate, with a 95 % interval"),
        Column(""),
        Column("highest"),
        Column("lowest"),
        Column("groups compared", numeric=True),
    ]
    return table(
        f"Gaps of {_title(one)}", columns, [_gap_row(gap, scale, len(one.groups)) for gap in shown]
    )


def _gap_row(gap: Gap, scale: tuple[float, float], groups: int) -> Row:
    size = gap.size
    interval = f"{100 * size.low:.1f} to {100 * size.high:.1f}"
    return [
        Cell(_CRITERIA[gap.rate]),
        Cell(f"{100 * size.value:.1f}", interval, tone="strong" if size.low > 0 else ""),
        Cell(charts.whisker(figures.estimate(size.as_list()), *scale)),
        *map(Cell, (gap.highest, gap.lowest) if gap.differs else (figures.DASH, figures.DASH)),
        Cell(f"{gap.compared:,} of {groups:,}"),
    ]


def _no_gaps(one: GroupFigures) -> Markup:
    if len(one.groups) == 1:
        return absent(f"All images are of one group, {one.groups[0].name}: there is no gap.")
    return absent("Fewer than two groups have enough images: no gap is computed.")


def _title(one: GroupFigures) -> str:
    return f"{one.key}, positive class {one.positive}" if one.positive else one.key


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
