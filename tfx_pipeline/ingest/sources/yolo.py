"""YOLO: one text file of objects for each picture, in fractions of its size.

    sightline ingest yolo ~/pets --out data/pets

| found | is |
|---|---|
| `data.yaml` (or the YAML file itself as the source) | `names`, `path`, `train`, `val`, `test` |
| `images/{train,val,test}/*.jpg` | pictures, where no YAML says otherwise |
| `labels/.../*.txt` | `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`, a line an object |
| `kpt_shape: [k, d]` in the YAML | `class cx cy w h` and k * d numbers of keypoints, left out |
| `classes.txt` or `obj.names` | class names, where no YAML has them |

A picture without a label file, or with an empty one, has no objects.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfx_pipeline.ingest.archives import members
from tfx_pipeline.ingest.findings import Finding
from tfx_pipeline.ingest.source import IngestError, Item, Objects, Request, Source, jobs
from trainers.data import features

_LAYOUT = "a folder with data.yaml, or with images/{train,val}/ and labels/{train,val}/"
_PICTURE = re.compile(r"\.(jpe?g|png|bmp|webp|tiff?|gif|ppm)$", re.IGNORECASE)
_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "test": "test"}
_CLASS_LISTS = ("classes.txt", "obj.names")
_BOX_VALUES, _MIN_POLYGON_VALUES = 5, 7


@dataclass(frozen=True)
class _Data:
    """What is to be read: class names, and (split, pictures) by split.

    Attributes:
      keypoint_values: of a line, behind its box; 0 where lines are boxes or polygons.
    """

    root: Path
    names: tuple[str, ...]
    pictures: tuple[tuple[str, tuple[Path, ...]], ...]
    keypoint_values: int = 0


class _LineError(ValueError):
    """A line that is no object."""


@jobs.register("yolo")
def source(request: Request, *, names: str = "") -> Source:
    """The pictures and objects of a folder in YOLO's layout; polygons become masks.

    Args:
      request: a folder, or a `data.yaml`.
      names: class names with commas between, where no file has them.

    Raises:
      IngestError: no pictures, no class names, or no label file at all.
    """
    data = _read(request, tuple(one.strip() for one in names.split(",") if one.strip()))
    total = sum(len(paths) for _, paths in data.pictures)
    if not total:
        raise IngestError(f"{data.root} has no pictures; give {_LAYOUT}")
    labelled, masks = _survey(data)
    if not labelled:
        first = next(paths[0] for _, paths in data.pictures if paths)
        raise IngestError(
            f"none of the {total} pictures of {data.root} has labels; those of {first.name} should "
            f"be in {_label_file(first)}"
        )
    return Source(
        name="yolo",
        classes=data.names,
        items=_items(data),
        description=f"{total} pictures of {data.root.resolve().name} in YOLO's layout, {labelled} "
        "with a label file",
        task=features.DETECTION,
        masks=masks,
        total=total,
    )


def _items(data: _Data) -> Iterator[Item | Finding]:
    for split, paths in data.pictures:
        for path in paths:
            yield _item(data, split, path)
    wanted = {_label_file(path) for _, paths in data.pictures for path in paths}
    for folder in sorted({one.parent for one in wanted}):
        for label in sorted(folder.glob("*.txt")):
            if label not in wanted and label.name not in _CLASS_LISTS and not _is_list(label):
                what = "labels of a picture that is not there"
                yield Finding("image_missing", _name(label, data.root), what)


def _item(data: _Data, split: str, path: Path) -> Item | Finding:
    name, label = _name(path, data.root), _label_file(path)
    if not path.is_file():
        return Finding("image_missing", name, "a list of pictures has it")
    try:
        lines = label.read_text(encoding="utf-8-sig").splitlines() if label.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        return Finding("label_missing", name, f"{label.name}: {error}")
    boxes, classes, ids, segmentations, findings = [], [], [], [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            place, box, polygon = _object(line.split(), data.keypoint_values)
        except _LineError as error:
            detail = f"{_name(label, data.root)} line {number}: {error}"
            findings.append(Finding("annotation_invalid", name, detail))
            continue
        boxes.append(box)
        classes.append(place if 0 <= place < len(data.names) else -1)
        ids.append(number)
        segmentations.append(polygon)
    return Item(
        name=name,
        split=split,
        path=str(path),
        objects=Objects(
            boxes=tuple(boxes),
            classes=tuple(classes),
            ids=tuple(ids),
            segmentations=tuple(segmentations),
            normalized=True,
        ),
        attributes={features.SOURCE_ID: [path.stem]},
        findings=tuple(findings),
    )


def _object(
    words: list[str], keypoint_values: int
) -> tuple[int, tuple[float, float, float, float], list[list[float]] | None]:
    """Class, box and polygon of a line's words."""
    try:
        place, *values = (float(word) for word in words)
        label = int(place)
    except (ValueError, OverflowError):
        raise _LineError(f"it takes numbers, got {' '.join(words)[:60]!r}") from None
    if label != place:
        raise _LineError(f"the class must be an integer, got {words[0]}")
    if keypoint_values and len(words) != _BOX_VALUES + keypoint_values:
        raise _LineError(
            f"it has {len(words)} values; by `kpt_shape` a box and its keypoints have "
            f"{_BOX_VALUES + keypoint_values}"
        )
    if keypoint_values or len(words) == _BOX_VALUES:
        x, y, width, height = values[:4]
        return label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), None
    if len(words) < _MIN_POLYGON_VALUES or not len(words) % 2:
        raise _LineError(
            f"it has {len(words)} values; a box has {_BOX_VALUES}, a polygon an odd number from "
            f"{_MIN_POLYGON_VALUES} on"
        )
    box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    return label, box, [values]


def _read(request: Request, names: tuple[str, ...]) -> _Data:
    if request.where and Path(request.where).expanduser().is_file():
        yaml_file = Path(request.where).expanduser()
        folder = yaml_file.parent
    else:
        folder = request.folder(_LAYOUT)
        yaml_file = _yaml_of(folder)
    if yaml_file is not None:
        return _from_yaml(yaml_file, names)
    names = names or _listed_names(folder)
    if not names:
        raise IngestError(
            f"{folder} has no data.yaml and no classes.txt; say names=first,second,... in the "
            "order of the class numbers"
        )
    return _Data(folder, names, tuple(_folders(folder)))


def _yaml_of(folder: Path) -> Path | None:
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    named = [one for one in found if one.stem in ("data", "dataset")]
    if not named and len(found) > 1:
        raise IngestError(
            f"{folder} has {', '.join(one.name for one in found)}; give the one to read as the "
            "source"
        )
    return (named or found or [None])[0]


def _from_yaml(path: Path, names: tuple[str, ...]) -> _Data:
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise IngestError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict) or not any(key in raw for key in _SPLITS):
        raise IngestError(f"{path} must have `names` and `train`; it is no YOLO data file")
    root = path.parent / str(raw.get("path") or "")
    root = root if root.is_dir() else path.parent  # `path` is often of the machine that wrote it.
    names = names or _yaml_names(path, raw.get("names"))
    found: dict[str, list[Path]] = {}
    for key, split in _SPLITS.items():
        for one in _as_list(raw.get(key)):
            found.setdefault(split, []).extend(_pictures(root, str(one), path))
    pictures = tuple((split, tuple(paths)) for split, paths in found.items())
    return _Data(root, names, pictures, _keypoint_values(path, raw.get("kpt_shape")))


def _yaml_names(path: Path, raw: Any) -> tuple[str, ...]:
    if isinstance(raw, dict):
        if sorted(raw, key=str) != sorted(range(len(raw)), key=str):
            raise IngestError(
                f"{path}: `names` must count its classes 0, 1, 2, ..., got {list(raw)}"
            )
        raw = [raw[place] for place in range(len(raw))]
    if not isinstance(raw, list) or not raw:
        raise IngestError(f"{path}: `names` must be a list of class names, got {raw!r}")
    names = tuple(str(one) for one in raw)
    if len(set(names)) < len(names):
        raise IngestError(f"{path}: `names` has a name twice: {', '.join(names)}")
    return names


def _keypoint_values(path: Path, raw: Any) -> int:
    """How many numbers an object's keypoints are, by `kpt_shape`; 0 without one."""
    if raw is None:
        return 0
    whole = isinstance(raw, list) and len(raw) == 2 and all(type(one) is int for one in raw)
    if not whole or raw[0] < 1 or raw[1] not in (2, 3):
        raise IngestError(
            f"{path}: `kpt_shape` must be [how many keypoints, 2 or 3 numbers each], got {raw!r}"
        )
    return raw[0] * raw[1]


def _as_list(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _pictures(root: Path, given: str, yaml_file: Path) -> list[Path]:
    """The pictures of one entry of a YAML file: a folder or a list."""
    # Some exporters write ../train/images for the folder beside the file.
    candidates = (root / given, root / re.sub(r"^(\.\./)+", "", given))
    place = next((one for one in candidates if one.exists()), None)
    if place is None:
        raise IngestError(f"{yaml_file} names {given}, and {candidates[0]} does not exist")
    if place.is_dir():
        return _in_folder(place)
    lines = place.read_text(encoding="utf-8-sig").splitlines()
    return [_listed(place, root, line.strip()) for line in lines if line.strip()]


def _listed(file: Path, root: Path, line: str) -> Path:
    """A line of a list: from the list's folder where it starts with a dot, else from the root."""
    first = file.parent if line.startswith("./") else root
    return Path(os.path.normpath(first / line))


def _in_folder(folder: Path) -> list[Path]:
    return [Path(one.path) for one in members(folder) if _PICTURE.search(one.name)]


def _folders(folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Splits of a folder without a YAML file: images/train, train/images, or all by content."""
    found = False
    for name, split in _SPLITS.items():
        for place in (folder / "images" / name, folder / name / "images"):
            if place.is_dir():
                found = True
                yield split, tuple(_in_folder(place))
    if not found:
        yield "", tuple(_in_folder(folder))


def _listed_names(folder: Path) -> tuple[str, ...]:
    for place in (folder, folder / "labels"):
        for name in _CLASS_LISTS:
            if (place / name).is_file():
                lines = (place / name).read_text(encoding="utf-8-sig").splitlines()
                return tuple(line.strip() for line in lines if line.strip())
    return ()


def _survey(data: _Data) -> tuple[int, bool]:
    """How many pictures have a label file, and whether every object in them has a polygon."""
    labelled, objects, polygons = 0, 0, 0
    for path in (one for _, paths in data.pictures for one in paths):
        label = _label_file(path)
        if not label.is_file():
            continue
        labelled += 1
        with label.open("rb") as lines:
            counts = [len(line.split()) for line in lines if line.strip()]
        objects += len(counts)
        polygons += sum(one != _BOX_VALUES for one in counts)
    return labelled, not data.keypoint_values and 0 < objects == polygons


def _label_file(picture: Path) -> Path:
    """Where a picture's labels are: the last `images` of its path becomes `labels`."""
    parts = list(picture.parts[:-1])
    for place in reversed(range(len(parts))):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts, f"{picture.stem}.txt")


def _is_list(path: Path) -> bool:
    """Whether a text file beside the labels lists pictures instead."""
    with path.open("rb") as lines:
        return bool(_PICTURE.search(next(lines, b"").decode("utf-8", "replace").strip()))


def _name(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()
