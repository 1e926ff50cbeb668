"""A folder of images: `DIR/class/*` or `DIR/split/class/*`.

Splits are folders named train, val, validation, test or another name of
`tfx_pipeline.ingest.split_words`. A missing split is filled from train by content: `train/` and
`test/` also yield a validation split, and `DIR/class/*` all three. A folder with only `test/` is a
test split and nothing else. Files may be nested at any depth in the folder of their class. Hidden
files (`.DS_Store`, `.ipynb_checkpoints/`) and files of file managers are skipped, symbolic links
are followed, and every other file becomes a record or a rejection; so does an image outside of the
class folders.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tfx_pipeline.ingest.archives import is_hidden, members
from tfx_pipeline.ingest.class_names import check_names, class_name, sorted_names
from tfx_pipeline.ingest.file_names import IMAGE_FILE
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.source import (
    ARCHIVE_SUFFIXES,
    IngestError,
    Item,
    Request,
    Source,
    jobs,
)
from tfx_pipeline.ingest.split_words import (
    known_words,
    one_of_each,
    split_in_name,
    split_of_word,
)

_FOLDER = "a folder with images in DIR/<class>/*.jpg or DIR/<train|validation|test>/<class>/*.jpg"
_LAYOUT = "put images into DIR/<class>/*.jpg or DIR/<train|validation|test>/<class>/*.jpg"

# A capital letter within a word: `trainA`.
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@jobs.register("folder")
def source(
    request: Request, *, validation: float = 0.25, test: float = 0.2, nested: bool = False
) -> Source:
    """The images in a folder; classes are sorted, numerically if all names are numbers.

    Args:
      request: the folder.
      validation: the share of the training images for a missing validation split.
      test: the share of all images for a missing test split, which is filled first.
      nested: accept class folders, or folders in them, that look like splits.

    Raises:
      IngestError: a share that is not in (0, 1), no such folder, no class folders, only one class,
        split folders beside other folders or with unsorted images, class folders that look like
        splits, names that differ only in case, or no files.
    """
    for option, part in (("validation", validation), ("test", test)):
        if not 0 < part < 1:
            raise IngestError(f"folder option {option} must be in (0, 1), got {part}; e.g. 0.1")
    folder = request.folder(_FOLDER)
    roots = _split_roots(folder)
    if not nested:
        _refuse_hidden_splits(folder, roots)
    classes = _classes(folder, list(roots.values()))
    count = sum(isinstance(one, Item) for one in _items(folder, roots))
    if not count:
        raise IngestError(f"{folder} has {len(classes)} class folders but no files; {_LAYOUT}")
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


def _items(folder: Path, roots: dict[str, Path]) -> Iterator[Item | IngestFinding]:
    for root in sorted({folder, *roots.values()}):
        for path in _loose_images(root):
            where = path.relative_to(folder).as_posix()
            yield IngestFinding("label_missing", where, "not in a class folder")
    for split, root in roots.items():
        classes, count = {one: class_name(one.name) for one in _folders(root)}, 0
        for class_folder in sorted_names((one.name for one in classes), str(root)):
            for path in _files(root / class_folder):
                name, count = path.relative_to(folder).as_posix(), count + 1
                yield Item(name, classes[root / class_folder], split=split, path=str(path))
        if not count and split:
            yield IngestFinding("split_empty", root.name, f"the folder of the {split} split")


def _loose_images(folder: Path) -> list[Path]:
    """Images beside the class folders."""
    return sorted(
        one
        for one in folder.iterdir()
        if IMAGE_FILE.search(one.name) and not is_hidden(one.name) and one.is_file()
    )


def _split_roots(folder: Path) -> dict[str, Path]:
    """Split (empty to decide by content) -> the folder with its class folders."""
    children = _folders(folder)
    if not children:
        loose = list(_files(folder))
        packed = [one.name for one in loose if one.name.lower().endswith(ARCHIVE_SUFFIXES)]
        found = f"{len(loose)} files without a label" if loose else "nothing"
        remedy = f"unpack {packed[0]}" if packed else _LAYOUT
        raise IngestError(f"{folder} has no class folders and contains {found}; {remedy}")
    # A class may be named `train`, as in COCO: then it has images and there are other classes.
    named = [one for one in children if split_of_word(one.name)]
    splits = [one for one in named if len(named) == len(children) or _folders(one)]
    if not splits:
        return {"": folder}
    if len(splits) < len(children):
        others = ", ".join(one.name for one in children if one not in splits)
        raise IngestError(
            f"{folder} has split folders ({', '.join(one.name for one in splits)}) and {others}; "
            f"names of splits are {known_words()}: move the others away, or use a folder that has "
            "only class folders"
        )
    named_splits = one_of_each((one.name for one in splits), str(folder))
    roots = {split: folder / name for split, name in named_splits.items()}
    unsorted = {one: _loose_images(one) for one in roots.values() if not _folders(one)}
    bare = next((one for one, loose in unsorted.items() if loose), None)
    if bare is not None and len(unsorted) < len(roots):
        raise IngestError(
            f"{bare} has {len(unsorted[bare])} images but no class folders, so they have no "
            f"labels; sort them into {bare}/<class>/, or move {bare.name} away"
        )
    return roots


def _refuse_hidden_splits(folder: Path, roots: dict[str, Path]) -> None:
    """Rejects class folders that look like splits or contain folders that do."""
    for root in roots.values():
        classes = _folders(root)
        _refuse_split_names(root, classes)
        inner = Counter(one.name for parent in classes for one in _folders(parent))
        shared = sorted(name for name, count in inner.items() if count > 1)
        words = [name for name in shared if split_of_word(name)]
        for one in classes:
            own = {split_of_word(inside.name): inside.name for inside in _folders(one)}
            own.pop(None, None)
            words = words or (sorted(own.values()) if len(own) > 1 else [])
        if words:
            raise IngestError(
                f"the class folders of {root} contain {', '.join(words)}: did you mean splits? Put "
                f"the images into {folder}/<{words[0]}>/<class>/, or set nested=true if these are "
                "not splits"
            )
        if len(shared) > 1:
            raise IngestError(
                f"{', '.join(one.name for one in classes[:4])} of {root} contain folders with the "
                f"same names ({', '.join(shared[:4])}); did you mean splits? Then name them train, "
                "validation and test; if they are classes, set nested=true"
            )


def _refuse_split_names(root: Path, classes: list[Path]) -> None:
    """Rejects class folders such as `trainA` and `testA`, or `train1` and `test1`."""
    found = {one.name: split_in_name(_CAMEL.sub("_", one.name)) for one in classes}
    if len(set(found.values()) - {None}) > 1 and None not in found.values():
        raise IngestError(
            f"the folders of {root} have names of splits ({', '.join(list(found)[:4])}); put the "
            f"images into {root}/<train|validation|test>/<class>/, or set nested=true if these "
            "are classes"
        )


def _classes(folder: Path, roots: list[Path]) -> tuple[str, ...]:
    names = {class_name(one.name) for root in roots for one in _folders(root)}
    if not names:
        raise IngestError(f"the split folders of {folder} have no class folders; {_LAYOUT}")
    if len(names) < 2:
        only = next(one for root in roots for one in _folders(root))
        inner = _folders(only)
        hint = f"did you mean {only}?" if len(inner) > 1 else "add a second class folder"
        raise IngestError(f"{folder} has only one class, {next(iter(names))!r}; {hint}")
    classes = sorted_names(names, str(folder))
    check_names(classes, f"the class folders of {folder}", typed=True)
    return classes


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not is_hidden(one.name))


def _files(folder: Path) -> Iterator[Path]:
    """All files in a folder, at any depth."""
    yield from (Path(one.path) for one in members(folder))
