"""A section of a page that a registered function adds."""

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """One section of a page.

    Attributes:
      title: heading, and entry of the navigation.
      body: HTML; see `tfx_pipeline.report.evaluation.markup` for tables and galleries.
      order: position in the page, ascending, then by name.
      lead: a sentence below the heading on what the section shows.
    """

    title: str
    body: Markup
    order: int
    lead: str | Markup = ""
