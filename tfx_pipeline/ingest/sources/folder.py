"""A folder of pictures: `DIR/class/*` or `DIR/split/class/*`.

Splits are folders called train, val, validation or test. One that is absent is filled from train,
by content: `train/` and `test/` give a validation split too, and `DIR/class/*` all three. Files
lie at any depth below their class. Hidden ones (`.DS_Store`, `.ipynb_checkpoints/`) are passed
over, links are followed, and every other file becomes a record or a named rejection.
"""

from collections.abc import Iterator
from pathlib import Path

from tfx_pipeline.ingest.archives import members
from tfx_pipeline.ingest.source import IngestError, Item, Request, Source, jobs

_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_LAYOUT = "put pictures into DIR/<class>/*.jpg or DIR/<train|validation|test>/<class>/*.jpg"


@jobs.register("folder")
def source(request: Request, *, validation: float = 0.25, test: float = 0.2) -> Source:
    """The pictures below a folder; classes sorted, by number where all names are numbers.

    Args:
      request: of the job.
      validation: the part of the training pictures that fills an absent validation split.
      test: the part of all pictures that fills an absent test split, before that.

    Raises:
      IngestError: a part that is not in (0, 1), no such folder, no class folders, one class only,
        split folders without `train` or beside other folders, or no files.
    """
    for option, part in (("validation", validation), ("test", test)):
        if not 0 < part < 1:
            raise IngestError(f"folder option {option} must be in (0, 1), got {part}; e.g. 0.1")
    folder = request.folder(_LAYOUT)
    roots = _split_roots(folder)
    classes = _classes(folder, list(roots.values()))
    count = sum(1 for root in roots.values() for one in classes for _ in _files(root / one))
    if not count:
        raise IngestError(f"{folder} has {len(classes)} class folders but no file; {_LAYOUT}")
    name = folder.resolve().name
    return Source(
        name,
        classes,
        _items(folder, roots, classes),
        description=f"{count} files of folder {name}",
        every_class=True,
        total=count,
        fractions=((1 - validation) * (1 - test), validation * (1 - test), test),
    )


def _items(folder: Path, roots: dict[str, Path], classes: tuple[str, ...]) -> Iterator[Item]:
    for split, root in roots.items():
        for class_name in classes:
            for path in _files(root / class_name):
                name = path.relative_to(folder).as_posix()
                yield Item(name, class_name, split=split, path=str(path))


def _split_roots(folder: Path) -> dict[str, Path]:
    """Split (empty: decided by content) -> the folder that holds its class folders."""
    children = _folders(folder)
    if not children:
        loose = sum(1 for _ in _files(folder))
        found = f"{loose} files without a label" if loose else "nothing"
        raise IngestError(f"{folder} has no class folders, it holds {found}; {_LAYOUT}")
    # A class may be called `train` (COCO has one): then it holds pictures and has other classes.
    only_splits = all(one.name in _SPLITS for one in children)
    splits = [one for one in children if one.name in _SPLITS and (only_splits or _folders(one))]
    if not splits:
        return {"": folder}
    if len(splits) < len(children):
        others = ", ".join(one.name for one in children if one not in splits)
        raise IngestError(
            f"{folder} has split folders ({', '.join(one.name for one in splits)}) and {others}; "
            "move the latter away, or give the folder that holds only classes"
        )
    roots = {_SPLITS[one.name]: one for one in splits}
    if len(roots) < len(splits):
        raise IngestError(f"{folder} has both val and validation; merge them into validation")
    if "train" not in roots:
        raise IngestError(f"{folder} has no train folder, only {', '.join(sorted(roots))}")
    return roots


def _classes(folder: Path, roots: list[Path]) -> tuple[str, ...]:
    names = {one.name for root in roots for one in _folders(root)}
    if not names:
        raise IngestError(f"the split folders of {folder} have no class folders; {_LAYOUT}")
    if len(names) < 2:
        only = next(iter(names))
        inner = _folders(roots[0] / only)
        hint = f"did you mean {roots[0] / only}?" if len(inner) > 1 else "add a second class folder"
        raise IngestError(f"{folder} has one class only, {only!r}; {hint}")
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not _hidden(one.name))


def _files(folder: Path) -> Iterator[Path]:
    """Files at any depth; none where a split has no folder of a class."""
    if folder.is_dir():
        yield from (Path(one.path) for one in members(folder))


def _hidden(name: str) -> bool:
    return name.startswith(".")
