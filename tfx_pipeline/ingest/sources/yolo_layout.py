"""Finds YOLO's images, labels and class names, by a data.yaml or by folders."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfx_pipeline.ingest.archives import members
from tfx_pipeline.ingest.class_names import check_names, class_name
from tfx_pipeline.ingest.file_names import IMAGE_FILE, Finder, is_of_elsewhere, with_slashes
from tfx_pipeline.ingest.source import IngestError, Request
from tfx_pipeline.ingest.split_words import known_words, one_of_each, split_in_name, split_of_word
from tfx_pipeline.ingest.text_files import read_lines, read_names, read_text
from trainers.data.features import SPLITS

LAYOUT = "a folder with data.yaml, or with images/{train,val}/ and labels/{train,val}/"
#: Files with class names beside images and labels.
CLASS_LISTS = ("classes.txt", "obj.names")

_SHOWN_CHARACTERS = 200
_MAX_YAML_VALUES = 100_000
_ABSENT = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class YoloData:
    """The class names and the images of each split.

    Attributes:
      keypoint_values: number of values after the box in each line; 0 without keypoints.
    """

    root: Path
    names: tuple[str, ...]
    images: tuple[tuple[str, tuple[Path, ...]], ...]
    keypoint_values: int = 0


def read_layout(request: Request, names: tuple[str, ...]) -> YoloData:
    """The class names and images of a folder or a data.yaml.

    Args:
      request: of the job.
      names: class names that override the names in files; may be empty.

    Raises:
      IngestError: no such folder, missing or invalid class names, or missing splits.
    """
    if request.where and Path(request.where).expanduser().is_file():
        yaml_file: Path | None = Path(request.where).expanduser()
        folder = Path(request.where).expanduser().parent
    else:
        folder = request.folder(LAYOUT)
        yaml_file = _yaml_of(folder)
    if yaml_file is not None:
        return _from_yaml(yaml_file, names)
    names = names or _listed_names(folder)
    if not names:
        raise IngestError(
            f"{folder} has no data.yaml and no classes.txt; set names=first,second,... in order of "
            "the class numbers"
        )
    check_names(names, f"the class list of {folder}", typed=True)
    return YoloData(folder, names, tuple(_folders(folder)))


def _yaml_of(folder: Path) -> Path | None:
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    named = [one for one in found if one.stem in ("data", "dataset")]
    if not named and len(found) > 1:
        raise IngestError(
            f"{folder} has {', '.join(one.name for one in found)}; use the one to read as SOURCE"
        )
    return (named or found or [None])[0]


def _from_yaml(path: Path, names: tuple[str, ...]) -> YoloData:
    raw = _read_yaml(path)
    keys = [key for key in raw if split_of_word(key) and raw[key] not in (*_ABSENT, [])]
    if not keys:
        raise IngestError(f"{path} is not a YOLO data file; it needs `names` and `train`")
    root = path.parent / with_slashes(_text(raw.get("path")))
    root = root if root.is_dir() else path.parent  # `path` is often a path of another machine.
    names = names or _yaml_names(path, raw.get("names"))
    check_names(names, f"{path}: `names`", typed=True)
    _check_count(path, raw.get("nc"), names)
    images = tuple(
        (
            split,
            tuple(one for given in _as_list(raw[key], path) for one in _images(root, given, path)),
        )
        for split, key in sorted(
            one_of_each(keys, str(path)).items(), key=lambda one: SPLITS.index(one[0])
        )
    )
    return YoloData(root, names, images, _keypoint_values(path, raw.get("kpt_shape")))


def _read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping whose scalars remain text: `no`, `0010` and `12:30` are valid names.

    Raises:
      IngestError: the file is not YAML, not a mapping, or has a key twice.
    """
    import yaml

    class Loader(yaml.BaseLoader):
        """Loads scalars as text and rejects repeated keys."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next((str(key) for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise IngestError(f"{path} has the key {twice!r} twice; remove one")
            return super().construct_mapping(node, deep=deep)

    try:
        # A subclass of BaseLoader, which creates only text, lists and mappings.
        loader: Any = Loader(read_text(path))
        node = loader.get_single_node()
        if node is not None and _expanded(node, {}) > _MAX_YAML_VALUES:
            raise IngestError(
                f"{path} expands to over {_MAX_YAML_VALUES:,} values by its aliases; write its "
                "lists without `&` and `*`"
            )
        raw = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise IngestError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise IngestError(f"{path} is not a YOLO data file; it needs `names` and `train`")
    return raw


def _expanded(node: Any, known: dict[int, int]) -> int:
    """Number of values of a YAML node with aliases expanded; a cycle counts once.

    Args:
      node: a node of PyYAML.
      known: the counts so far, by the id of the node.
    """
    if id(node) not in known:
        known[id(node)] = 1
        inner = node.value if isinstance(node.value, list) else []
        each = (one for pair in inner for one in (pair if isinstance(pair, tuple) else (pair,)))
        known[id(node)] = 1 + sum(_expanded(one, known) for one in each)
    return known[id(node)]


def _yaml_names(path: Path, raw: Any) -> tuple[str, ...]:
    raw = None if isinstance(raw, str) and raw in _ABSENT else raw
    if isinstance(raw, Mapping):
        if sorted(raw) != sorted(str(number) for number in range(len(raw))):
            raise IngestError(
                f"{path}: `names` must have the keys 0, 1, 2, ..., got {_short(', '.join(raw))}"
            )
        raw = [raw[str(number)] for number in range(len(raw))]
    if not isinstance(raw, list) or not raw or not all(isinstance(one, str) for one in raw):
        raise IngestError(f"{path}: `names` must be a list of class names, got {_short(raw)}")
    return tuple(class_name(one) for one in raw)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} ..."


def _check_count(path: Path, count: Any, names: tuple[str, ...]) -> None:
    if count is not None and _text(count) not in (*_ABSENT, str(len(names))):
        raise IngestError(
            f"{path}: `nc` is {count}, but `names` has {len(names)} names; correct one of them"
        )


def _keypoint_values(path: Path, raw: Any) -> int:
    """Number of keypoint values per object, by `kpt_shape`; 0 without it."""
    if raw is None or raw in _ABSENT:
        return 0
    whole = isinstance(raw, list) and len(raw) == 2 and all(_text(one).isdecimal() for one in raw)
    points, values = (int(raw[0]), int(raw[1])) if whole else (0, 0)
    if points < 1 or values not in (2, 3):
        raise IngestError(
            f"{path}: `kpt_shape` must be [number of keypoints, 2 or 3 values each], got {raw!r}"
        )
    return points * values


def _as_list(value: Any, path: Path) -> list[str]:
    every = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in every):
        raise IngestError(
            f"{path}: a split must be a folder, a list file or a list of these, got {_short(value)}"
        )
    return [_text(one) for one in every]


def _text(value: Any) -> str:
    return "" if value is None or value in _ABSENT else str(value)


def _images(root: Path, given: str, yaml_file: Path) -> list[Path]:
    """The images of one entry of a YAML file: a folder or a list."""
    written, given = given, with_slashes(given)
    # Some tools write ../train/images for a folder beside the YAML file.
    candidates = [root / given, root / re.sub(r"^(\.\./)+", "", given)]
    if is_of_elsewhere(written) and not given.startswith("../"):
        # A path of another machine; its end must contain the name of the split.
        parts = [one for one in given.split("/") if one]
        ends = (parts[at:] for at in range(1, len(parts)))
        candidates += [root.joinpath(*end) for end in ends if any(map(split_in_name, end))]
    found_path = next((one for one in candidates if one.exists()), None)
    if found_path is None:
        raise IngestError(
            f"{yaml_file} names {given}, but {candidates[0]} does not exist; add it, or correct or "
            "remove that line"
        )
    if found_path.is_dir():
        return _in_folder(found_path)
    finders = (Finder(found_path.parent), Finder(root))
    return [_listed(finders, root, line) for line in read_lines(found_path)]


def _listed(finders: tuple[Finder, Finder], root: Path, line: str) -> Path:
    """The image for a line of a list: relative to the list if it starts with a dot, else to `root`.

    Args:
      finders: of the folder of the list and of the root.
      root: the root folder of the data set.
      line: a line of the list.
    """
    dotted = line.startswith((".\\", "./"))
    found = finders[0 if dotted else 1].find(line)
    return Path(os.path.normpath(found if found is not None else root / with_slashes(line)))


def _in_folder(folder: Path) -> list[Path]:
    return [Path(one.path) for one in members(folder) if IMAGE_FILE.search(one.name)]


def _folders(folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """The splits of a folder without YAML: images/train, train/images, or all by content."""
    below = {one.name: one for one in _children(folder / "images")}
    beside = {one.name: one / "images" for one in _children(folder) if (one / "images").is_dir()}
    split_folders = below if any(map(split_of_word, below)) else beside
    splits = one_of_each(split_folders, str(folder))
    if not splits:
        yield "", tuple(_in_folder(folder))
        return
    others = [split_folders[name] for name in split_folders if name not in splits.values()]
    if split_folders is below:
        others += [one for one in _in_folder(folder / "images") if one.parent.name == "images"]
    if others:
        raise IngestError(
            f"{folder} has the splits {', '.join(splits.values())} and {others[0]}, which is in "
            f"none of them; names of splits are {known_words()}: move it, or write a data.yaml"
        )
    for split in (one for one in SPLITS if one in splits):
        yield split, tuple(_in_folder(split_folders[splits[split]]))


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))


def _listed_names(folder: Path) -> tuple[str, ...]:
    for parent in (folder, folder / "labels"):
        for name in CLASS_LISTS:
            if (parent / name).is_file():
                return tuple(class_name(line) for line in read_names(parent / name))
    return ()
