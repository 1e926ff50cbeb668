"""YOLO: one text file of objects for each image, in fractions of its size.

    sightline ingest yolo ~/pets --out data/pets

| found | is |
|---|---|
| `data.yaml` (or the YAML file itself as the source) | `names`, `path`, `train`, `val`, `test` |
| `images/{train,val,test}/*.jpg` | images, where no YAML says otherwise |
| `labels/.../*.txt` | `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`, a line an object |
| `kpt_shape: [k, d]` in the YAML | `class cx cy w h` and k * d numbers of keypoints, left out |
| `classes.txt` or `obj.names` | class names, where no YAML has them |

Fractions are of the image as viewers show it: YOLO's tools turn images by their EXIF orientation.
An image without a label file, or with an empty one, has no objects.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfx_pipeline.ingest.class_names import class_name
from tfx_pipeline.ingest.file_names import IMAGE_FILE
from tfx_pipeline.ingest.findings import Finding
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

# Of boxes over the edge, more is no careless drawing; fewer boxes show nothing.
_EDGE, _MANY_PAST, _MIN_BOXES = 0.01, 0.2, 4
_BOX_VALUES, _MIN_POLYGON_VALUES = 5, 7


class _LineError(ValueError):
    """A line that is no object."""


@jobs.register("yolo")
def source(request: Request, *, names: str = "") -> Source:
    """The images and objects of a folder in YOLO's layout; polygons become masks.

    Args:
      request: a folder, or a `data.yaml`.
      names: class names with commas between, where no file has them.

    Raises:
      IngestError: no images, no class names or wrong ones, no label file at all, or class numbers
        that count from 1.
    """
    data = read_layout(request, tuple(class_name(one) for one in names.split(",") if one.strip()))
    total = sum(len(paths) for _, paths in data.images)
    if not total:
        raise IngestError(f"{data.root} has no images; give {LAYOUT}")
    found = _survey(data)
    if not found.labeled:
        first = next(paths[0] for _, paths in data.images if paths)
        raise IngestError(
            f"none of the {total} images of {data.root} has labels; those of {first.name} should "
            f"be in {_label_file(first)}"
        )
    if found.corners:
        raise IngestError(
            f"the boxes of {data.root} look like corners (class x1 y1 x2 y2), e.g. "
            f"{found.corners}: all of them could be, and as class cx cy w h many would pass the "
            "edge of their image; write them as center and size"
        )
    if found.classes and min(found.classes) == 1 and max(found.classes) == len(data.names):
        raise IngestError(
            f"the class numbers of {data.root} run from 1 to {len(data.names)} for "
            f"{len(data.names)} classes; YOLO counts from 0: subtract 1 from each"
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


def _items(data: YoloData) -> Iterator[Item | Finding]:
    for split, paths in data.images:
        for path in paths:
            yield _item(data, split, path)
    wanted = {_label_file(path) for _, paths in data.images for path in paths}
    for folder in sorted({one.parent for one in wanted}):
        for label in sorted(folder.glob("*.[tT][xX][tT]")):
            if label not in wanted and label.name not in CLASS_LISTS and not _is_list(label):
                what = "labels of an image that is not there"
                yield Finding("image_missing", _name(label, data.root), what)


def _item(data: YoloData, split: str, path: Path) -> Item | Finding:
    name, label = _name(path, data.root), _label_file(path)
    if not path.is_file():
        return Finding("image_missing", name, f"a list of images has it; there is no {path}")
    try:
        lines = read_text(label).splitlines() if label.is_file() else []
    except (OSError, IngestError) as error:
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
        score = "; a sixth is the score of a prediction: remove it" if len(words) == 6 else ""
        raise _LineError(
            f"it has {len(words)} values; a box has {_BOX_VALUES}, a polygon an odd number from "
            f"{_MIN_POLYGON_VALUES} on{score}"
        )
    box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    return label, box, [values]


@dataclass
class _Survey:
    """What all label files hold.

    Attributes:
      labeled: images with a label file.
      classes: the class numbers that occur.
      masks: every object is a polygon.
      corners: a line whose box seems to be two corners, as all do; empty where they do not.
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
            continue  # It is named when the items are read.
        objects += len(lines)
        polygons += sum(len(one) != _BOX_VALUES for one in lines)
        classes |= {int(one[0]) for one in lines if one[0].isdecimal()}
        for one in lines:
            corners.add(one)
    masks = not data.keypoint_values and 0 < objects == polygons
    return _Survey(labeled, classes, masks, corners.example())


@dataclass
class _Corners:
    """Whether boxes are corners rather than center and size.

    Attributes:
      boxes: lines of five numbers.
      ordered: of which the last two are greater than the two before.
      past: that pass the image's edge as center and size, but not as corners.
      first: the first of these.
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
        """The first line that shows it; empty where boxes are center and size."""
        sure = self.boxes >= _MIN_BOXES and self.boxes == self.ordered
        return self.first if sure and self.past > _MANY_PAST * self.boxes else ""


def _label_file(image: Path) -> Path:
    """Where an image's labels are: the last `images` of its path becomes `labels`."""
    parts = list(image.parts[:-1])
    for place in reversed(range(len(parts))):
        if parts[place].lower() == "images":
            # As Windows has it: `Images` beside `Labels` or `labels`.
            words = [parts[place][0].replace("i", "l").replace("I", "L") + "abels", "labels"]
            words += ["Labels", "LABELS"]
            every = [Path(*parts[:place], word, *parts[place + 1 :]) for word in words]
            folder = next((one for one in every if one.is_dir()), every[0])
            return _text_of(folder / image.stem)
    return _text_of(Path(*parts, image.stem))


def _text_of(stem: Path) -> Path:
    """`stem.txt`, or `stem.TXT` where there is only that."""
    lower, upper = (stem.with_name(f"{stem.name}.{ending}") for ending in ("txt", "TXT"))
    return upper if upper.is_file() and not lower.is_file() else lower


def _is_list(path: Path) -> bool:
    """Whether a text file beside the labels lists images instead."""
    try:
        return bool(IMAGE_FILE.search(next(iter(read_lines(path)), "")))
    except (OSError, IngestError):
        return False


def _name(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()
