"""Where COCO's annotation files and images are: in its own layout, or as they are named."""

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
    "or say annotations=FILE images=FOLDER"
)
_TAG = re.compile(rf"_({ANY_WORD})[_-]?(\d*)(?=\.json$)", re.IGNORECASE)
# Roboflow's exports have such a file beside the images of each split.
_BESIDE = "_annotations.coco.json"
_JSON = re.compile(r"(instances|captions|panoptic)_\w+\.json$")


@dataclass(frozen=True)
class Part:
    """One annotation file and the images that it is about.

    Attributes:
      split: where its images go; empty is decided by content.
      instances: the annotation file.
      images: a folder or an archive.
      captions: a captions file, where wished.
      panoptic: a panoptic file and the folder or archive of its PNGs, where wished.
      own: no other annotation file is about these images.
      published: COCO's own layout, whose figures are to be comparable with published ones.
    """

    split: str
    instances: Document
    images: Path
    captions: Document | None = None
    panoptic: tuple[Document, Path] | None = None
    own: bool = False
    published: bool = False


@dataclass(frozen=True)
class Wishes:
    """What to read besides boxes and masks."""

    captions: bool
    panoptic: bool


def parts_of(folder: Path, *, val: str, year: str, only: str, wishes: Wishes) -> list[Part]:
    """The parts of a folder in COCO's layout, train before val.

    Args:
      folder: holds annotation files and images.
      val: the split of the images of `val`.
      year: of the files to take; empty takes the only one there is.
      only: `train` or `val`; empty takes both where both are there.
      wishes: what else to find.

    Raises:
      IngestError: images without annotations or annotations without images, several years, or
        nothing at all.
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
        val = "validation"  # A labeled test split is there; nothing needs to stand in for it.
    parts = []
    for kind, number in sorted(tags, key=lambda one: SPLITS.index(split_of_word(one[0]) or "")):
        if only and split_of_word(only) != split_of_word(kind):
            continue
        tag = kind + number
        instances = documents.get(f"instances_{tag}.json")
        if instances is None:
            raise IngestError(
                f"{folder / 'annotations' / f'instances_{tag}.json'} does not exist, and images "
                f"of {tag} are there; put it there, or annotations_trainval{number}.zip beside "
                f"{tag}, or say only={'val' if kind == 'train' else 'train'}"
            )
        folder_of_images = _place(folder, tag)
        if folder_of_images is None:
            raise IngestError(
                f"{folder} has {instances.name} but no {tag}/, {tag}.zip or {tag}.tar; put the "
                f"images there, or say only={'val' if kind == 'train' else 'train'}"
            )
        split = val if kind == "val" else split_of_word(kind) or ""
        part = Part(split, instances, folder_of_images, own=True, published=True)
        parts.append(_with_wishes(part, documents, wishes))
    if not parts:
        raise IngestError(f"{folder} has no annotations of {only or 'COCO'}; give {LAYOUT}")
    return parts


def _parts_beside(folder: Path, only: str) -> list[Part]:
    """A part for each split folder that holds its images and their annotation file."""
    found = {one.parent.name: one for one in sorted(folder.glob(f"*/{_BESIDE}"))}
    splits = one_of_each(found, str(folder))
    others = sorted(set(found) - set(splits.values()))
    if others:
        raise IngestError(
            f"{found[others[0]]} is in no split folder; splits are called {known_words()}"
        )
    wanted = [one for one in SPLITS if one in splits and only in ("", one, splits[one])]
    files = [found[splits[one]] for one in wanted]
    return [
        Part(split, Document(file), file.parent, own=True)
        for split, file in zip(wanted, files, strict=True)
    ]


def _tags(folder: Path, documents: Mapping[str, Document], year: str) -> set[tuple[str, str]]:
    """(train or val, year) of every annotation file and every folder or archive of images."""
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
            f"{folder} has images of {' and '.join(years)}, which are partly the same; "
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
    return _with_wishes(Part(split, Document(path), folder_of_images), beside, wishes)


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
        pngs = _place(document.path.parent, f"panoptic_{stem}")
        if pngs is None:
            raise IngestError(
                f"{document.path.parent} has no panoptic_{stem}/ or panoptic_{stem}.zip with the "
                "PNGs; unpack panoptic_annotations there, or leave panoptic=true out"
            )
        panoptic = (document, pngs)
    return replace(part, captions=captions, panoptic=panoptic)


def _wished(part: Part, documents: Mapping[str, Document], name: str, wish: str) -> Document:
    if name not in documents:
        where = part.instances.path.parent
        raise IngestError(f"{where / name} does not exist; put it there, or leave {wish} out")
    return documents[name]
