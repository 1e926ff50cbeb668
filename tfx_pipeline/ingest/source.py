"""What a data set is to the ingest job: a name, class names, and items.

A new data set is one module of this package:

    @jobs.register("pets")
    def source(folder: Path | None) -> Source:
        ...
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainers.registry import Registry


class IngestError(ValueError):
    """A source or destination that cannot be used; the message gives the remedy."""


@dataclass(frozen=True)
class Item:
    """One picture of a source, by path or by value.

    Attributes:
      name: what reports call it: a path relative to the source, unique in it.
      class_name: one of the source's classes.
      split: `train`, `validation` or `test` where the source says; empty is decided by content.
      path: where its bytes are.
      data: the bytes themselves, for sources that are not files.
    """

    name: str
    class_name: str
    split: str = ""
    path: str = ""
    data: bytes = b""


@dataclass(frozen=True)
class Source:
    """A data set to ingest.

    Attributes:
      name: the data set's name, used in reports.
      classes: class names in label order.
      items: every picture; those that turn out bad are rejected by name.
      description: where the pictures come from, in words.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    description: str


#: Ingest jobs: functions of a folder (None where none was given) that return a `Source`.
jobs: Registry[Callable[[Path | None], Source]] = Registry("ingest job", "tfx_pipeline.ingest")
