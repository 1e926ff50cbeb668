"""The confusion matrix, or the most confused pairs of many classes."""

from pathlib import Path

from markupsafe import Markup

from core import html
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.sections import Section, sections
from tfx_pipeline.report.page import confusion as described

_FOLDER = Path(__file__).parents[2]


@sections.register("confusion")
def confusion(evaluation: Evaluation) -> Section | None:
    """A heat map of up to 40 classes, and the most confused pairs."""
    found = described({"matrix": evaluation.analysis.confusion.tolist()}, evaluation.classes)
    if found is None:
        return None
    label = "Confusion matrix"
    body = html.render(_FOLDER, "confusion.html.j2", found=found, label=label)
    lead = f"{found['errors']} errors in {found['examples']} images."
    return Section("Confusion", Markup(body), 30, lead)
