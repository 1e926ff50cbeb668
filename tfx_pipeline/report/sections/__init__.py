"""Sections that the report of a run has beside its own, one file each; a plugin adds others.

    from tfx_pipeline.report.sections import RunReport, Section, run_sections

    @run_sections.register("saliency")
    def saliency(report: RunReport) -> Section | None:
        return Section("Saliency", body=..., order=50)

The name is the section's anchor in the page. They follow the confusion matrices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfx_pipeline.report.section import Section
from trainers.registry import Registry

__all__ = ["RunReport", "Section", "run_sections"]


@dataclass(frozen=True)
class RunReport:
    """A run.

    Attributes:
      summary: content of `summary.json`; any part may be missing.
      folder: of the report, with the files that the run wrote; None if it is not known.
    """

    summary: dict[str, Any]
    folder: Path | None = None


#: Anchor -> a function that returns a section, or None if it has nothing to show.
run_sections: Registry[Callable[[RunReport], Section | None]] = Registry(
    "section of a run's report", "tfx_pipeline.report.sections"
)
