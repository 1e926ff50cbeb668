"""The study's own figures: `figures.csv`, or a file of the user.

A row has table, row, column, value, unit and source. Only figures whose source is known are in the
file; a figure that is not in it is "not at hand", and no verdict is based on it.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfx_pipeline.study.sets import CORE, ROLES, SPARSITIES, StudyError
from trainers.registry import nearest

BUNDLED = Path(__file__).with_name("figures.csv")
NOT_AT_HAND = "not at hand"
_FIELDS = ("table", "row", "column", "value", "unit", "source")
_PRUNED = tuple(f"prune{one * 100:.0f}" for one in SPARSITIES)
_OTHERS = ("alexnet", "googlenet")
#: Table -> its rows and columns; the columns of `classes` are the classes of the data.
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "accuracy": (ROLES, ("top1", "top5", "macro_precision", "macro_recall", "macro_f1")),
    "speed": (CORE, ("fps", "latency_ms", "label_fps", "label_ms")),
    "loss": (CORE, ("start", "end")),
    "cost": ((*ROLES, *_OTHERS), ("gflop", "parameters_m")),
    "classes": (CORE, ()),
    "inference": (ROLES, ("latency_ms",)),
    "intervals": ((*CORE, "all"), ("top1", "resamples")),
    "tests": (("resnet-cnn", "vit-cnn", "vit-resnet", "all"), ("p_value", "alpha")),
    "outlook": (
        ("hybrid", "distilled", *_PRUNED, "qat", "ptq_int8", "ptq_dynamic"),
        ("difference", "size_ratio", "latency_ms", "sparsity"),
    ),
}
_FRACTION = "fraction"
#: Column -> unit of its values, which verdicts compare with this project's.
UNITS = {
    **dict.fromkeys(("top1", "top5", "macro_precision", "macro_recall", "macro_f1"), _FRACTION),
    **{"sparsity": _FRACTION, "fps": "images/s", "label_fps": "images/s", "latency_ms": "ms"},
    **{"label_ms": "ms", "start": "nats", "end": "nats", "gflop": "GFLOP"},
    **{"parameters_m": "million", "resamples": "resamples", "p_value": "p-value"},
    **{"alpha": "p-value", "difference": "points", "size_ratio": "ratio"},
}


@dataclass(frozen=True)
class StudyFigure:
    """A figure of the study.

    Attributes:
      value: in `unit`.
      unit: `fraction` for shares of one.
      source: where it was read.
      digits: as the file spells it; the last one decides its rounding.
    """

    value: float
    unit: str
    source: str
    digits: str


class Figures:
    """The figures of a file, by table, row and column."""

    def __init__(self, found: dict[tuple[str, str, str], StudyFigure]) -> None:
        self._found = found

    def get(self, table: str, row: str, column: str) -> StudyFigure | None:
        """The figure; None if it is not at hand."""
        return self._found.get((table, row, column))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._found)


def load_figures(path: Path) -> Figures:
    """The figures of a CSV file.

    Raises:
      StudyError: the file is missing or no such table; names the line, and the nearest names for a
        table, row or column that does not exist.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StudyError(f"--figures {path} cannot be read: {error}") from None
    if not rows or tuple(rows[0]) != _FIELDS:
        raise StudyError(
            f"--figures {path}: the first line must be {','.join(_FIELDS)}, got "
            f"{','.join(rows[0]) if rows else 'an empty file'}"
        )
    found: dict[tuple[str, str, str], StudyFigure] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        where = f"--figures {path}, line {number}"
        key, figure = _parsed(row, where)
        if key in found:
            raise StudyError(f"{where}: {', '.join(key)} is given twice; keep one")
        found[key] = figure
    return Figures(found)


def _parsed(row: Sequence[str], where: str) -> tuple[tuple[str, str, str], StudyFigure]:
    if len(row) != len(_FIELDS):
        raise StudyError(f"{where}: {len(row)} values, expected {len(_FIELDS)}")
    table, name, column, value, unit, source = (part.strip() for part in row)
    if table not in TABLES:
        raise StudyError(f"{where}: no table {table!r}; {nearest(table, list(TABLES))}")
    names, columns = TABLES[table]
    if name not in names:
        raise StudyError(
            f"{where}: the table {table} has no row {name!r}; {nearest(name, list(names))}"
        )
    if columns and column not in columns:
        raise StudyError(
            f"{where}: the table {table} has no column {column!r}; {nearest(column, list(columns))}"
        )
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise StudyError(f"{where}: {value!r} is not a number; leave out figures without a value")
    # The columns of `classes` are classes.
    wanted = UNITS[column] if columns else _FRACTION
    if unit != wanted:
        raise StudyError(
            f"{where}: {column} is in {unit or 'no unit'}, and must be in {wanted}: convert the "
            "value" + (", one multiply-add is two FLOPs" if wanted == "GFLOP" else "")
        )
    if wanted in (_FRACTION, "p-value") and not 0 <= number <= 1:
        raise StudyError(f"{where}: {column} is {value}, and a {wanted} is from 0 to 1")
    if not source:
        raise StudyError(f"{where}: no source; name where the figure was read")
    return (table, name, column), StudyFigure(number, unit, source, value)
