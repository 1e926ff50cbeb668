"""Finds COCO's annotation files and images, by its layout or by options."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tfx_pipeline.ingest.archives import members
from tfx_pipeline.ingest.source import IngestError, Request
from tfx_pipeline.ingest.sources.json_stream import Document
from tfx_pipeline.ingest.split_words import ANY_WORD, known_words, one_of_each, split_of_word
from trainers.data.features import SPLITS

LAYOUT = (
    "a folder with annotations/instances_train2017.json and train2017/ (or train2017.zip), "
    "or set annotations=FILE images=FOLDER"
)
_TAG = re.compile(rf"_({ANY_WORD})[_-]?(\d*)(?=\.json$)", re.IGNORECASE)
# The annotation file beside the images of each split in Roboflow's exports.
_BESIDE = "_annotations.coco.json"
_JSON = re.compile(r"(instances|captions|panoptic)_\w+\.json$")


@dataclass(frozen=True)
class CocoPart:
    """One annotation file and its images.

    Attributes:
      split: the split of its images; empty to decide by content.
      instances: the annotation file.
      images: a folder or an archive.
      captions: a captions file, if requested.
      panoptic: a panoptic file and the folder or archive of its PNGs, if requested.
      own: whether no other annotation file uses these images.
      published: whether it is in COCO's own layout, so that figures must be comparable with
        published ones.
    """

    split: str
    instances: Document
    images: Path
    captions: Document | None = None
    panoptic: tuple[Document, Path] | None = None
    own: bool = False
    published: bool = False


@dataclass(frozen=True)
class ExtraLabels:
    """Labels to read besides boxes and masks."""

    captions: bool
    panoptic: bool


def parts_of(
    folder: Path, *, val: str, year: str, only: str, extras: ExtraLabels
) -> list[CocoPart]:
    """The parts of a folder in COCO's layout, train before val.

    Args:
      folder: contains annotation files and images.
      val: the split of the images of `val`.
      year: of the files to read; may be empty if there is only one.
      only: `train` or `val`; empty for both.
      extras: labels to read besides boxes and masks.

    Raises:
      IngestError: images without annotations or annotations without images, several years, or no
        files.
    """
    if only and split_of_word(only) is None:
        raise IngestError(f"only must be train or val, got {only!r}")
    beside = _parts_beside(folder, only)
    if beside:
        return beside
    documents = _documents(folder)
    tags = _tags(folder, documents, year)
    kinds = one_of_each({kind for kind, _ in tags}, str(folder))
    if "test" in kinds:
        val = "validation"  # There is a labeled test split.
    parts = []
    for kind, number in sorted(tags, key=lambda one: SPLITS.index(split_of_word(one[0]) or "")):
        if only and split_of_word(only) != split_of_word(kind):
            continue
        tag = kind + number
        instances = documents.get(f"instances_{tag}.json")
        if instances is None:
            raise IngestError(
                f"{folder / 'annotations' / f'instances_{tag}.json'} does not exist, but images "
                f"of {tag} do; add it, or annotations_trainval{number}.zip beside "
                f"{tag}, or set only={'val' if kind == 'train' else 'train'}"
            )
        folder_of_images = _find(folder, tag)
        if folder_of_images is None:
            raise IngestError(
                f"{folder} has {instances.name} but no {tag}/, {tag}.zip or {tag}.tar; add the "
                f"images, or set only={'val' if kind == 'train' else 'train'}"
            )
        split = val if kind == "val" else split_of_word(kind) or ""
        part = CocoPart(split, instances, folder_of_images, own=True, published=True)
        parts.append(_with_extras(part, documents, extras))
    if not parts:
        raise IngestError(f"{folder} has no annotations of {only or 'COCO'}; expected {LAYOUT}")
    return parts


def _parts_beside(folder: Path, only: str) -> list[CocoPart]:
    """A part for each split folder that contains images and their annotation file."""
    found = {one.parent.name: one for one in sorted(folder.glob(f"*/{_BESIDE}"))}
    splits = one_of_each(found, str(folder))
    others = sorted(set(found) - set(splits.values()))
    if others:
        raise IngestError(
            f"{found[others[0]]} is not in the folder of a split; names of splits are "
            f"{known_words()}"
        )
    wanted = [one for one in SPLITS if one in splits and only in ("", one, splits[one])]
    files = [found[splits[one]] for one in wanted]
    return [
        CocoPart(split, Document(file), file.parent, own=True)
        for split, file in zip(wanted, files, strict=True)
    ]


def _tags(folder: Path, documents: Mapping[str, Document], year: str) -> set[tuple[str, str]]:
    """(train or val, year) of all annotation files and folders or archives of images."""
    names = [one for one in documents if one.startswith("instances_")]
    tags = {found.groups() for found in map(_TAG.search, names) if found}
    for root in (folder, folder / "images"):
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            found = re.fullmatch(r"(train|val)(\d{4})(\.zip|\.tar)?", path.name)
            if found:
                tags.add(found.groups()[:2])
    years = sorted({one[1] for one in tags})
    if year and year not in years:
        raise IngestError(
            f"{folder} has no files of {year}; it has {', '.join(years) or 'nothing'}"
        )
    if len(years) > 1 and not year:
        raise IngestError(
            f"{folder} has images of {' and '.join(years)}, which overlap; set year={years[-1]}"
        )
    return {(one[0], one[1]) for one in tags if year in ("", one[1])}


def _documents(folder: Path) -> dict[str, Document]:
    """Name -> annotation file; unpacked files have precedence over files in zips."""
    found: dict[str, Document] = {}
    for root in (folder / "annotations", folder):
        for path in sorted(root.glob("*.json")):
            found.setdefault(path.name, Document(path))
    for root in (folder / "annotations", folder):
        for path in sorted(root.glob("*annotations*.zip")):
            for one in members(path):
                if _JSON.search(one.name):
                    found.setdefault(Path(one.name).name, Document(path, one.name))
    return found


def _find(folder: Path, tag: str) -> Path | None:
    for root in (folder, folder / "images", folder / "annotations"):
        for suffix in ("", ".zip", ".tar"):
            if (root / f"{tag}{suffix}").exists():
                return root / f"{tag}{suffix}"
    return None


def named_part(
    request: Request, given: tuple[str, str, str], val: str, extras: ExtraLabels
) -> CocoPart:
    """The part for the options `annotations`, `images` and `split`."""
    annotations, images, split = given
    if not (annotations and images):
        raise IngestError(
            "annotations=FILE and images=FOLDER must be set together; set both or neither"
        )
    if split and split_of_word(split) is None:
        raise IngestError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    split = split_of_word(split) or ""
    path, folder_of_images = (_existing(request, one) for one in (annotations, images))
    tag = _TAG.search(path.name)
    if tag and not split:
        split = val if tag.group(1) == "val" else split_of_word(tag.group(1)) or ""
    if not split:
        stem = path.name.removesuffix(".json")
        split = split_of_word(stem) or split_of_word(path.parent.name) or ""
    beside = {one.name: Document(one) for one in sorted(path.parent.glob("*.json"))}
    return _with_extras(CocoPart(split, Document(path), folder_of_images), beside, extras)


def _existing(request: Request, given: str) -> Path:
    """A path as given, or relative to the source folder."""
    path = Path(given).expanduser()
    if not path.exists() and request.where and (Path(request.where).expanduser() / path).exists():
        path = Path(request.where).expanduser() / path
    if not path.exists():
        raise IngestError(f"{path} does not exist; check annotations= and images=")
    return path


def _with_extras(
    part: CocoPart, documents: Mapping[str, Document], extras: ExtraLabels
) -> CocoPart:
    stem = part.instances.name.removeprefix("instances_").removesuffix(".json")
    captions = panoptic = None
    if extras.captions:
        captions = _extra_file(part, documents, f"captions_{stem}.json", "captions=true")
    if extras.panoptic:
        document = _extra_file(part, documents, f"panoptic_{stem}.json", "panoptic=true")
        pngs = _find(document.path.parent, f"panoptic_{stem}")
        if pngs is None:
            raise IngestError(
                f"{document.path.parent} has no panoptic_{stem}/ or panoptic_{stem}.zip with the "
                "PNGs; unpack panoptic_annotations there, or remove panoptic=true"
            )
        panoptic = (document, pngs)
    return replace(part, captions=captions, panoptic=panoptic)


def _extra_file(
    part: CocoPart, documents: Mapping[str, Document], name: str, option: str
) -> Document:
    if name not in documents:
        where = part.instances.path.parent
        raise IngestError(f"{where / name} does not exist; add it, or remove {option}")
    return documents[name]
