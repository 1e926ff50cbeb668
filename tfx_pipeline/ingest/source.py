"""What a data set is to the ingest job: class names and a stream of items.

A new data set is one module of `tfx_pipeline.ingest.sources`:

    @jobs.register("pets")
    def source(request: Request, *, breeds: bool = False) -> Source:
        ...

Keyword arguments are the job's options: `sightline ingest pets ~/pets breeds=true`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tfx_pipeline.ingest.findings import Finding
from trainers.registry import Registry

#: The value of a feature: a list of one kind of thing.
Values: TypeAlias = list[int] | list[float] | list[bytes] | list[str]


#: Endings of files that hold other files.
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


class IngestError(ValueError):
    """A source or destination that cannot be used; the message gives the remedy."""


class DiskFullError(IngestError):
    """Nothing more can be written; the same command resumes the job when there is space."""


@dataclass(frozen=True)
class Request:
    """What a job is asked to read.

    Attributes:
      where: the SOURCE argument: a folder, a file or a name; None where none was given.
      work: an empty folder for files the job needs while its items are read.
      group: the `--group` argument: columns of a table, or an expression on names.
    """

    where: str | None
    work: Path
    group: str = ""

    def group_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The columns that `group` names, with commas between; none where it names no columns."""
        named = tuple(one.strip() for one in self.group.split(",") if one.strip())
        return named if all(one in columns for one in named) else ()

    def folder(self, layout: str) -> Path:
        """`where` as an existing folder.

        Args:
          layout: what the folder should hold, for the message.

        Raises:
          IngestError: none was given, or it is not a folder.
        """
        if self.where is None:
            raise IngestError(f"this job needs a folder to read: {layout}")
        path = Path(self.where).expanduser()
        if path.is_file() and path.name.lower().endswith(ARCHIVE_SUFFIXES):
            raise IngestError(f"{path} is an archive, which this job does not read; unpack it")
        if not path.is_dir():
            found = "" if path.exists() else ": it does not exist"
            raise IngestError(f"{path} is not a folder{found}; give {layout}")
        return path


@dataclass(frozen=True)
class Objects:
    """The objects of one image: parallel tuples, one entry each. Plain values: it becomes JSON.

    Attributes:
      boxes: (xmin, ymin, xmax, ymax) in pixels as stored, or fractions where `normalized`.
      classes: indices into the source's classes.
      ids: the source's annotation ids, or 0, 1, 2, ... where it has none.
      areas: square pixels; -1 where the source does not say (then the box's or the mask's).
      is_crowd: 0 or 1.
      segmentations: of each object: a list of polygons [x0, y0, x1, y1, ...] in pixels (fractions
        where `normalized`), a COCO RLE `{"counts", "size"}`, or None.
      flags: further int64 lists by feature key, such as `features.DIFFICULT`.
      normalized: boxes and polygons are fractions of width and height.
      frame: what boxes and masks were drawn on: `stored` pixels, `shown` ones (turned by EXIF), or
        empty where only the size that the labels state can decide it.
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
    """One image of a source, by place or by value.

    Attributes:
      name: what reports call it: a path relative to the source, unique in it.
      class_name: one of the source's classes; empty for detection.
      split: `train`, `validation` or `test` where the source says; empty is decided by content.
      path: the file that holds its bytes.
      offset: where in that file they start; tars, zips and TFRecords are read in place.
      length: how many there are; -1 is to the end.
      deflated: they are a zip's raw deflate stream.
      data: the bytes themselves, for sources that are not files.
      objects: for detection; None for classification.
      attributes: further features by key, e.g. `{features.SOURCE_ID: ["42"]}`.
      slices: further `slice/*` keys and their values.
      group: images of one group (an object, a person, a camera) stay in one split; empty where
        the source does not say.
      findings: what the job itself repaired or noted in this image's labels.
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
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Source:
    """A data set to ingest.

    Attributes:
      name: the data set's name, used in reports.
      classes: class names in label order.
      items: every image, read once and in a fixed order, so that a generator will do; a
        `Finding` among them is about something that is no image, such as a label without one.
      description: where the images come from, in words.
      task: `classification` or `detection`.
      category_ids: see `DatasetInfo`.
      fractions: of train, validation and test where the source does not say; None is the default.
      every_class: refuse the source when a class has no training image, or a split none at all.
      keep_duplicates: keep images with equal bytes, as benchmarks whose counts are published do.
      masks: every object has a mask.
      total: how many items, where known before they are read.
      inputs: files and folders that decide the items, besides SOURCE and what items lie in.
    """

    name: str
    classes: tuple[str, ...]
    items: Iterable[Item | Finding]
    description: str
    task: str = "classification"
    category_ids: tuple[int, ...] = ()
    fractions: tuple[float, float, float] | None = None
    every_class: bool = False
    keep_duplicates: bool = False
    masks: bool = False
    total: int | None = None
    inputs: tuple[str, ...] = ()


#: Ingest jobs: functions of a `Request` and keyword options that return a `Source`.
jobs: Registry[Callable[..., Source]] = Registry("ingest job", "tfx_pipeline.ingest.sources")
