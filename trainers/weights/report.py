"""The report of loading weights: the mapping of all tensors."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


class WeightsError(ValueError):
    """A weights file that does not fit; the message lists all unmatched tensors."""


@dataclass(frozen=True)
class WeightsRow:
    """The mapping of one tensor.

    Attributes:
      theirs: its name in the file; empty for a weight of the model that keeps its random values.
      ours: `layer/weight` of the model; empty for an unused tensor.
      shape: shape of the weight, or of an unused tensor.
      action: `copied`, `transposed`, `split`, `interpolated 14x14 to 24x24`, `head replaced`, ...
    """

    theirs: str
    ours: str
    shape: tuple[int, ...]
    action: str


@dataclass(frozen=True)
class WeightsReport:
    """The result of filling a model from weights.

    Attributes:
      source: text about the content of the file.
      rows: one row per tensor.
      notes: notes for users, such as a replaced head or a different normalization.
    """

    source: str
    rows: tuple[WeightsRow, ...]
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """The mapping as a table with one line per weight of the model, with source and notes.

        Unused tensors of the file are counted by reason.
        """
        cells = [
            (row.theirs or "-", row.ours, shape_text(row.shape), row.action)
            for row in self.rows
            if row.ours
        ]
        return [
            f"weights: {self.source}",
            *_columns([("in the file", "in the model", "shape", "action"), *cells]),
            *self._remarks(),
        ]

    def brief(self) -> list[str]:
        """Like `lines`, with one line instead of the table."""
        return [f"weights: {self.summary()}", *self._remarks()]

    def _remarks(self) -> list[str]:
        unused = Counter(row.action for row in self.rows if not row.ours)
        return [
            *(f"{count} tensors of the file {action}" for action, count in unused.items()),
            *(f"note: {note}" for note in self.notes),
        ]

    def summary(self) -> str:
        """One line with the numbers of filled and random weights."""
        filled = sum(bool(row.theirs and row.ours) for row in self.rows)
        fresh = sum(not row.theirs or row.action.startswith("head replaced") for row in self.rows)
        return f"{self.source}: {filled - _replaced(self.rows)} weights loaded, {fresh} random"


def shape_text(shape: Iterable[int]) -> str:
    """`3x3x64x64`, or `scalar`."""
    return "x".join(str(size) for size in shape) or "scalar"


def number_list(values: Iterable[float]) -> str:
    """Numbers as in configuration keys: `127,127,127`."""
    return ",".join(f"{value:g}" for value in values)


def listing(title: str, names: Iterable[str]) -> list[str]:
    """A title with the count, and one line per name; empty without names."""
    found = list(names)
    return [f"{title} ({len(found)}):", *(f"  {name}" for name in found)] if found else []


def _replaced(rows: Iterable[WeightsRow]) -> int:
    return sum(bool(row.theirs) and row.action.startswith("head replaced") for row in rows)


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
