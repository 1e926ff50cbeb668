"""COCO: detection with masks and crowds, optionally with captions and pixel labels.

    sightline ingest coco ~/coco --out data/coco
    sightline ingest coco annotations=mine.json images=images.zip --out data/mine

| in the folder | is |
|---|---|
| `annotations/instances_{train,val}2017.json`, or `annotations_trainval2017.zip` | the labels |
| `train2017/`, `train2017.zip` or `train2017.tar`, likewise `val2017` | the images |
| `annotations/captions_{train,val}2017.json` | captions, with `captions=true` |
| `annotations/panoptic_{train,val}2017.json` and folders or zips of that name | `panoptic=true` |

Published figures are measured on val2017, so it becomes the `test` split, and 2 % of train2017 are
held out for validation by content; `val=validation` uses val2017 for validation. Category ids have
gaps: classes are numbered from 0 in order of the ids, which `category_ids` in `dataset.json` lists.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfx_pipeline.ingest.archives import Member, members, read_member
from tfx_pipeline.ingest.class_names import check_names
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.frames import checked_frame
from tfx_pipeline.ingest.objects import without_repeats
from tfx_pipeline.ingest.source import IngestError, Item, Objects, Request, Source, Values, jobs
from tfx_pipeline.ingest.sources.coco_index import (
    IMAGE,
    PANOPTIC,
    SEMANTIC,
    CocoIndex,
    CocoReader,
    CocoWriter,
    ImageEntry,
)
from tfx_pipeline.ingest.sources.coco_layout import (
    LAYOUT,
    CocoPart,
    ExtraLabels,
    named_part,
    parts_of,
)
from tfx_pipeline.ingest.sources.coco_panoptic import (
    PixelLabelError,
    panoptic_features,
    semantic_features,
)
from tfx_pipeline.ingest.sources.json_stream import Document, read_list
from tfx_pipeline.ingest.split_words import split_of_word
from trainers.data import features

_VAL_SPLITS = ("test", "validation")
# Of the training images. As val2017 fills test, only the ratio of the first two matters.
_FRACTIONS = (0.97, 0.02, 0.01)
_MAX_PIXEL_LABELS = 255


@jobs.register("coco")
def source(
    request: Request,
    *,
    annotations: str = "",
    images: str = "",
    split: str = "",
    val: str = "test",
    year: str = "",
    only: str = "",
    captions: bool = False,
    panoptic: bool = False,
    semantic: str = "",
    boxes: str = "",
) -> Source:
    """The images and objects of COCO or of a data set in COCO's format.

    Args:
      request: a folder in COCO's layout; not needed with `annotations` and `images`.
      annotations: an instances file.
      images: the folder, zip or tar of its images.
      split: the split for `annotations`; by default from the file name, otherwise by content.
      val: the split for val2017, `test` or `validation`.
      year: the year to read if there are several: `2014` or `2017`.
      only: `train` or `val`, if the images of the other are missing.
      captions: also read the captions.
      panoptic: also read the panoptic labels; their classes start at 1 in order of their ids.
      semantic: a folder or archive with a PNG of labels for each image, by the same name; in one
        named `stuffthingmaps...` labels start at 0, in others 0 is void.
      boxes: `stored` or `shown`: the pixels that boxes and masks refer to, for images that EXIF
        rotates and whose declared size does not decide it.

    Raises:
      IngestError: a file is missing, not JSON or not in COCO's format, or an id appears twice.
    """
    extras = ExtraLabels(captions, panoptic)
    val = split_of_word(val) or val
    if val not in _VAL_SPLITS:
        raise IngestError(f"val must be {' or '.join(_VAL_SPLITS)}, got {val!r}")
    frame = checked_frame(boxes)
    if annotations or images:
        parts = [named_part(request, (annotations, images, split), val, extras)]
    else:
        parts = parts_of(request.folder(LAYOUT), val=val, year=year, only=only, extras=extras)
    categories = _categories([one.instances for one in parts])
    pixel_labels = _pixel_labels([one.panoptic[0] for one in parts if one.panoptic])
    classes = _unique(categories)
    # COCO's own names are exempt; in other files, two spellings are probably one class.
    check_names(classes, str(parts[0].instances), typed=not parts[0].published)
    index = CocoIndex(request.work / "coco.sqlite")
    labels = Path(semantic).expanduser() if semantic else None
    with index.writing() as writer:
        for part in parts:
            _load(writer, part, labels)
        masks = not writer.maskless
    reader = _CocoItems(index, parts, list(categories), pixel_labels, labels, frame=frame)
    total, objects = index.count("images"), index.count("annotations")
    files = " and ".join(one.instances.name for one in parts)
    return Source(
        name="coco",
        classes=classes,
        items=reader.items(),
        description=f"{total:,} images and {objects:,} annotations of {files}",
        task=features.DETECTION,
        category_ids=tuple(categories),
        fractions=_FRACTIONS,
        keep_duplicates=parts[0].published,
        masks=masks,
        total=total,
    )


class _CocoItems:
    """Generates the items of an index, by part and image id."""

    def __init__(
        self,
        index: CocoIndex,
        parts: list[CocoPart],
        category_ids: list[int],
        pixel_labels: Mapping[int, int],
        semantic: Path | None,
        *,
        frame: str,
    ) -> None:
        self._frame = frame
        self._index, self._parts, self._pixel_labels = index, parts, pixel_labels
        self._classes = {ident: index for index, ident in enumerate(category_ids)}
        self._semantic = semantic

    def items(self) -> Iterator[Item | IngestFinding]:
        with self._index.reading() as reader:
            for number, part in enumerate(self._parts):
                yield from _orphans(reader, number, part)
                for entry in reader.images(number):
                    yield self._item(reader, number, entry)
                if part.own:
                    yield from _unlisted(reader, number, part)

    def _item(self, reader: CocoReader, number: int, entry: ImageEntry) -> Item | IngestFinding:
        part = self._parts[number]
        name = f"{part.images.stem}/{entry.name}"
        member, near, by_name = reader.file(number, IMAGE, entry.name), None, None
        if member is None:
            member = near = reader.file_spelt_otherwise(number, entry.name)
        if member is None:
            member = by_name = reader.file_of_elsewhere(number, entry.name)
        if member is None:
            what = f"image {entry.id} of {part.instances.name}: {part.images} has no {entry.name}"
            return IngestFinding("image_missing", name, what)
        found, attributes = self._attributes(reader, number, entry)
        every = [*(("annotation_invalid", one) for one in entry.faults), *found]
        every += [("image_by_name", f"{entry.name} is {by_name.name}")] if by_name else []
        every += [("spelling_differs", f"{entry.name} is {near.name}")] if near else []
        objects = self._objects(entry)
        repeated: tuple[IngestFinding, ...] = ()
        if not part.published:  # Published figures include the repetitions in COCO's files.
            objects, repeated = without_repeats(objects, name)
        return Item(
            name=name,
            split=part.split,
            path=member.path,
            offset=member.offset,
            length=member.length,
            deflated=member.deflated,
            objects=objects,
            attributes=attributes,
            findings=(*(IngestFinding(kind, name, detail) for kind, detail in every), *repeated),
        )

    def _objects(self, entry: ImageEntry) -> Objects:
        every = entry.annotations
        return Objects(
            boxes=tuple(one.box for one in every),
            classes=tuple(self._classes.get(one.category, -1) for one in every),
            ids=tuple(one.id for one in every),
            areas=tuple(one.area for one in every),
            is_crowd=tuple(one.is_crowd for one in every),
            segmentations=tuple(one.segmentation for one in every),
            frame=self._frame,
        )

    def _attributes(
        self, reader: CocoReader, number: int, entry: ImageEntry
    ) -> tuple[list[tuple[str, str]], dict[str, Values]]:
        part, found = self._parts[number], []
        made: dict[str, Values] = {features.SOURCE_ID: [str(entry.id)]}
        if entry.size is not None:
            made |= {features.HEIGHT: [entry.size[0]], features.WIDTH: [entry.size[1]]}
        if part.captions:
            made[features.CAPTION] = reader.captions(number, entry.id)
        extra_labels = ((self._panoptic, part.panoptic), (self._semantic_of, self._semantic))
        for read, given in extra_labels:
            try:
                made |= read(reader, number, entry) if given else {}
            except PixelLabelError as error:
                found.append((error.kind, str(error)))
        return found, made

    def _panoptic(self, reader: CocoReader, number: int, entry: ImageEntry) -> dict[str, Values]:
        listed = reader.panoptic(number, entry.id)
        if listed is None:
            raise PixelLabelError("mask_invalid", "panoptic: the image is not listed")
        name, segments = listed
        data = _png(reader.file(number, PANOPTIC, name), name)
        return panoptic_features(data, segments, labels=self._pixel_labels, size=entry.size)

    def _semantic_of(self, reader: CocoReader, number: int, entry: ImageEntry) -> dict[str, Values]:
        name = Path(entry.name).with_suffix(".png").as_posix()
        data = _png(reader.file(number, SEMANTIC, name), name)
        from_zero = self._semantic is not None and self._semantic.name.startswith("stuffthingmaps")
        return semantic_features(data, size=entry.size, from_zero=from_zero)


def _orphans(reader: CocoReader, number: int, part: CocoPart) -> Iterator[IngestFinding]:
    """Findings about annotations without an image."""
    file = part.instances.name
    for ident, image, fault in reader.orphans(number):
        if image is None:
            yield IngestFinding("annotation_invalid", file, fault or "")
        else:
            detail = f"annotation {ident} is of image {image}, which is not listed"
            yield IngestFinding("image_missing", file, detail)


def _unlisted(reader: CocoReader, number: int, part: CocoPart) -> Iterator[IngestFinding]:
    """Findings about images that the annotation file does not list; call it after its images."""
    for name in reader.unused(number):
        if name == part.instances.name:
            continue
        # In archives, names often begin with the name of the folder.
        below = name.removeprefix(f"{part.images.stem}/")
        what = f"not listed in {part.instances.name}"
        yield IngestFinding("label_missing", f"{part.images.stem}/{below}", what)


def _png(member: Member | None, name: str) -> bytes:
    if member is None:
        raise PixelLabelError("mask_invalid", f"PNG of labels: there is no {name}")
    try:
        return read_member(
            member.path, offset=member.offset, length=member.length, deflated=member.deflated
        )
    except OSError as error:
        raise PixelLabelError("mask_invalid", f"PNG of labels: {error}") from error


def _load(writer: CocoWriter, part: CocoPart, semantic: Path | None) -> None:
    number = writer.add_instances(part.instances)
    if not writer.add_files(number, IMAGE, members(part.images)):
        raise IngestError(f"{part.images} has none of the images of {part.instances}")
    if part.captions:
        writer.add_captions(number, part.captions)
    if part.panoptic:
        writer.add_panoptic(number, part.panoptic[0])
        writer.add_files(number, PANOPTIC, members(part.panoptic[1]))
    if semantic:
        writer.add_files(number, SEMANTIC, members(semantic))


def _categories(documents: list[Document]) -> dict[int, str]:
    """Id -> name, sorted by id; all files must have the same categories."""
    found: dict[int, str] = {}
    for document in documents:
        listed: dict[int, str] = {}
        for one in read_list(document, "categories"):
            ident, name = _category(one, document)
            if ident in listed:
                raise IngestError(f"{document} has two categories with id {ident}; renumber them")
            listed[ident] = name
        if not listed:
            raise IngestError(f"{document} has no `categories`; use a COCO instances file")
        if found and found != listed:
            differ = sorted(set(found.items()) ^ set(listed.items()))[0]
            raise IngestError(
                f"{documents[0].name} and {document.name} have different categories; the first "
                f"difference is {differ[0]}: {differ[1]!r}"
            )
        found = listed
    return dict(sorted(found.items()))


def _category(entry: Mapping[str, Any], document: Document) -> tuple[int, str]:
    ident, name = entry.get("id"), entry.get("name")
    if type(ident) is not int or not isinstance(name, str) or not name:
        raise IngestError(
            f"{document}: a category has id {ident!r} and name {name!r}; it needs an integer id "
            "and a name"
        )
    return ident, name


def _pixel_labels(documents: list[Document]) -> dict[int, int]:
    """Panoptic category id -> label, from 1 in order of the ids."""
    if not documents:
        return {}
    found = _categories(documents)
    if len(found) > _MAX_PIXEL_LABELS:
        raise IngestError(
            f"{documents[0]} has {len(found)} categories; 8-bit labels allow at most "
            f"{_MAX_PIXEL_LABELS}"
        )
    return {ident: label for label, ident in enumerate(found, start=1)}


def _unique(categories: Mapping[int, str]) -> tuple[str, ...]:
    counts = Counter(categories.values())
    return tuple(
        f"{name} ({ident})" if counts[name] > 1 else name for ident, name in categories.items()
    )
