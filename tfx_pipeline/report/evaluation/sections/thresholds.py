"""Precision and error rates at thresholds of a class's score."""

from markupsafe import Markup

from core.charts import Series
from core.unit_charts import unit_chart
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.markup import Cell, Column, interval_cell, table
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.curves import Rates

_SHOWN = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_RATES = {
    "precision": "precision",
    "recall": "recall",
    "false positive rate": "false_positive_rate",
    "false negative rate": "false_negative_rate",
}
_DRAWN = ("precision", "recall", "false positive rate")


@sections.register("thresholds")
def thresholds(evaluation: Evaluation) -> Section | None:
    """A table and a chart for each positive class."""
    found = evaluation.analysis.thresholds
    if not found:
        return None
    parts = [_of_class(name, rates, is_open=len(found) == 1) for name, rates in found.items()]
    lead = (
        "An image counts as the class if the class's score reaches the threshold. Choose a "
        "threshold on the validation split, and read its rates on the test split. All thresholds "
        "from 0.01 to 0.99 are in thresholds.csv."
    )
    return Section("Thresholds", Markup("\n").join(parts), 100, lead)


def _of_class(name: str, rates: list[Rates], *, is_open: bool) -> Markup:
    columns = [Column("threshold"), *(Column(title, numeric=True) for title in _RATES)]
    rows = [
        (f"{one.threshold:.2f}", *(_cell(one, key) for key in _RATES.values()))
        for one in rates
        if one.threshold in _SHOWN
    ]
    chart, legend = _chart(name, rates) if is_open else (Markup(""), Markup(""))
    return Markup(
        '<details{}><summary>{}</summary><div class="grid2">'
        "<div>{}</div><div>{}{}</div></div></details>"
    ).format(
        Markup(" open") if is_open else "",
        f"Positive class: {name}",
        table(f"Thresholds of {name}", columns, rows),
        chart,
        legend,
    )


def _cell(one: Rates, key: str) -> Cell:
    return interval_cell(getattr(one, key))


def _chart(name: str, rates: list[Rates]) -> tuple[Markup, Markup]:
    series = []
    for color, title in enumerate(_DRAWN):
        values = [(one.threshold, getattr(one, _RATES[title])) for one in rates]
        points = [(at, value.value) for at, value in values if value is not None]
        series.append(Series(title, points, color))
    chart = unit_chart(
        series, title=f"Rates of {name} by threshold", axis_titles=("threshold", "rate")
    )
    items = [
        Markup('<li><span class="key s{}"></span>{}</li>').format(one.color, one.name)
        for one in series
    ]
    return chart, Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))
