"""The sections of the evaluation page, one file each; a plugin adds others.

    from tfx_pipeline.report.evaluation.sections import Section, sections

    @sections.register("saliency")
    def saliency(evaluation: Evaluation) -> Section | None:
        return Section("Saliency", body=..., order=75)

The name is the section's anchor in the page. Orders: summary 10, classes 20, confusion 30,
slices 40, weak slices 45, fairness 50, errors 60, confused pairs 62, suspect labels 64,
near-duplicates 66, embeddings 70, calibration 80, curves 90, thresholds 100, lineage 200.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tfx_pipeline.report.section import Section
from trainers.registry import Registry

if TYPE_CHECKING:
    from tfx_pipeline.report.evaluation.context import Evaluation

__all__ = ["Section", "sections"]

#: Anchor -> a function that returns a section, or None if it has nothing to show.
sections: "Registry[Callable[[Evaluation], Section | None]]" = Registry(
    "report section", "tfx_pipeline.report.evaluation.sections"
)
