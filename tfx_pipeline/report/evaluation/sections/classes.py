"""The figures of each class against all others."""

from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.markup import Cell, Column, Row, interval_cell, table
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.analysis import MOST_CURVES, ClassFigures

_CURVES = ("roc_area", "average_precision", "sensitivity")


@sections.register("classes")
def classes(evaluation: Evaluation) -> Section:
    """One row per class; columns that no class has are left out."""
    found = evaluation.analysis.classes
    share = f"{evaluation.options.specificity * 100:g} %"
    columns = [
        Column("class"),
        Column("images", numeric=True),
        Column("recall", numeric=True, help="class-wise accuracy: share of the class's images"),
        Column("precision", numeric=True, help="share of the images predicted as this class"),
        Column("F1", numeric=True, help="harmonic mean of precision and recall"),
    ]
    with_curves = any(one.roc_area for one in found)
    if with_curves:
        columns += [
            Column("ROC area", numeric=True, help="area under the ROC curve of the class's score"),
            Column("average precision", numeric=True, help="area under precision over recall"),
            Column(f"sensitivity at {share} specificity", numeric=True),
            Column("threshold", numeric=True, help=f"lowest score with {share} specificity"),
        ]
    rows = [_row(one, with_curves) for one in found]
    lead = "Each class against all others. A column heading sorts the table."
    if with_curves:
        lead += (
            " The threshold was chosen on the other classes' images of this split, so its "
            "specificity on new images is an estimate."
        )
    elif len(found) > MOST_CURVES:
        lead += (
            f" With more than {MOST_CURVES} classes, areas are computed for the class of "
            "--positive only."
        )
    return Section("Classes", table("Classes", columns, rows, sortable=True), 20, lead)


def _row(one: ClassFigures, with_curves: bool) -> Row:
    row = [
        Cell(one.name),
        Cell(f"{one.images:,}", sort=one.images),
        interval_cell(one.recall),
        interval_cell(one.precision),
        _plain(one.f1, 3),
    ]
    if with_curves:
        row += [interval_cell(getattr(one, name)) for name in _CURVES]
        row.append(_plain(one.threshold, 4))
    return row


def _plain(value: float | None, digits: int) -> Cell:
    return interval_cell(None) if value is None else Cell(f"{value:.{digits}f}", sort=value)
