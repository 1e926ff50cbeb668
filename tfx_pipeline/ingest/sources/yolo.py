"""YOLO: one text file of objects for each image, in fractions of the image size.

    sightline ingest yolo ~/pets --out data/pets

| found | is |
|---|---|
| `data.yaml` (or the YAML file itself as the source) | `names`, `path`, `train`, `val`, `test` |
| `images/{train,val,test}/*.jpg` | images, without a YAML file |
| `labels/.../*.txt` | `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`, one object per line |
| `kpt_shape: [k, d]` in the YAML | `class cx cy w h` and k * d keypoint values, ignored |
| `classes.txt` or `obj.names` | class names, without a YAML file |

Fractions refer to the displayed image: YOLO's tools rotate images by their EXIF orientation. An
image without a label file, or with an empty one, has no objects.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfx_pipeline.ingest.class_names import class_name
from tfx_pipeline.ingest.file_names import IMAGE_FILE
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.frames import SHOWN
from tfx_pipeline.ingest.objects import without_repeats
from tfx_pipeline.ingest.source import IngestError, Item, Objects, Request, Source, jobs
from tfx_pipeline.ingest.sources.yolo_layout import (
    CLASS_LISTS,
    LAYOUT,
    YoloData,
    read_layout,
)
from tfx_pipeline.ingest.text_files import read_lines, read_text
from trainers.data import features

# A larger share of boxes across the edge is not just imprecise; fewer boxes are inconclusive.
_EDGE, _MANY_PAST, _MIN_BOXES = 0.01, 0.2, 4
_BOX_VALUES, _MIN_POLYGON_VALUES = 5, 7


class _LineError(ValueError):
    """A line that is not an object."""


@jobs.register("yolo")
def source(request: Request, *, names: str = "") -> Source:
    """The images and objects of a folder in YOLO's layout; polygons become masks.

    Args:
      request: a folder, or a `data.yaml`.
      names: comma-separated class names, if no file has them.

    Raises:
      IngestError: no images, missing or invalid class names, no label files, or class numbers that
        start at 1.
    """
    data = read_layout(request, tuple(class_name(one) for one in names.split(",") if one.strip()))
    total = sum(len(paths) for _, paths in data.images)
    if not total:
        raise IngestError(f"{data.root} has no images; expected {LAYOUT}")
    found = _survey(data)
    if not found.labeled:
        first = next(paths[0] for _, paths in data.images if paths)
        raise IngestError(
            f"none of the {total} images of {data.root} has labels; the labels of {first.name} "
            f"should be in {_label_file(first)}"
        )
    if found.corners:
        raise IngestError(
            f"the boxes of {data.root} look like corners (class x1 y1 x2 y2), e.g. "
            f"{found.corners}: as class cx cy w h, many would exceed their image; convert them to "
            "center and size"
        )
    if found.classes and min(found.classes) == 1 and max(found.classes) == len(data.names):
        raise IngestError(
            f"the class numbers of {data.root} range from 1 to {len(data.names)} for "
            f"{len(data.names)} classes; in YOLO they start at 0: subtract 1 from each"
        )
    return Source(
        name="yolo",
        classes=data.names,
        items=_items(data),
        description=f"{total} images of {data.root.resolve().name} in YOLO's layout, "
        f"{found.labeled} with a label file",
        task=features.DETECTION,
        masks=found.masks,
        total=total,
        inputs=(str(data.root),),
    )


def _items(data: YoloData) -> Iterator[Item | IngestFinding]:
    for split, paths in data.images:
        for path in paths:
            yield _item(data, split, path)
    wanted = {_label_file(path) for _, paths in data.images for path in paths}
    for folder in sorted({one.parent for one in wanted}):
        for label in sorted(folder.glob("*.[tT][xX][tT]")):
            if label not in wanted and label.name not in CLASS_LISTS and not _is_list(label):
                what = "labels of an image that does not exist"
                yield IngestFinding("image_missing", _name(label, data.root), what)


def _item(data: YoloData, split: str, path: Path) -> Item | IngestFinding:
    name, label = _name(path, data.root), _label_file(path)
    if not path.is_file():
        return IngestFinding("image_missing", name, f"listed, but {path} does not exist")
    try:
        lines = read_text(label).splitlines() if label.is_file() else []
    except (OSError, IngestError) as error:
        return IngestFinding("label_missing", name, f"{label.name}: {error}")
    boxes, classes, ids, segmentations, findings = [], [], [], [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            class_index, box, polygon = _object(line.split(), data.keypoint_values)
        except _LineError as error:
            detail = f"{_name(label, data.root)} line {number}: {error}"
            findings.append(IngestFinding("annotation_invalid", name, detail))
            continue
        boxes.append(box)
        classes.append(class_index if 0 <= class_index < len(data.names) else -1)
        ids.append(number)
        segmentations.append(polygon)
    objects, repeated = without_repeats(
        Objects(
            boxes=tuple(boxes),
            classes=tuple(classes),
            ids=tuple(ids),
            segmentations=tuple(segmentations),
            normalized=True,
            frame=SHOWN,
        ),
        name,
    )
    return Item(
        name=name,
        split=split,
        path=str(path),
        objects=objects,
        attributes={features.SOURCE_ID: [path.stem]},
        findings=(*findings, *repeated),
    )


def _object(
    words: list[str], keypoint_values: int
) -> tuple[int, tuple[float, float, float, float], list[list[float]] | None]:
    """The class, box and polygon of a line."""
    try:
        first, *values = (float(word) for word in words)
        label = int(first)
    except (ValueError, OverflowError):
        raise _LineError(f"a line must consist of numbers, got {' '.join(words)[:60]!r}") from None
    if label != first:
        raise _LineError(f"the class must be an integer, got {words[0]}")
    if keypoint_values and len(words) != _BOX_VALUES + keypoint_values:
        raise _LineError(
            f"it has {len(words)} values; with `kpt_shape`, a box and its keypoints have "
            f"{_BOX_VALUES + keypoint_values}"
        )
    if keypoint_values or len(words) == _BOX_VALUES:
        x, y, width, height = values[:4]
        return label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), None
    if len(words) < _MIN_POLYGON_VALUES or not len(words) % 2:
        score = "; the sixth is probably a score: remove it" if len(words) == 6 else ""
        raise _LineError(
            f"it has {len(words)} values; a box has {_BOX_VALUES}, a polygon an odd number of at "
            f"least {_MIN_POLYGON_VALUES}{score}"
        )
    box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    return label, box, [values]


@dataclass
class _Survey:
    """A summary of all label files.

    Attributes:
      labeled: number of images with a label file.
      classes: all class numbers.
      masks: whether every object is a polygon.
      corners: an example of a line with two corners, if all boxes seem to be corners; else empty.
    """

    labeled: int
    classes: set[int]
    masks: bool
    corners: str


def _survey(data: YoloData) -> _Survey:
    labeled, objects, polygons, classes = 0, 0, 0, set[int]()
    corners = _Corners()
    for path in (one for _, paths in data.images for one in paths):
        label = _label_file(path)
        if not label.is_file():
            continue
        labeled += 1
        try:
            lines = [line.split() for line in read_lines(label)]
        except (OSError, IngestError):
            continue  # Reported when the items are read.
        objects += len(lines)
        polygons += sum(len(one) != _BOX_VALUES for one in lines)
        classes |= {int(one[0]) for one in lines if one[0].isdecimal()}
        for one in lines:
            corners.add(one)
    masks = not data.keypoint_values and 0 < objects == polygons
    return _Survey(labeled, classes, masks, corners.example())


@dataclass
class _Corners:
    """Detects boxes that are corners instead of center and size.

    Attributes:
      boxes: number of lines with five numbers.
      ordered: number of these whose last two values are greater than the two before.
      past: number of these that exceed the image as center and size, but not as corners.
      first: the first line counted in `past`.
    """

    boxes: int = 0
    ordered: int = 0
    past: int = 0
    first: str = ""

    def add(self, words: list[str]) -> None:
        """Counts a line."""
        try:
            _, x, y, z, w = map(float, words)
        except ValueError:
            return
        self.boxes += 1
        self.ordered += z > x and w > y
        past = min(x - z / 2, y - w / 2) < -_EDGE or max(x + z / 2, y + w / 2) > 1 + _EDGE
        if past and max(x, y, z, w) <= 1 + _EDGE:
            self.past += 1
            self.first = self.first or " ".join(words)

    def example(self) -> str:
        """The first line with corners; empty if boxes are center and size."""
        sure = self.boxes >= _MIN_BOXES and self.boxes == self.ordered
        return self.first if sure and self.past > _MANY_PAST * self.boxes else ""


def _label_file(image: Path) -> Path:
    """The label file of an image: the last `images` in its path is replaced by `labels`."""
    parts = list(image.parts[:-1])
    for at in reversed(range(len(parts))):
        if parts[at].lower() == "images":
            # Any case, as on Windows: `Images` beside `Labels` or `labels`.
            words = [parts[at][0].replace("i", "l").replace("I", "L") + "abels", "labels"]
            words += ["Labels", "LABELS"]
            every = [Path(*parts[:at], word, *parts[at + 1 :]) for word in words]
            folder = next((one for one in every if one.is_dir()), every[0])
            return _text_of(folder / image.stem)
    return _text_of(Path(*parts, image.stem))


def _text_of(stem: Path) -> Path:
    """`stem.txt`, or `stem.TXT` if only that exists."""
    lower, upper = (stem.with_name(f"{stem.name}.{ending}") for ending in ("txt", "TXT"))
    return upper if upper.is_file() and not lower.is_file() else lower


def _is_list(path: Path) -> bool:
    """Whether a text file beside the labels is a list of images."""
    try:
        return bool(IMAGE_FILE.search(next(iter(read_lines(path)), "")))
    except (OSError, IngestError):
        return False


def _name(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()
