"""Metrics of slices and crosses, one table per key."""

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from core import charts, figures
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.markup import Cell, Column, Row, metric_cell, table
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.analysis import LEAST_IMAGES, Analysis, SliceFigures
from trainers.evaluation.metrics import metric_facts

# Slices with too few images are rows of a table of up to this many, and a list below others.
_MOST_ROWS = 20
_FEW = f"fewer than {LEAST_IMAGES} images"


@sections.register("slices")
def slices(evaluation: Evaluation) -> Section | None:
    """Each slice value; those with too few images have no figures."""
    found = evaluation.analysis
    if not found.slices:
        return None
    scale = charts.whisker_scale([_top1(one) for one in found.slices if one.metrics])
    tables = [
        _of_key(key, list(values), found, scale)
        for key, values in groupby(found.slices, key=lambda one: one.key)
    ]
    ends = " to ".join(f"{end * 100:g}" for end in scale)
    lead = (
        f"With 95 % intervals. All bars are on one scale, {ends} %; the dashed line is top-1 on "
        f"all images, {figures.percent(found.metrics['top1'].as_list())}. Slices with {_FEW} have "
        "no figures, because their intervals would say little."
    )
    return Section("Slices", Markup("\n").join(tables), 40, lead)


def _of_key(
    key: str, found: Sequence[SliceFigures], whole: Analysis, scale: tuple[float, float]
) -> Markup:
    facts = metric_facts(len(whole.classes))
    small = [one for one in found if not one.metrics]
    listed = small if len(found) > _MOST_ROWS else []
    shown = [one for one in found if one.metrics or not listed]
    columns = [Column("value"), Column("images", numeric=True), Column("top-1", numeric=True)]
    columns.append(Column(""))
    others = [name for name in facts if name != "top1"]
    columns += [Column(facts[name]["title"], numeric=True) for name in others]
    rows = [
        _row(one, [(name, facts[name]["unit"]) for name in others], whole, scale) for one in shown
    ]
    body = Markup("<h3>{}</h3>\n").format(key)
    if any(one.metrics for one in shown) or not listed:
        body += table(f"Slices by {key}", columns, rows, sortable=True)
    if listed:
        names = "; ".join(f"{one.value} ({one.images:,})" for one in listed)
        body += Markup("<details><summary>{} values with {}</summary><p>{}</p></details>").format(
            f"{len(listed):,}", _FEW, names
        )
    return body


def _row(
    one: SliceFigures,
    others: Sequence[tuple[str, str]],
    whole: Analysis,
    scale: tuple[float, float],
) -> Row:
    first = [Cell(one.value), Cell(f"{one.images:,}", sort=one.images)]
    if not one.metrics:
        return [*first, Cell(_FEW, tone="soft few", span=2 + len(others))]
    bar = charts.whisker(_top1(one), *scale, mark=whole.metrics["top1"].value)
    cells = [metric_cell(one.metrics[name], unit) for name, unit in others]
    return [*first, metric_cell(one.metrics["top1"]), Cell(bar), *cells]


def _top1(one: SliceFigures) -> figures.Estimate | None:
    return figures.estimate(one.metrics["top1"].as_list())
