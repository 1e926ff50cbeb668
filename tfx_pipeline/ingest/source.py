"""The interface of an ingest job's source: class names and a stream of items.

A new data set is one module of `tfx_pipeline.ingest.sources`:

    @jobs.register("pets")
    def source(request: Request, *, breeds: bool = False) -> Source:
        ...

Keyword arguments are the options of the job: `sightline ingest pets ~/pets breeds=true`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tfx_pipeline.ingest.findings import IngestFinding
from trainers.registry import Registry

#: The value of a feature: a list of bytes, strings, integers or floats.
Values: TypeAlias = list[int] | list[float] | list[bytes] | list[str]


#: Suffixes of archives.
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


class IngestError(ValueError):
    """A source or destination that cannot be used; the message contains the remedy."""


class DiskFullError(IngestError):
    """The disk is full; the same command resumes the job once there is space."""


@dataclass(frozen=True)
class Request:
    """The arguments of a job's function.

    Attributes:
      where: the SOURCE argument: a folder, a file or a name; None if not given.
      work: an empty folder for temporary files, which exists while the items are read.
      group: the `--group` argument: columns of a table, or a regular expression on names.
    """

    where: str | None
    work: Path
    group: str = ""

    def group_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The columns in the comma-separated `group`; empty if it does not name columns."""
        named = tuple(one.strip() for one in self.group.split(",") if one.strip())
        return named if all(one in columns for one in named) else ()

    def folder(self, layout: str) -> Path:
        """`where` as an existing folder.

        Args:
          layout: the expected content of the folder, for the message.

        Raises:
          IngestError: `where` is None or not a folder.
        """
        if self.where is None:
            raise IngestError(f"this job needs a folder to read: {layout}")
        path = Path(self.where).expanduser()
        if path.is_file() and path.name.lower().endswith(ARCHIVE_SUFFIXES):
            raise IngestError(f"{path} is an archive, which this job cannot read; unpack it")
        if not path.is_dir():
            found = "" if path.exists() else ": it does not exist"
            raise IngestError(f"{path} is not a folder{found}; expected {layout}")
        return path


@dataclass(frozen=True)
class Objects:
    """The objects of one image, as parallel tuples of plain values that JSON can represent.

    Attributes:
      boxes: (xmin, ymin, xmax, ymax) in pixels, or fractions if `normalized`.
      classes: indices into the source's classes.
      ids: annotation ids of the source, or 0, 1, 2, ... if it has none.
      areas: square pixels; -1 to compute the area from the mask or box.
      is_crowd: 0 or 1.
      segmentations: per object, a list of polygons [x0, y0, x1, y1, ...] in pixels (fractions if
        `normalized`), a COCO RLE `{"counts", "size"}`, or None.
      flags: further int64 lists by feature key, such as `features.DIFFICULT`.
      normalized: whether boxes and polygons are fractions of width and height.
      frame: the pixels that boxes and masks refer to: `stored`, `shown` (rotated by EXIF), or empty
        if the size in the labels decides.
    """

    boxes: tuple[tuple[float, float, float, float], ...] = ()
    classes: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    areas: tuple[float, ...] = ()
    is_crowd: tuple[int, ...] = ()
    segmentations: tuple[Any, ...] = ()
    flags: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    normalized: bool = False
    frame: str = ""


@dataclass(frozen=True)
class Item:
    """One image of a source, as a byte range of a file or as bytes.

    Attributes:
      name: its name in reports: a path relative to the source, unique within the source.
      class_name: one of the source's classes; empty for detection.
      split: `train`, `validation` or `test`; empty to decide by content.
      path: the file that holds its bytes.
      offset: of the first byte in that file; members of archives are read without unpacking.
      length: number of bytes; -1 for all bytes to the end.
      deflated: whether the bytes are a raw deflate stream, as in a zip.
      data: the image's bytes, for sources that are not files.
      objects: for detection; None for classification.
      attributes: further features by key, e.g. `{features.SOURCE_ID: ["42"]}`.
      slices: further `slice/*` keys and their values.
      group: images of one group (an object, one individual, a camera) stay in one split; empty for
        no group.
      findings: repairs and notes of the job about the labels of this image.
    """

    name: str
    class_name: str = ""
    split: str = ""
    path: str = ""
    offset: int = 0
    length: int = -1
    deflated: bool = False
    data: bytes = b""
    objects: Objects | None = None
    attributes: Mapping[str, Values] = field(default_factory=dict)
    slices: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    findings: tuple[IngestFinding, ...] = ()


@dataclass(frozen=True)
class Source:
    """A data set to ingest.

    Attributes:
      name: the default name of the data set.
      classes: class names in label order.
      items: every image, in a fixed order; iterated once. A `IngestFinding` among them is not about
        an image, e.g. a label without an image.
      description: text about the origin of the images.
      task: `classification` or `detection`.
      category_ids: see `DatasetInfo`.
      fractions: of train, validation and test, for images without a split; None for the default.
      every_class: reject the source if a class has no training image or a split is empty.
      keep_duplicates: keep images with equal bytes, so that counts equal the published ones.
      masks: whether every object has a mask.
      total: number of items, if known in advance.
      inputs: files and folders that decide the items, besides SOURCE and the items' own files.
    """

    name: str
    classes: tuple[str, ...]
    items: Iterable[Item | IngestFinding]
    description: str
    task: str = "classification"
    category_ids: tuple[int, ...] = ()
    fractions: tuple[float, float, float] | None = None
    every_class: bool = False
    keep_duplicates: bool = False
    masks: bool = False
    total: int | None = None
    inputs: tuple[str, ...] = ()


#: Ingest jobs: functions with a `Request` and keyword options that return a `Source`.
jobs: Registry[Callable[..., Source]] = Registry("ingest job", "tfx_pipeline.ingest.sources")
