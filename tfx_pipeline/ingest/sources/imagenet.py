"""ImageNet (ILSVRC-2012) from its tars or from folders, labeled by sorted synset.

`ILSVRC2012_img_train.tar` or `train/n01440764/*.JPEG` contains the training images, of which 1 % is
held out by content as the `validation` split ("minival"). `ILSVRC2012_img_val.tar`,
`val/n01440764/*.JPEG` or `val/*.JPEG` becomes the `test` split, because published figures are
measured on it. Files named `n01440764_*.JPEG` are labeled by their names.

No devkit is needed: a label is the rank of the synset among all sorted synsets, from 1 (0 is
background). The synsets are listed in a class list (`imagenet_class_index.json`,
`LOC_synset_mapping.txt` or `synset_words.txt`, in the folder or given by `classes=FILE`); without
one, the synsets of the images are used. Validation images without class folders need
`val_labels=FILE` (or `LOC_val_solution.csv` in the folder): one synset per line in order of the
images, or lines with a file name and a synset.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tfx_pipeline.ingest.archives import Member, members, members_within
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.source import IngestError, Item, Request, Source, Values, jobs
from tfx_pipeline.ingest.split_words import ANY_WORD, split_of_word
from tfx_pipeline.ingest.text_files import encoding_of_file, read_text
from trainers.data import features

_LAYOUT = "a folder or tar with ILSVRC2012_img_train.tar, train/<synset>/*.JPEG or <synset>_*.JPEG"
_SYNSET = re.compile(r"n\d{8}(?!\d)")
_SPLIT = re.compile(rf"(?:^|[/_])({ANY_WORD})(?=[/_.]|$)", re.IGNORECASE)
_SPLITS = {"train": "train", "validation": "test", "test": "unlabelled"}
_VAL_NUMBER = re.compile(r"_val_(\d{8})\.")
_IMAGE_FILE = re.compile(r"\.(jpe?g|png|webp|bmp|gif)$", re.IGNORECASE)
_CLASS_LISTS = ("imagenet_class_index.json", "LOC_synset_mapping.txt", "synset_words.txt")
_VAL_LABELS = ("LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt")


@jobs.register("imagenet")
def source(
    request: Request,
    *,
    classes: str = "",
    val_labels: str = "",
    boxes: str = "",
    validation: float = 0.01,
) -> Source:
    """The images of ImageNet with their synsets.

    Args:
      request: a folder or a tar.
      classes: a class list, if the folder has none.
      val_labels: the labels of validation images without class folders.
      boxes: the folder of the localization XML files, `<synset>/<image>.xml` at any depth.
      validation: the approximate share of the training images to hold out for validation.

    Raises:
      IngestError: a share that is not in (0, 0.5), no images, fewer than two synsets, or a missing
        label.
    """
    if not 0 < validation < 0.5:
        raise IngestError(
            f"imagenet option validation must be in (0, 0.5), got {validation}; e.g. 0.01"
        )
    if request.where is None:
        raise IngestError(f"`imagenet` needs a SOURCE: {_LAYOUT}")
    path = Path(request.where).expanduser()
    if not path.exists():
        raise IngestError(f"{path} does not exist; expected {_LAYOUT}")
    names = _class_list(path, classes) or _synsets_found(path)
    if len(names) < 2:
        found = ", ".join(names) or "none"
        raise IngestError(f"{path} has only images of the synset {found}; expected {_LAYOUT}")
    by_synset = dict(zip(sorted(names), _unique(names), strict=True))
    labels = _val_labels(path, val_labels)
    found = _ImageNetItems(path, by_synset, labels, _box_files(boxes))
    return Source(
        name="imagenet",
        classes=tuple(by_synset.values()),
        items=found.items(),
        description=f"ImageNet images of {path.name}, {len(by_synset)} synsets",
        fractions=(1 - 2 * validation, validation, validation),
        keep_duplicates=True,
    )


class _ImageNetItems:
    """Generates the items of a folder or tar."""

    def __init__(
        self, path: Path, by_synset: dict[str, str], labels: dict[str, str], boxes: dict[str, str]
    ) -> None:
        self._path, self._by_synset, self._labels, self._boxes = path, by_synset, labels, boxes

    def items(self) -> Iterator[Item | IngestFinding]:
        unlabelled = 0
        for member in _images(self._path):
            split = _split_of(member.name, self._path)
            synset = _synset_of(member) or self._labels.get(_stem(member.name), "")
            if not synset and split == "unlabelled":
                unlabelled += 1
            elif not synset and _VAL_NUMBER.search(member.name):
                raise IngestError(
                    f"no label for {member.name}; set val_labels=FILE with one synset per line in "
                    "order of the images, or move the images into folders named after synsets"
                )
            elif not synset:
                yield IngestFinding("label_missing", member.name, "no synset in its path")
            elif synset not in self._by_synset:
                yield IngestFinding(
                    "label_unknown", member.name, f"{synset} is not in the class list"
                )
            else:
                yield self._item(member, synset, "test" if split == "unlabelled" else split)
        if unlabelled:
            what = f"{unlabelled:,} images of a test set without labels"
            yield IngestFinding("label_missing", self._path.name, what)

    def _item(self, member: Member, synset: str, split: str) -> Item:
        attributes: dict[str, Values] = {features.SYNSET: [synset]}
        findings: tuple[IngestFinding, ...] = ()
        if self._boxes:
            found, findings = _read_boxes(self._boxes.get(_stem(member.name), ""), member.name)
            attributes |= found
        return Item(
            name=member.name,
            class_name=self._by_synset[synset],
            split=split,
            path=member.path,
            offset=member.offset,
            length=member.length,
            deflated=member.deflated,
            attributes=attributes,
            findings=findings,
        )


def _images(path: Path) -> Iterator[Member]:
    return (one for one in members_within(path) if _IMAGE_FILE.search(one.name))


def _synset_of(member: Member) -> str:
    """The innermost synset in a path: in the file name, or in its folder or tar."""
    found = _SYNSET.findall(member.name)
    return found[-1] if found else ""


def _split_of(name: str, top: Path) -> str:
    """`train`, `test` (ImageNet's validation set), `unlabelled` (its test set) or empty."""
    found = _SPLIT.search(name)
    if not found:
        # The name of the folder itself counts only if it is exactly the name of a split.
        found = _SPLIT.fullmatch(top.name) if top.is_dir() else _SPLIT.search(top.name)
    return _SPLITS[split_of_word(found.group(1)) or ""] if found else ""


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _synsets_found(path: Path) -> dict[str, str]:
    found = {_synset_of(one) for one in _images(path)} - {""}
    return {synset: synset for synset in found}


def _unique(names: dict[str, str]) -> list[str]:
    """Unique names in order of the synsets; ImageNet has two cranes and two maillots."""
    counts = Counter(names.values())
    return [
        f"{names[one]} ({one})" if counts[names[one]] > 1 else names[one] for one in sorted(names)
    ]


def _find(path: Path, given: str, names: tuple[str, ...]) -> Path | None:
    if given:
        chosen = Path(given).expanduser()
        if not chosen.is_file():
            raise IngestError(f"{chosen} does not exist; check classes= and val_labels=")
        return chosen
    found = [path / name for name in names if path.is_dir() and (path / name).is_file()]
    return found[0] if found else None


def _class_list(path: Path, given: str) -> dict[str, str]:
    """Synset -> class name in the class list; empty if there is none."""
    file = _find(path, given, _CLASS_LISTS)
    if file is None:
        return {}
    text = read_text(file)
    if file.suffix == ".json":
        return _json_classes(file, text)
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    if not lines or not all(_SYNSET.fullmatch(line[0]) for line in lines):
        raise IngestError(f"{file} is not a class list; expected lines such as `n01440764 tench`")
    return {line[0]: line[-1].partition(",")[0].strip() for line in lines}


def _json_classes(file: Path, text: str) -> dict[str, str]:
    try:
        raw: Any = json.loads(text)
        found = dict(raw.values())
        indices = {int(index): synset for index, (synset, _) in raw.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise IngestError(
            f'{file} is not a class list ({error}); expected {{"0": ["n01440764", "tench"], ...}}'
        ) from error
    if [indices[index] for index in sorted(indices)] != sorted(found):
        raise IngestError(
            f"{file} does not number its classes in order of their synsets; use ImageNet's list"
        )
    return found


def _val_labels(path: Path, given: str) -> dict[str, str]:
    """Stem of a validation image -> synset; empty if there is no such file."""
    file = _find(path, given, _VAL_LABELS)
    if file is None:
        return {}
    found: dict[str, str] = {}
    with file.open(encoding=encoding_of_file(file), newline="") as lines:
        for number, row in enumerate(csv.reader(lines), start=1):
            text = " ".join(row)
            synset = _SYNSET.search(text)
            if not synset and number == 1:
                continue  # The header.
            if not synset:
                raise IngestError(f"{file} line {number} has no synset: {text!r}")
            name = re.match(r"ILSVRC2012_val_\d{8}", text)
            found[name.group() if name else f"ILSVRC2012_val_{len(found) + 1:08d}"] = synset.group()
    return found


def _box_files(folder: str) -> dict[str, str]:
    """Image stem -> XML file."""
    if not folder:
        return {}
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise IngestError(f"boxes={folder} is not a folder; use the folder of the XML files")
    return {_stem(one.name): one.path for one in members(path) if one.name.endswith(".xml")}


def _read_boxes(path: str, name: str) -> tuple[dict[str, Values], tuple[IngestFinding, ...]]:
    """The boxes of one image as fractions, clipped; empty lists without boxes."""
    sides: dict[str, list[float]] = {
        key: [] for key in (features.XMIN, features.XMAX, features.YMIN, features.YMAX)
    }
    if not path:
        return dict(sides), ()
    try:
        root = ElementTree.parse(path).getroot()
        size = {axis: float(root.findtext(f"size/{axis}", "")) for axis in ("width", "height")}
        for box in root.iterfind("object/bndbox"):
            for key, values in sides.items():
                side = key.rpartition("/")[2]
                whole = size["width" if side.startswith("x") else "height"]
                values.append(min(max(float(box.findtext(side, "")) / whole, 0.0), 1.0))
    except (ElementTree.ParseError, ValueError, ZeroDivisionError) as error:
        return {key: [] for key in sides}, (
            IngestFinding("annotation_invalid", name, f"{path}: {error}"),
        )
    return dict(sides), ()
