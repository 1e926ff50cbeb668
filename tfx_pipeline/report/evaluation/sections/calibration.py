"""The calibration curve and the temperature."""

from markupsafe import Markup

from core import figures
from core.charts import Series
from core.unit_charts import Mark, unit_chart
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.findings import temperature
from tfx_pipeline.report.evaluation.markup import Cell, Column, interval_cell, table
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.curves import CalibrationBin


@sections.register("calibration")
def calibration(evaluation: Evaluation) -> Section:
    """Accuracy by confidence, with intervals."""
    found = evaluation.analysis
    most = max(one.images for one in found.calibration)
    marks = [_mark(one, most) for one in found.calibration]
    line = Series("model", [(one.x, one.y) for one in marks])
    chart = unit_chart(
        [line],
        title="Accuracy by confidence",
        axis_titles=("confidence: highest score", "accuracy"),
        marks=marks,
        diagonal=True,
    )
    columns = (
        Column("confidence"),
        Column("images", numeric=True),
        Column("mean confidence", numeric=True),
        Column("accuracy", numeric=True),
    )
    rows = [
        (
            f"{one.low * 100:.1f} to {one.high * 100:.1f} %",
            Cell(f"{one.images:,}", sort=one.images),
            Cell(f"{one.confidence * 100:.1f} %", sort=one.confidence),
            interval_cell(one.accuracy),
        )
        for one in found.calibration
    ]
    text = temperature(found)
    body = Markup(
        '<div class="grid2"><figure><figcaption>A calibrated model is on the dashed line; below '
        "it, the model is too confident. Bars are 95 % intervals; larger dots have more images."
        "</figcaption>{}</figure><div>{}</div></div>"
    ).format(chart, table("Calibration bins", columns, rows))
    ece = figures.percent(found.metrics["ece"].as_list()) if "ece" in found.metrics else ""
    lead = f"{text[0].upper()}{text[1:]}." + (f" Expected calibration error: {ece}." if ece else "")
    return Section("Calibration", body, 80, lead)


def _mark(one: CalibrationBin, most: int) -> Mark:
    share = figures.percent(one.accuracy.as_list())
    tip = f"{one.images:,} images: confidence {one.confidence * 100:.1f} %, accuracy {share}"
    ends = (one.accuracy.low, one.accuracy.high)
    radius = 3 + round(5 * (one.images / most) ** 0.5)
    return Mark(one.confidence, one.accuracy.value, *ends, radius, tip)
