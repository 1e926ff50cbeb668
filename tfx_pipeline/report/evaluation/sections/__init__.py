"""The sections of the evaluation page, one file each; a plugin adds others.

    from tfx_pipeline.report.evaluation.sections import Section, sections

    @sections.register("saliency")
    def saliency(evaluation: Evaluation) -> Section | None:
        return Section("Saliency", body=..., order=85)

The name is the section's anchor in the page.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from trainers.registry import Registry

if TYPE_CHECKING:
    from tfx_pipeline.report.evaluation.context import Evaluation


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
      title: heading, and entry of the navigation.
      body: HTML; see `tfx_pipeline.report.evaluation.markup` for tables and galleries.
      order: position in the page, ascending, then by name. Sightline's own are multiples of 10:
        summary 10, classes 20, confusion 30, slices 40, fairness 50, errors 60, embeddings 70,
        calibration 80, curves 90, thresholds 100, lineage 200.
      lead: a sentence below the heading on what the section shows.
    """

    title: str
    body: Markup
    order: int
    lead: str | Markup = ""


#: Anchor -> a function that returns a section, or None if it has nothing to show.
sections: "Registry[Callable[[Evaluation], Section | None]]" = Registry(
    "report section", "tfx_pipeline.report.evaluation.sections"
)
