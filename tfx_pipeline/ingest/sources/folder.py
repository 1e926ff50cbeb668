"""A folder of images: `DIR/class/*` or `DIR/split/class/*`.

Splits are folders called train, val, validation, test or another word of
`tfx_pipeline.ingest.split_words`. One that is absent is filled from train, by content: `train/` and
`test/` give a validation split too, and `DIR/class/*` all three. A folder that has only `test/` is
a test split and nothing else. Files lie at any depth below their class. Hidden ones (`.DS_Store`,
`.ipynb_checkpoints/`) are passed over, links are followed, and every other file becomes a record or
a named rejection.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tfx_pipeline.ingest.archives import members
from tfx_pipeline.ingest.class_names import check_names, class_name, sorted_names
from tfx_pipeline.ingest.source import IngestError, Item, Request, Source, jobs
from tfx_pipeline.ingest.split_words import known_words, one_of_each, split_of_word

_LAYOUT = "put images into DIR/<class>/*.jpg or DIR/<train|validation|test>/<class>/*.jpg"


@jobs.register("folder")
def source(
    request: Request, *, validation: float = 0.25, test: float = 0.2, nested: bool = False
) -> Source:
    """The images below a folder; classes sorted, by number where all names are numbers.

    Args:
      request: of the job.
      validation: the part of the training images that fills an absent validation split.
      test: the part of all images that fills an absent test split, before that.
      nested: equally named folders within the class folders are no splits and no classes.

    Raises:
      IngestError: a part that is not in (0, 1), no such folder, no class folders, one class only,
        split folders beside other folders, class folders that look like splits, names that differ
        only in capitals, or no files.
    """
    for option, part in (("validation", validation), ("test", test)):
        if not 0 < part < 1:
            raise IngestError(f"folder option {option} must be in (0, 1), got {part}; e.g. 0.1")
    folder = request.folder(_LAYOUT)
    roots = _split_roots(folder)
    if not nested:
        _refuse_hidden_splits(folder, roots)
    classes = _classes(folder, list(roots.values()))
    count = sum(1 for _ in _items(folder, roots))
    if not count:
        raise IngestError(f"{folder} has {len(classes)} class folders but no file; {_LAYOUT}")
    name = folder.resolve().name
    return Source(
        name,
        classes,
        _items(folder, roots),
        description=f"{count} files of folder {name}",
        every_class=True,
        total=count,
        fractions=((1 - validation) * (1 - test), validation * (1 - test), test),
    )


def _items(folder: Path, roots: dict[str, Path]) -> Iterator[Item]:
    for split, root in roots.items():
        classes = {one: class_name(one.name) for one in _folders(root)}
        for place in sorted_names((one.name for one in classes), str(root)):
            for path in _files(root / place):
                name = path.relative_to(folder).as_posix()
                yield Item(name, classes[root / place], split=split, path=str(path))


def _split_roots(folder: Path) -> dict[str, Path]:
    """Split (empty: decided by content) -> the folder that holds its class folders."""
    children = _folders(folder)
    if not children:
        loose = sum(1 for _ in _files(folder))
        found = f"{loose} files without a label" if loose else "nothing"
        raise IngestError(f"{folder} has no class folders, it holds {found}; {_LAYOUT}")
    # A class may be called `train` (COCO has one): then it holds images and has other classes.
    named = [one for one in children if split_of_word(one.name)]
    splits = [one for one in named if len(named) == len(children) or _folders(one)]
    if not splits:
        return {"": folder}
    if len(splits) < len(children):
        others = ", ".join(one.name for one in children if one not in splits)
        raise IngestError(
            f"{folder} has split folders ({', '.join(one.name for one in splits)}) and {others}; "
            f"splits are called {known_words()}: move the others away, or give the folder that "
            "holds only classes"
        )
    return {
        split: folder / name
        for split, name in one_of_each((one.name for one in splits), str(folder)).items()
    }


def _refuse_hidden_splits(folder: Path, roots: dict[str, Path]) -> None:
    """Refuses class folders that are splits by another word, or that hold splits."""
    for root in roots.values():
        classes = _folders(root)
        inner = Counter(one.name for parent in classes for one in _folders(parent))
        shared = sorted(name for name, count in inner.items() if count > 1)
        words = [name for name in shared if split_of_word(name)]
        if words:
            raise IngestError(
                f"the class folders of {root} hold {', '.join(words)}: did you mean splits? Put "
                f"the images into {folder}/<{words[0]}>/<class>/, or say nested=true if these are "
                "no splits"
            )
        if len(shared) > 1:
            raise IngestError(
                f"{', '.join(one.name for one in classes[:4])} of {root} hold folders of the same "
                f"names ({', '.join(shared[:4])}); did you mean splits? Then call them train, "
                "validation and test; if they are classes, say nested=true"
            )


def _classes(folder: Path, roots: list[Path]) -> tuple[str, ...]:
    names = {class_name(one.name) for root in roots for one in _folders(root)}
    if not names:
        raise IngestError(f"the split folders of {folder} have no class folders; {_LAYOUT}")
    if len(names) < 2:
        only = next(one for root in roots for one in _folders(root))
        inner = _folders(only)
        hint = f"did you mean {only}?" if len(inner) > 1 else "add a second class folder"
        raise IngestError(f"{folder} has one class only, {next(iter(names))!r}; {hint}")
    classes = sorted_names(names, str(folder))
    check_names(classes, f"the class folders of {folder}", typed=True)
    return classes


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not _hidden(one.name))


def _files(folder: Path) -> Iterator[Path]:
    """Files at any depth."""
    yield from (Path(one.path) for one in members(folder))


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
