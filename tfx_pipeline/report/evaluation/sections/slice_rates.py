"""Areas, and precision and error rates at thresholds, of one class within each slice."""

from collections.abc import Sequence

from markupsafe import Markup

from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.markup import Cell, Column, Row, interval_cell, table
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.analysis import LEAST_IMAGES
from trainers.evaluation.slice_rates import SliceRates

_THRESHOLDS = (0.25, 0.5, 0.75)
_OPEN = 0.5
_RATES = {
    "precision": "precision",
    "recall": "recall",
    "false positive rate": "false_positive_rate",
    "false negative rate": "false_negative_rate",
}


@sections.register("slice-rates")
def slice_rates(evaluation: Evaluation) -> Section | None:
    """A table per threshold for the positive class; None without a single one."""
    found = evaluation.analysis.slice_rates
    shown = [one for one in found if one.rates]
    if not shown:
        return None
    tables = Markup("\n").join(_at(threshold, shown) for threshold in _THRESHOLDS)
    lead = (
        f"The class {shown[0].positive} against the others within each slice, with 95 % intervals. "
        "A deployed model uses one threshold for all slices. slice_thresholds.csv has the rates at "
        "0.01 to 0.99."
    )
    small = len(found) - len(shown)
    if small:
        lead += f" Slices left out because they have fewer than {LEAST_IMAGES} images: {small:,}."
    return Section("Slices by threshold", tables, 105, lead)


def _at(threshold: float, found: Sequence[SliceRates]) -> Markup:
    columns = [
        Column("slice"),
        Column("images", numeric=True),
        Column("of the class", numeric=True),
        Column("ROC area", numeric=True),
        Column("average precision", numeric=True),
        *(Column(title, numeric=True) for title in _RATES),
    ]
    label = f"Rates of slices at a threshold of {threshold:g}"
    body = table(label, columns, [_row(one, threshold) for one in found], sortable=True)
    return Markup("<details{}><summary>Threshold {:g}</summary>{}</details>").format(
        Markup(" open") if threshold == _OPEN else "", threshold, body
    )


def _row(one: SliceRates, threshold: float) -> Row:
    rates = min(one.rates, key=lambda rate: abs(rate.threshold - threshold))
    return [
        Cell(f"{one.key}={one.value}"),
        Cell(f"{one.images:,}", sort=one.images),
        Cell(f"{one.positives:,}", sort=one.positives),
        interval_cell(one.roc_area),
        interval_cell(one.average_precision),
        *(interval_cell(getattr(rates, name)) for name in _RATES.values()),
    ]
