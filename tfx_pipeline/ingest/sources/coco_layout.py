"""Where COCO's annotation files and pictures are: in its own layout, or as they are named."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfx_pipeline.ingest.archives import members
from tfx_pipeline.ingest.source import IngestError, Request
from tfx_pipeline.ingest.sources.json_stream import Document
from trainers.data import features

LAYOUT = (
    "a folder with annotations/instances_train2017.json and train2017/ (or train2017.zip), "
    "or say annotations=FILE images=FOLDER"
)
_TAG = re.compile(r"_(train|val)(\d*)(?=\.json$)")
_JSON = re.compile(r"(instances|captions|panoptic)_\w+\.json$")


@dataclass(frozen=True)
class Part:
    """One annotation file and the pictures that it is about.

    Attributes:
      split: where its pictures go; empty is decided by content.
      instances: the annotation file.
      pictures: a folder or an archive.
      captions: a captions file, where wished.
      panoptic: a panoptic file and the folder or archive of its PNGs, where wished.
      own: no other annotation file is about these pictures.
    """

    split: str
    instances: Document
    pictures: Path
    captions: Document | None = None
    panoptic: tuple[Document, Path] | None = None
    own: bool = False


@dataclass(frozen=True)
class Wishes:
    """What to read besides boxes and masks."""

    captions: bool
    panoptic: bool


def parts_of(folder: Path, *, val: str, year: str, only: str, wishes: Wishes) -> list[Part]:
    """The parts of a folder in COCO's layout, train before val.

    Args:
      folder: holds annotation files and pictures.
      val: the split of the pictures of `val`.
      year: of the files to take; empty takes the only one there is.
      only: `train` or `val`; empty takes both where both are there.
      wishes: what else to find.

    Raises:
      IngestError: pictures without annotations or annotations without pictures, several years, or
        nothing at all.
    """
    if only not in ("", "train", "val"):
        raise IngestError(f"only must be train or val, got {only!r}")
    documents = _documents(folder)
    tags = _tags(folder, documents, year)
    parts = []
    for kind, number in sorted(tags):
        if only and only != kind:
            continue
        tag = kind + number
        instances = documents.get(f"instances_{tag}.json")
        if instances is None:
            raise IngestError(
                f"{folder / 'annotations' / f'instances_{tag}.json'} does not exist, and pictures "
                f"of {tag} are there; put it there, or annotations_trainval{number}.zip beside "
                f"{tag}, or say only={'val' if kind == 'train' else 'train'}"
            )
        pictures = _place(folder, tag)
        if pictures is None:
            raise IngestError(
                f"{folder} has {instances.name} but no {tag}/, {tag}.zip or {tag}.tar; put the "
                f"pictures there, or say only={'val' if kind == 'train' else 'train'}"
            )
        split = "train" if kind == "train" else val
        parts.append(_with_wishes(Part(split, instances, pictures, own=True), documents, wishes))
    if not parts:
        raise IngestError(f"{folder} has no annotations of {only or 'COCO'}; give {LAYOUT}")
    return parts


def _tags(folder: Path, documents: Mapping[str, Document], year: str) -> set[tuple[str, str]]:
    """(train or val, year) of every annotation file and every folder or archive of pictures."""
    names = [one for one in documents if one.startswith("instances_")]
    tags = {found.groups() for found in map(_TAG.search, names) if found}
    for root in (folder, folder / "images"):
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            found = re.fullmatch(r"(train|val)(\d{4})(\.zip|\.tar)?", path.name)
            if found:
                tags.add(found.groups()[:2])
    years = sorted({one[1] for one in tags})
    if year and year not in years:
        raise IngestError(f"{folder} has nothing of {year}; it has {', '.join(years) or 'nothing'}")
    if len(years) > 1 and not year:
        raise IngestError(
            f"{folder} has pictures of {' and '.join(years)}, which are partly the same; "
            f"say year={years[-1]}"
        )
    return {(one[0], one[1]) for one in tags if year in ("", one[1])}


def _documents(folder: Path) -> dict[str, Document]:
    """Name -> annotation file; unpacked ones come before those in zips."""
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


def _place(folder: Path, tag: str) -> Path | None:
    for root in (folder, folder / "images", folder / "annotations"):
        for suffix in ("", ".zip", ".tar"):
            if (root / f"{tag}{suffix}").exists():
                return root / f"{tag}{suffix}"
    return None


def named_part(request: Request, given: tuple[str, str, str], val: str, wishes: Wishes) -> Part:
    """The part of the options `annotations`, `images` and `split`."""
    annotations, images, split = given
    if not (annotations and images):
        raise IngestError("annotations=FILE and images=FOLDER go together; give both or neither")
    if split not in ("", *features.SPLITS):
        raise IngestError(f"split must be one of {', '.join(features.SPLITS)}, got {split!r}")
    path, pictures = (_existing(request, one) for one in (annotations, images))
    tag = _TAG.search(path.name)
    if tag and not split:
        split = "train" if tag.group(1) == "train" else val
    beside = {one.name: Document(one) for one in sorted(path.parent.glob("*.json"))}
    return _with_wishes(Part(split, Document(path), pictures), beside, wishes)


def _existing(request: Request, given: str) -> Path:
    """A path as given or below the source folder."""
    path = Path(given).expanduser()
    if not path.exists() and request.where and (Path(request.where).expanduser() / path).exists():
        path = Path(request.where).expanduser() / path
    if not path.exists():
        raise IngestError(f"{path} does not exist; check annotations= and images=")
    return path


def _with_wishes(part: Part, documents: Mapping[str, Document], wishes: Wishes) -> Part:
    stem = part.instances.name.removeprefix("instances_").removesuffix(".json")
    captions = panoptic = None
    if wishes.captions:
        captions = _wished(part, documents, f"captions_{stem}.json", "captions=true")
    if wishes.panoptic:
        document = _wished(part, documents, f"panoptic_{stem}.json", "panoptic=true")
        pictures = _place(document.path.parent, f"panoptic_{stem}")
        if pictures is None:
            raise IngestError(
                f"{document.path.parent} has no panoptic_{stem}/ or panoptic_{stem}.zip with the "
                "PNGs; unpack panoptic_annotations there, or leave panoptic=true out"
            )
        panoptic = (document, pictures)
    return Part(part.split, part.instances, part.pictures, captions, panoptic, part.own)


def _wished(part: Part, documents: Mapping[str, Document], name: str, wish: str) -> Document:
    if name not in documents:
        where = part.instances.path.parent
        raise IngestError(f"{where / name} does not exist; put it there, or leave {wish} out")
    return documents[name]
