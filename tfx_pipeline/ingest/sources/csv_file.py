"""A table of pictures: a CSV file with a column of paths, one of labels, and any of attributes.

sightline ingest csv faces/labels.csv label=gender slices=race,age --out data/faces
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from tfx_pipeline.ingest.findings import Finding
from tfx_pipeline.ingest.source import IngestError, Item, Request, Source, jobs

_LAYOUT = "a CSV file whose first line names its columns, with paths relative to it"
_SPLITS = {
    "": "",
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}


@jobs.register("csv")
def source(
    request: Request,
    *,
    file: str = "file",
    label: str = "label",
    split: str = "",
    slices: str = "",
) -> Source:
    """The pictures that a CSV file lists; classes sorted, by number where all are numbers.

    Args:
      request: the CSV file.
      file: the column of paths.
      label: the column of class names.
      split: the column of train, val or test; one called `split` is taken where there is one.
      slices: columns, with commas between, that become `slice/<column>` to evaluate by.

    Raises:
      IngestError: no such file or column, or fewer than two classes.
    """
    if request.where is None:
        raise IngestError(f"`csv` needs a file to read: {_LAYOUT}")
    path = Path(request.where).expanduser()
    if not path.is_file():
        raise IngestError(f"{path} is not a file; give {_LAYOUT}")
    keys = tuple(one.strip() for one in slices.split(",") if one.strip())
    wanted = (file, label, *keys, *([split] if split else []))
    column = split or "split"
    names, count = set(), 0
    for row in _rows(path, wanted):
        names.add(row[label])
        count += 1
    names.discard("")
    if len(names) < 2:
        raise IngestError(
            f"{path} has {len(names)} classes in its column {label!r}; it takes two or more"
        )
    numbers = all(name.isdecimal() for name in names)
    classes = tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))

    def items() -> Iterator[Item | Finding]:
        for number, row in enumerate(_rows(path, wanted), start=2):
            picture = path.parent / row[file]
            if not row[label]:
                yield Finding("label_missing", row[file], f"{path.name} line {number}")
            elif not picture.is_file():
                yield Finding("image_missing", row[file], f"{path.name} line {number}")
            else:
                yield Item(
                    name=row[file],
                    class_name=row[label],
                    split=_split(row.get(column, ""), f"{path} line {number}"),
                    path=str(picture),
                    slices={f"slice/{key}": row[key] for key in keys},
                )

    return Source(
        name=path.resolve().parent.name,
        classes=classes,
        items=items(),
        description=f"{count} lines of {path.name}",
        every_class=True,
        total=count,
    )


def _split(word: str, where: str) -> str:
    if word.lower() not in _SPLITS:
        known = ", ".join(filter(None, _SPLITS))
        raise IngestError(f"{where}: {word!r} is no split; allowed are {known}, or nothing")
    return _SPLITS[word.lower()]


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The lines after the first, as column -> text without spaces around."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            have = reader.fieldnames or []
            absent = [one for one in columns if one not in have]
            if absent:
                raise IngestError(
                    f"{path} has no column {', '.join(map(repr, absent))}, it has "
                    f"{', '.join(have)}; say which to take with file=, label=, split= and slices="
                )
            for row in reader:
                yield {key: (value or "").strip() for key, value in row.items() if key}
    except (UnicodeDecodeError, csv.Error) as error:
        raise IngestError(f"{path} is not CSV in UTF-8: {error}; save it as that") from error
