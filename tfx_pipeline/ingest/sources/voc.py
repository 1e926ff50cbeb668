"""Pascal VOC: one XML file of objects for each image.

    sightline ingest voc ~/VOCdevkit --out data/voc

A folder with `JPEGImages` and `Annotations`, or one or two levels above such folders, of which
`VOCdevkit` has one a year; all are read. `ImageSets/Main/{train,val,test}.txt` say which images
are read and where they go; what only `trainval.txt` lists is split by content, and so is
everything where there are no lists. A line of a list is an image's name, with or without its
folder and extension.

Boxes are taken as they are written, as the TF Object Detection API and TensorFlow Datasets do. VOC
counts pixels from 1 and includes the last one, so that a box is half a pixel off; every published
TFRecord of VOC has this, and so must these to be comparable.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from tfx_pipeline.ingest.archives import members
from tfx_pipeline.ingest.class_names import check_names, class_name
from tfx_pipeline.ingest.file_names import IMAGE_SUFFIXES, folded, with_slashes
from tfx_pipeline.ingest.findings import Finding
from tfx_pipeline.ingest.frames import checked_frame
from tfx_pipeline.ingest.objects import without_repeats, without_unknown
from tfx_pipeline.ingest.source import IngestError, Item, Objects, Request, Source, Values, jobs
from tfx_pipeline.ingest.sources.coco_panoptic import PixelLabelError, semantic_features
from tfx_pipeline.ingest.split_words import ANY_WORD, known_words, one_of_each
from tfx_pipeline.ingest.text_files import read_lines, xml_as_utf8
from trainers.data import features

_LAYOUT = "a Pascal VOC folder with JPEGImages/, Annotations/ and perhaps ImageSets/Main/"
_TRAINVAL = "trainval"
# VOC's lists of one class have 1, -1 or 0 (difficult) behind the name.
_FLAGGED = re.compile(r"\s+(?:-1|0|1)$")
_MAX_XML_BYTES = 16 * 2**20
_EXTENSION = re.compile(rf"\.({'|'.join(IMAGE_SUFFIXES)}|xml)$", re.IGNORECASE)
# `cat_train.txt`, `aeroplane_trainval.txt`.
_CLASS_LIST = re.compile(rf"_({ANY_WORD})$", re.IGNORECASE)
_FLAGS = {features.DIFFICULT: "difficult", features.TRUNCATED: "truncated"}


class _XmlError(ValueError):
    """A file that is no VOC annotation."""


@dataclass(frozen=True)
class _Labels:
    """What one XML file says; `names` are of the objects' classes, in order."""

    objects: Objects
    names: tuple[str, ...]
    size: tuple[int, int] | None
    faults: tuple[str, ...]


@dataclass(frozen=True)
class _Root:
    """One folder with `JPEGImages`.

    Attributes:
      folder: that holds it.
      images: path by stem.
      splits: split by stem of the images to read, empty for by content; None reads all.
    """

    folder: Path
    images: dict[str, Path]
    splits: dict[str, str] | None

    def stems(self) -> list[str]:
        """What is to be read, in order."""
        return sorted(self.images if self.splits is None else self.splits)

    def xml(self, stem: str) -> Path:
        """The annotation file of an image."""
        return self.folder / "Annotations" / f"{stem}.xml"


@jobs.register("voc")
def source(
    request: Request, *, classes: str = "", semantic: bool = False, boxes: str = ""
) -> Source:
    """Pascal VOC's images and objects, with `difficult` and `truncated` flags.

    Args:
      request: see the module.
      classes: their names with commas between; by default all that the XML files have, sorted,
        which is VOC's own order. Objects of others are dropped and counted.
      semantic: also read `SegmentationClass` where an image has one; label 0 is background and
        what VOC leaves out.
      boxes: for images that EXIF turns and whose stated size does not decide it: `stored` or
        `shown`, what boxes were drawn on.

    Raises:
      IngestError: no such folder, no objects, or an image that is in two lists.
    """
    folder = request.folder(_LAYOUT)
    roots = [_read_root(one) for one in _roots(folder)]
    chosen = tuple(class_name(one) for one in classes.split(",") if one.strip())
    names = chosen or _names(folder, roots)
    check_names(names, f"the objects of {folder}", typed=True)
    total = sum(len(one.stems()) for one in roots)
    there = sum(len(one.images) for one in roots)
    return Source(
        name="voc",
        classes=names,
        items=_Reader(folder, names, bool(chosen), semantic, checked_frame(boxes)).items(roots),
        description=f"{total} images of {folder.resolve().name} in Pascal VOC's layout"
        + (f", those of {there} that are in its lists" if there > total else ""),
        task=features.DETECTION,
        total=total,
    )


@dataclass(frozen=True)
class _Reader:
    """Items of the folders below one folder.

    Attributes:
      folder: that names are relative to.
      names: of the classes, in label order.
      chosen: they are the user's choice, so that objects of others are left out on purpose.
      semantic: also read the masks.
      frame: see `Objects.frame`.
    """

    folder: Path
    names: tuple[str, ...]
    chosen: bool
    semantic: bool
    frame: str

    def items(self, roots: list[_Root]) -> Iterator[Item | Finding]:
        """Every image that is listed, and findings of those that are not there."""
        for root in roots:
            listed = root.stems()
            for stem in listed:
                yield self._item(root, stem)
            known = {*listed, *root.images}
            for path in sorted((root.folder / "Annotations").glob("*.xml")):
                if path.stem not in known:
                    name = path.relative_to(self.folder).as_posix()
                    yield Finding("image_missing", name, "there is no image of this name")

    def _item(self, root: _Root, stem: str) -> Item | Finding:
        if stem not in root.images:
            path = root.folder / "JPEGImages" / stem
            detail = f"a list of ImageSets/Main has it; there is no {path}.jpg or the like"
            return Finding("image_missing", path.relative_to(self.folder).as_posix(), detail)
        path = root.images[stem]
        name = path.relative_to(self.folder).as_posix()
        known = {one: place for place, one in enumerate(self.names)}
        try:
            labels = _read_xml(root.xml(stem), known)
        except _XmlError as error:
            return Finding("label_missing", name, str(error))
        attributes: dict[str, Values] = {features.SOURCE_ID: [stem]}
        if labels.size:
            attributes |= {features.HEIGHT: [labels.size[0]], features.WIDTH: [labels.size[1]]}
        findings = [Finding("annotation_invalid", name, one) for one in labels.faults]
        mask = root.folder / "SegmentationClass" / f"{stem}.png"
        if self.semantic and mask.is_file():
            try:
                data = mask.read_bytes()
                attributes |= semantic_features(data, size=labels.size, from_zero=False)
            except PixelLabelError as error:
                findings.append(Finding(error.kind, name, f"{mask.name}: {error}"))
        objects, found = without_repeats(replace(labels.objects, frame=self.frame), name)
        findings += found
        if self.chosen:
            objects, found = without_unknown(objects, name)
            findings += found
        return Item(
            name=name,
            split=(root.splits or {}).get(stem, ""),
            path=str(path),
            objects=objects,
            attributes=attributes,
            findings=tuple(findings),
        )


def _roots(folder: Path) -> list[Path]:
    for pattern in ("JPEGImages", "*/JPEGImages", "*/*/JPEGImages"):
        found = sorted(one.parent for one in folder.glob(pattern) if one.is_dir())
        if found:
            bare = [one for one in found if not (one / "Annotations").is_dir()]
            if bare:
                raise IngestError(
                    f"{bare[0]} has JPEGImages but no Annotations; put the XML files there"
                )
            return found
    raise IngestError(f"{folder} has no JPEGImages folder; give {_LAYOUT}")


def _read_root(folder: Path) -> _Root:
    images: dict[str, Path] = {}
    for one in members(folder / "JPEGImages"):
        path = Path(one.path)
        other = images.setdefault(path.stem, path)
        if other != path:
            raise IngestError(
                f"{other} and {path} would have the same annotation file; rename or remove one"
            )
    return _Root(folder, images, _splits(folder / "ImageSets" / "Main", images))


def _splits(lists: Path, images: Mapping[str, Path]) -> dict[str, str] | None:
    """Split by stem, as the lists say; None where there are none."""
    found: dict[str, str] = {}
    files = sorted(lists.glob("*.txt")) if lists.is_dir() else []
    have = one_of_each((one.stem for one in files if one.stem.lower() != _TRAINVAL), str(lists))
    every = [(split, lists / f"{have[split]}.txt") for split in features.SPLITS if split in have]
    # The last: it only adds what no other list has.
    every += [("", one) for one in files if one.stem.lower() == _TRAINVAL]
    counts = Counter(folded(stem) for stem in images)
    by_case = {folded(stem): stem for stem in images if counts[folded(stem)] == 1}
    for split, file in every:
        for line in read_lines(file):
            stem = _stem(line, images, by_case)
            if not split and stem in found:
                continue
            if found.setdefault(stem, split) != split:
                raise IngestError(
                    f"{lists} has {stem} in both the {found[stem]} and the {split} list; an image "
                    "to evaluate on must not be trained on: remove it from one"
                )
    if every:
        for file in set(files) - {one for _, one in every}:
            stems = {_stem(line, images, by_case) for line in read_lines(file)}
            lost = sorted((stems & set(images)) - set(found))
            if lost and not _CLASS_LIST.search(file.stem):
                raise IngestError(
                    f"{file} lists {len(lost)} images that are in no list of a split, e.g. "
                    f"{lost[0]}, and is called by none; splits are called {known_words()}: "
                    "rename it, or move it away"
                )
    return found if every else None


def _stem(line: str, images: Mapping[str, Path], by_case: Mapping[str, str]) -> str:
    """The name that a line of a list means: of an image, where there is one."""
    name = with_slashes(line).rpartition("/")[2]
    spellings = [name, _FLAGGED.sub("", name)]
    spellings += [_EXTENSION.sub("", one) for one in spellings]
    exact = next((one for one in spellings if one in images), None)
    # Windows does not tell capitals apart, and a Mac not the forms of one letter.
    near = next((by_case[folded(one)] for one in spellings if folded(one) in by_case), None)
    return exact or near or spellings[-1]


def _names(folder: Path, roots: list[_Root]) -> tuple[str, ...]:
    """The names of all objects, sorted.

    Raises:
      IngestError: there is none.
    """
    found: set[str] = set()
    first = ""
    for root in roots:
        for stem in root.stems():
            if stem not in root.images:
                first = first or f"no image is called {stem}, as a list in ImageSets/Main says"
            try:
                labels = _read_xml(root.xml(stem), {})
            except _XmlError as error:
                first = first or str(error)
                continue  # It is named when the items are read.
            found.update(labels.names)
            first = first or "; ".join(labels.faults[:1])
    if not found:
        reason = f", e.g. {first}" if first else ""
        raise IngestError(f"{folder} has no XML file with an object{reason}; give {_LAYOUT}")
    return tuple(sorted(found))


def _read_xml(path: Path, known: dict[str, int]) -> _Labels:
    """The labels in one file; an object that is none is named in `faults`.

    Raises:
      _XmlError: no such file, or not an annotation.
    """
    top = _parse(path)
    boxes, names, ids, faults = [], [], [], []
    flags: dict[str, list[int]] = {key: [] for key in _FLAGS}
    for place, one in enumerate(top.findall("object")):
        name = class_name(one.findtext("name") or "")
        try:
            box = tuple(
                float(one.findtext(f"bndbox/{side}") or "")
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
        except ValueError:
            faults.append(f"{path.name}: object {place} ({name or 'no name'}) has no whole bndbox")
            continue
        if not name:
            faults.append(f"{path.name}: object {place} has no name")
            continue
        boxes.append(box)
        names.append(name)
        ids.append(place)
        for key, tag in _FLAGS.items():
            flags[key].append(int((one.findtext(tag) or "").strip() == "1"))
    objects = Objects(
        boxes=tuple(boxes),
        classes=tuple(known.get(name, -1) for name in names),
        ids=tuple(ids),
        flags={key: tuple(values) for key, values in flags.items()},
    )
    return _Labels(objects, tuple(names), _size(top), tuple(faults))


def _size(top: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width); some tools leave them out or write 0."""
    try:
        height, width = (int(top.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def _parse(path: Path) -> ElementTree.Element:
    """The root element. Entities, by which a small file can become any size, are refused."""
    builder = ElementTree.TreeBuilder()
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_XML_BYTES + 1)
        if len(data) > _MAX_XML_BYTES:
            raise _XmlError(f"{path.name} is over {_MAX_XML_BYTES:,} bytes")
        data, encoding = xml_as_utf8(data, path.name)
        parser = expat.ParserCreate(encoding)
        parser.buffer_text = True
        parser.StartElementHandler = builder.start
        parser.EndElementHandler = builder.end
        parser.CharacterDataHandler = builder.data
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.Parse(data, True)
        top = builder.close()
    except FileNotFoundError:
        raise _XmlError(f"there is no {path.name}") from None
    except IngestError as error:
        raise _XmlError(str(error)) from error
    except (OSError, expat.ExpatError, ValueError, LookupError) as error:
        raise _XmlError(f"{path.name}: {error}") from error
    if top.tag != "annotation":
        raise _XmlError(f"{path.name} is <{top.tag}>, no <annotation>")
    return top


def _refuse_doctype(*_: object) -> None:
    raise _XmlError("a DOCTYPE is not read; remove it")
