"""Sections of a page that registered functions add."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from trainers.registry import Registry

T = TypeVar("T")


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


def registered(
    sections: "Registry[Callable[[T], Section | None]]", page: T, only: Sequence[str] = ()
) -> list[tuple[str, Section]]:
    """Anchor and section of each function that has something to show, in order.

    Args:
      sections: functions of the page.
      page: what they show.
      only: anchors, in their order; empty is all sections.

    Raises:
      ValueError: a function returned something else; names it.
    """
    found = []
    for anchor in only or sections.names():
        section = sections.get(anchor)(page)
        if section is None:
            continue
        if not isinstance(section, Section):
            raise ValueError(
                f"{sections.kind} {anchor!r} ({sections.origin(anchor)}) must return a Section or "
                f"None, got {section!r}"
            )
        found.append((anchor, section))
    return found if only else sorted(found, key=lambda item: (item[1].order, item[0]))
