"""Pascal VOC: one XML file of objects for each image.

    sightline ingest voc ~/VOCdevkit --out data/voc

The source is a folder with `JPEGImages` and `Annotations`, or one or two levels above such folders:
`VOCdevkit` has one per year, and all are read. `ImageSets/Main/{train,val,test}.txt` list the
images of each split. Images that are only in `trainval.txt`, and all images without lists, are
split by content. A line of a list is the name of an image, with or without its folder and
extension.

Boxes are used as written, as in the TF Object Detection API and TensorFlow Datasets. VOC counts
pixels from 1 and includes the last one, so boxes are half a pixel off; all published TFRecords of
VOC have this offset, and comparable ones need it too.
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
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.frames import checked_frame
from tfx_pipeline.ingest.objects import without_repeats, without_unknown
from tfx_pipeline.ingest.source import IngestError, Item, Objects, Request, Source, Values, jobs
from tfx_pipeline.ingest.sources.coco_panoptic import PixelLabelError, semantic_features
from tfx_pipeline.ingest.split_words import ANY_WORD, known_words, one_of_each
from tfx_pipeline.ingest.text_files import read_lines, xml_as_utf8
from trainers.data import features

_LAYOUT = "a Pascal VOC folder with JPEGImages/, Annotations/ and optionally ImageSets/Main/"
_TRAINVAL = "trainval"
# Lists of one class have 1, -1 or 0 (difficult) after the name.
_FLAGGED = re.compile(r"\s+(?:-1|0|1)$")
_MAX_XML_BYTES = 16 * 2**20
_EXTENSION = re.compile(rf"\.({'|'.join(IMAGE_SUFFIXES)}|xml)$", re.IGNORECASE)
# `cat_train.txt`, `aeroplane_trainval.txt`.
_CLASS_LIST = re.compile(rf"_({ANY_WORD})$", re.IGNORECASE)
_FLAGS = {features.DIFFICULT: "difficult", features.TRUNCATED: "truncated"}


class _XmlError(ValueError):
    """A file that is not a VOC annotation."""


@dataclass(frozen=True)
class _Labels:
    """The content of one XML file; `names` are the class names of the objects, in order."""

    objects: Objects
    names: tuple[str, ...]
    size: tuple[int, int] | None
    faults: tuple[str, ...]


@dataclass(frozen=True)
class _Root:
    """One folder with `JPEGImages`.

    Attributes:
      folder: the parent of `JPEGImages`.
      images: stem -> path.
      splits: stem -> split (empty to decide by content) of the images to read; None to read all.
    """

    folder: Path
    images: dict[str, Path]
    splits: dict[str, str] | None

    def stems(self) -> list[str]:
        """The images to read, in order."""
        return sorted(self.images if self.splits is None else self.splits)

    def xml(self, stem: str) -> Path:
        """The annotation file of an image."""
        return self.folder / "Annotations" / f"{stem}.xml"


@jobs.register("voc")
def source(
    request: Request, *, classes: str = "", semantic: bool = False, boxes: str = ""
) -> Source:
    """The images and objects of Pascal VOC, with `difficult` and `truncated` flags.

    Args:
      request: the folder; see the module.
      classes: comma-separated names; by default all names in the XML files, sorted, which is VOC's
        order. Objects of other classes are dropped and counted.
      semantic: also read `SegmentationClass`; label 0 is background and void.
      boxes: `stored` or `shown`: the pixels that boxes refer to, for images that EXIF rotates and
        whose declared size does not decide it.

    Raises:
      IngestError: no such folder, no objects, or an image in two lists.
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
        items=_VocItems(folder, names, bool(chosen), semantic, checked_frame(boxes)).items(roots),
        description=f"{total} images of {folder.resolve().name} in Pascal VOC's layout"
        + (f", of {there} those in its lists" if there > total else ""),
        task=features.DETECTION,
        total=total,
    )


@dataclass(frozen=True)
class _VocItems:
    """Generates the items of the folders in one folder.

    Attributes:
      folder: names are relative to it.
      names: class names, in label order.
      chosen: whether the user selected the classes, so that other objects are skipped on purpose.
      semantic: whether to read the masks.
      frame: see `Objects.frame`.
    """

    folder: Path
    names: tuple[str, ...]
    chosen: bool
    semantic: bool
    frame: str

    def items(self, roots: list[_Root]) -> Iterator[Item | IngestFinding]:
        """Every listed image, and a finding for each missing one."""
        for root in roots:
            listed = root.stems()
            for stem in listed:
                yield self._item(root, stem)
            known = {*listed, *root.images}
            for path in sorted((root.folder / "Annotations").glob("*.xml")):
                if path.stem not in known:
                    name = path.relative_to(self.folder).as_posix()
                    yield IngestFinding("image_missing", name, "there is no image with this name")

    def _item(self, root: _Root, stem: str) -> Item | IngestFinding:
        if stem not in root.images:
            path = root.folder / "JPEGImages" / stem
            detail = f"listed in ImageSets/Main, but there is no {path}.jpg or the like"
            return IngestFinding("image_missing", path.relative_to(self.folder).as_posix(), detail)
        path = root.images[stem]
        name = path.relative_to(self.folder).as_posix()
        known = {one: index for index, one in enumerate(self.names)}
        try:
            labels = _read_xml(root.xml(stem), known)
        except _XmlError as error:
            return IngestFinding("label_missing", name, str(error))
        attributes: dict[str, Values] = {features.SOURCE_ID: [stem]}
        if labels.size:
            attributes |= {features.HEIGHT: [labels.size[0]], features.WIDTH: [labels.size[1]]}
        findings = [IngestFinding("annotation_invalid", name, one) for one in labels.faults]
        mask = root.folder / "SegmentationClass" / f"{stem}.png"
        if self.semantic and mask.is_file():
            try:
                data = mask.read_bytes()
                attributes |= semantic_features(data, size=labels.size, from_zero=False)
            except PixelLabelError as error:
                findings.append(IngestFinding(error.kind, name, f"{mask.name}: {error}"))
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
                    f"{bare[0]} has JPEGImages but no Annotations; add the XML files there"
                )
            return found
    raise IngestError(f"{folder} has no JPEGImages folder; expected {_LAYOUT}")


def _read_root(folder: Path) -> _Root:
    images: dict[str, Path] = {}
    for one in members(folder / "JPEGImages"):
        path = Path(one.path)
        other = images.setdefault(path.stem, path)
        if other != path:
            raise IngestError(
                f"{other} and {path} have the same annotation file; rename or remove one"
            )
    return _Root(folder, images, _splits(folder / "ImageSets" / "Main", images))


def _splits(lists: Path, images: Mapping[str, Path]) -> dict[str, str] | None:
    """Stem -> split by the lists; None without lists."""
    found: dict[str, str] = {}
    files = sorted(lists.glob("*.txt")) if lists.is_dir() else []
    have = one_of_each((one.stem for one in files if one.stem.lower() != _TRAINVAL), str(lists))
    every = [(split, lists / f"{have[split]}.txt") for split in features.SPLITS if split in have]
    # Last, because it adds only images that are in no other list.
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
                    "must be in only one split: remove it from one list"
                )
    if every:
        for file in set(files) - {one for _, one in every}:
            stems = {_stem(line, images, by_case) for line in read_lines(file)}
            lost = sorted((stems & set(images)) - set(found))
            if lost and not _CLASS_LIST.search(file.stem):
                raise IngestError(
                    f"{file} lists {len(lost)} images that are in no list of a split, e.g. "
                    f"{lost[0]}, and has no name of a split; names of splits are {known_words()}: "
                    "rename it or move it away"
                )
    return found if every else None


def _stem(line: str, images: Mapping[str, Path], by_case: Mapping[str, str]) -> str:
    """The stem for a line of a list, in the spelling of the image if it exists."""
    name = with_slashes(line).rpartition("/")[2]
    spellings = [name, _FLAGGED.sub("", name)]
    spellings += [_EXTENSION.sub("", one) for one in spellings]
    exact = next((one for one in spellings if one in images), None)
    # Windows ignores case, and macOS Unicode forms.
    near = next((by_case[folded(one)] for one in spellings if folded(one) in by_case), None)
    return exact or near or spellings[-1]


def _names(folder: Path, roots: list[_Root]) -> tuple[str, ...]:
    """The class names of all objects, sorted.

    Raises:
      IngestError: there are no objects.
    """
    found: set[str] = set()
    first = ""
    for root in roots:
        for stem in root.stems():
            if stem not in root.images:
                first = first or f"{stem} is listed in ImageSets/Main, but there is no such image"
            try:
                labels = _read_xml(root.xml(stem), {})
            except _XmlError as error:
                first = first or str(error)
                continue  # Reported when the items are read.
            found.update(labels.names)
            first = first or "; ".join(labels.faults[:1])
    if not found:
        reason = f", e.g. {first}" if first else ""
        raise IngestError(f"{folder} has no XML file with an object{reason}; expected {_LAYOUT}")
    return tuple(sorted(found))


def _read_xml(path: Path, known: dict[str, int]) -> _Labels:
    """The labels in one file; `faults` describes invalid objects.

    Raises:
      _XmlError: the file does not exist or is not an annotation.
    """
    top = _parse(path)
    boxes, names, ids, faults = [], [], [], []
    flags: dict[str, list[int]] = {key: [] for key in _FLAGS}
    for index, one in enumerate(top.findall("object")):
        name = class_name(one.findtext("name") or "")
        try:
            box = tuple(
                float(one.findtext(f"bndbox/{side}") or "")
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
        except ValueError:
            faults.append(
                f"{path.name}: object {index} ({name or 'no name'}) has no complete bndbox"
            )
            continue
        if not name:
            faults.append(f"{path.name}: object {index} has no name")
            continue
        boxes.append(box)
        names.append(name)
        ids.append(index)
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
    """(height, width); None if missing or 0, as some tools write."""
    try:
        height, width = (int(top.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def _parse(path: Path) -> ElementTree.Element:
    """The root element. Entities are rejected, as a small file could expand to any size."""
    builder = ElementTree.TreeBuilder()
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_XML_BYTES + 1)
        if len(data) > _MAX_XML_BYTES:
            raise _XmlError(f"{path.name} is larger than {_MAX_XML_BYTES:,} bytes")
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
        raise _XmlError(f"{path.name} is <{top.tag}>, not <annotation>")
    return top


def _refuse_doctype(*_: object) -> None:
    raise _XmlError("a DOCTYPE is not allowed; remove it")
