"""A CSV file with a column of image paths, a column of labels, and optional attributes.

sightline ingest csv faces/labels.csv label=gender slices=race,age --out data/faces

Columns are separated by commas, semicolons, tabs or bars, as in the first line; the text is UTF-8
or UTF-16.
"""

import contextlib
import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tfx_pipeline.ingest.class_names import (
    check_names,
    class_name,
    is_number,
    name_fault,
    sorted_names,
)
from tfx_pipeline.ingest.file_names import Finder, with_slashes
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.source import IngestError, Item, Request, Source, jobs
from tfx_pipeline.ingest.split_words import known_words, split_of_word
from tfx_pipeline.ingest.text_files import check_text, encoding_of_file

_LAYOUT = "a CSV file whose first line has the column names, with paths relative to the file"
_DELIMITERS = (",", ";", "\t", "|")
_EXCEL_HINT = "sep="
# Text that programs write for a missing value.
_NO_LABEL = ("nan", "na", "n/a", "none", "null", "?", "<na>")
# Common other names of the required columns, for the message.
_SYNONYMS = {
    "file": "filename file_name filepath file_path path image image_path image_name id image_id",
    "label": "class class_name category target y breed species labels",
}


@dataclass(frozen=True)
class _Table:
    """The format and column names of a CSV file."""

    path: Path
    encoding: str
    delimiter: str
    columns: tuple[str, ...]
    hinted: bool


@jobs.register("csv")
def source(
    request: Request,
    *,
    file: str = "file",
    label: str = "label",
    split: str = "",
    slices: str = "",
) -> Source:
    """The images in a CSV file; classes are sorted, numerically if all are numbers.

    Args:
      request: the CSV file; its `group` may name columns.
      file: the column of paths.
      label: the column of class names.
      split: the column of train, val or test; by default `split`, if it exists.
      slices: comma-separated columns that become `slice/<column>`, to slice the evaluation by.

    Raises:
      IngestError: no such file or column, an invalid column or class name, or fewer than two
        classes.
    """
    if request.where is None:
        raise IngestError(f"`csv` needs a file to read: {_LAYOUT}")
    path = Path(request.where).expanduser()
    if not path.is_file():
        raise IngestError(f"{path} is not a file; expected {_LAYOUT}")
    keys = tuple(one.strip() for one in slices.split(",") if one.strip())
    table = _table(path, (file, label, *keys, *([split] if split else [])))
    column = split or next((one for one in table.columns if one.lower() == "split"), "split")
    names, count = set(), 0
    for line, row in _rows(table):
        names.add(_label(row[label], path, line))
        count += 1
    names.discard("")
    absent = _absent(names)
    names -= absent
    if len(names) < 2:
        raise IngestError(
            f"{path} has {len(names)} classes in its column {label!r}; at least two are needed"
        )
    classes = sorted_names(names, f"{path} column {label!r}")
    check_names(classes, f"{path} column {label!r}", typed=True)
    groups = request.group_columns(table.columns)

    finder = Finder(path.parent)

    def items() -> Iterator[Item | IngestFinding]:
        for line, row in _rows(table):
            name, where = with_slashes(row[file]), f"{path.name} line {line}"
            if not row[label] or row[label] in absent:
                said = f": its label is {row[label]!r}" if row[label] else ""
                yield IngestFinding("label_missing", name, f"{where}{said}")
                continue
            image = finder.find(row[file]) if row[file] else None
            if image is None:
                yield IngestFinding(
                    "image_missing", name, f"{where}: {path.parent / name} does not exist"
                )
                continue
            yield Item(
                name=name,
                class_name=class_name(row[label]),
                split=_split(row.get(column, ""), f"{path} line {line}"),
                path=str(image),
                group="/".join(row[key] for key in groups),
                slices={f"slice/{key}": row[key] for key in keys},
                findings=_spelling_note(path.parent, name, row[file], image),
            )

    return Source(
        name=path.resolve().parent.name,
        classes=classes,
        items=items(),
        description=f"{count} lines of {path.name}",
        every_class=True,
        total=count,
    )


def _absent(names: set[str]) -> set[str]:
    """Labels that mean a missing label: `nan` and the like among numbers."""
    words = {one for one in names if one.lower() in _NO_LABEL}
    others = names - words
    return words if others and all(is_number(one) for one in others) else set()


def _spelling_note(folder: Path, name: str, written: str, image: Path) -> tuple[IngestFinding, ...]:
    """The note about an image whose path differs from the spelling in the table."""
    if image in [folder / one for one in (written, with_slashes(written))]:
        return ()
    return (IngestFinding("spelling_differs", name, f"{written} is {image}"),)


def _label(text: str, path: Path, line: int) -> str:
    if text and (fault := name_fault(class_name(text))):
        raise IngestError(f"{path} line {line}: {fault}")
    return class_name(text)


def _split(word: str, where: str) -> str:
    if not word:
        return ""
    split = split_of_word(word)
    if split is None:
        raise IngestError(
            f"{where}: unknown split {word!r}; use one of {known_words()}, or an empty cell"
        )
    return split


def _table(path: Path, wanted: tuple[str, ...]) -> _Table:
    """The format by the separator that yields the required columns, otherwise the most columns."""
    encoding = encoding_of_file(path)
    best: _Table | None = None
    for delimiter in _DELIMITERS:
        columns, hinted = _header(path, encoding, delimiter)
        found = _Table(path, encoding, delimiter, columns, hinted)
        if set(wanted) <= set(columns):
            best = found
            break
        if best is None or len(columns) > len(best.columns):
            best = found
    assert best is not None
    twice = [name for name, count in Counter(best.columns).items() if count > 1 and name]
    if twice:
        raise IngestError(f"{path} has the column {twice[0]!r} twice; rename or remove one")
    absent = [one for one in wanted if one not in best.columns]
    if absent:
        raise IngestError(
            f"{path} has no column {', '.join(map(repr, absent))}, it has "
            f"{', '.join(best.columns) or 'nothing'}; {_advice(absent, best.columns)} (columns are "
            "separated by commas, semicolons, tabs or bars)"
        )
    return best


def _advice(absent: list[str], columns: tuple[str, ...]) -> str:
    """The remedy: options for the columns, with an example if their names suggest one."""
    options = []
    for one in absent:
        words = (one, *_SYNONYMS.get(one, "").split())
        found = [name for name in columns if name.lower().replace(" ", "_") in words]
        options += [f"{one}={found[0]}"] if len(found) == 1 and one in _SYNONYMS else []
    example = f", e.g. {' '.join(options)}" if options else ""
    return f"choose the columns with file=, label=, split= and slices={example}"


def _header(path: Path, encoding: str, delimiter: str) -> tuple[tuple[str, ...], bool]:
    """The names of the columns, and whether they follow a line such as Excel's `sep=;`."""
    with _reading(path, encoding) as lines:
        reader = csv.reader(lines, delimiter=delimiter)
        first, hinted = next(reader, []), False
        if first and "".join(first).lower().startswith(_EXCEL_HINT):
            first, hinted = next(reader, []), True
    return tuple(one.strip() for one in first), hinted


@contextlib.contextmanager
def _reading(path: Path, encoding: str) -> Iterator[Iterator[str]]:
    """The open table; errors in its text or quoting are raised as IngestError."""
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield _checked(file)
    except (UnicodeError, csv.Error) as error:
        check_text(path)
        raise IngestError(
            f"{path} is not valid CSV: {error}; check for an unclosed quote"
        ) from error


def _checked(lines: Iterable[str]) -> Iterator[str]:
    """`lines`, checked for NUL, which Python's reader accepts from version 3.11."""
    for line in lines:
        if "\0" in line:
            raise csv.Error("line contains NUL")
        yield line


def _rows(table: _Table) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, column -> stripped text) of the lines after the first."""
    with _reading(table.path, table.encoding) as lines:
        reader = csv.reader(lines, delimiter=table.delimiter)
        for _ in range(1 + table.hinted):
            next(reader, None)
        end = reader.line_num
        for cells in reader:
            # A quoted cell may span several lines.
            line, end = end + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            more = [cell for cell in cells[len(table.columns) :] if cell.strip()]
            if more:
                raise IngestError(
                    f"{table.path} line {line} has {len(cells)} cells for "
                    f"{len(table.columns)} columns; put cells that contain {table.delimiter!r} in "
                    "double quotes"
                )
            cells += [""] * (len(table.columns) - len(cells))
            yield (
                line,
                {key: cell.strip() for key, cell in zip(table.columns, cells, strict=False) if key},
            )


def columns(path: Path, *, file: str = "file", label: str = "label") -> dict[str, list[str]]:
    """Column -> its values of a table with the columns `file` and `label`.

    Raises:
      IngestError: the file is not a table with these columns.
    """
    table = _table(path, (file, label))
    rows = [row for _, row in _rows(table)]
    return {name: [row[name] for row in rows] for name in table.columns if name}
