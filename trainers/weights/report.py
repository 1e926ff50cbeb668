"""What starting from weights says: the mapping that was made, or why there is none."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


class WeightsError(ValueError):
    """A weights file that does not fit; the message names every tensor that is left over."""


@dataclass(frozen=True)
class Row:
    """One tensor of the file and where it went.

    Attributes:
      theirs: its name in the file; empty for a weight of ours that keeps its fresh value.
      ours: `layer/weight` of the model; empty for a tensor that is not needed.
      shape: of our weight, or of a tensor that is not needed.
      action: `copied`, `transposed`, `split`, `interpolated 14x14 to 24x24`, `head replaced`, ...
    """

    theirs: str
    ours: str
    shape: tuple[int, ...]
    action: str


@dataclass(frozen=True)
class Report:
    """A model that was started from weights.

    Attributes:
      source: what the file holds, in words.
      rows: one a tensor.
      notes: what a reader should know: a head that was replaced, another normalization.
    """

    source: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """The mapping as a table, one line a weight of the model, with source and notes around it.

        Tensors of the file that are not needed are counted, reason by reason.
        """
        cells = [
            (row.theirs or "-", row.ours, shape_text(row.shape), row.action)
            for row in self.rows
            if row.ours
        ]
        return [
            f"weights: {self.source}",
            *_columns([("in the file", "in the model", "shape", "what was done"), *cells]),
            *self._remarks(),
        ]

    def brief(self) -> list[str]:
        """As `lines`, with one line in place of the table."""
        return [f"weights: {self.summary()}", *self._remarks()]

    def _remarks(self) -> list[str]:
        unused = Counter(row.action for row in self.rows if not row.ours)
        return [
            *(f"{count} tensors of the file {action}" for action, count in unused.items()),
            *(f"note: {note}" for note in self.notes),
        ]

    def summary(self) -> str:
        """One line: how many weights were filled, how many kept fresh values."""
        filled = sum(bool(row.theirs and row.ours) for row in self.rows)
        fresh = sum(not row.theirs or row.action.startswith("head replaced") for row in self.rows)
        return f"{self.source}: {filled - _replaced(self.rows)} weights taken, {fresh} fresh"


def shape_text(shape: Iterable[int]) -> str:
    """`3x3x64x64`, or `scalar`."""
    return "x".join(str(size) for size in shape) or "scalar"


def listing(title: str, names: Iterable[str]) -> list[str]:
    """A title with its count, and every name on a line of its own; nothing for no names."""
    found = list(names)
    return [f"{title} ({len(found)}):", *(f"  {name}" for name in found)] if found else []


def _replaced(rows: Iterable[Row]) -> int:
    return sum(bool(row.theirs) and row.action.startswith("head replaced") for row in rows)


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
