"""What `sightline new NAME SOURCE` finds in SOURCE, before anything is written."""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfx_pipeline.ingest import TFRECORD
from tfx_pipeline.ingest.options import bind
from tfx_pipeline.ingest.source import IngestError, Item, Request, jobs
from tfx_pipeline.projects.find import ProjectError
from trainers.data.features import DATASET_FILE

#: A data set of `sightline ingest`, used where it is.
RECORDS = "records"

_TABLES = (".csv", ".tsv")
_SHARDS = ("*tfrecord*", "*-?????-of-?????")
_FEWEST_IMAGES = 10
_FEWEST_OF_A_CLASS = 2
_NAMED = 3


@dataclass(frozen=True)
class Found:
    """What a source is.

    Attributes:
      job: the ingest job that reads it: `folder`, `csv`, `tfrecord`, or `records` for none.
      where: the source, absolute.
      options: of the job, `key=value`.
      items: its images, as far as they are listed; empty for records.
    """

    job: str
    where: Path
    options: tuple[str, ...] = ()
    items: list[Item] = field(default_factory=list)


def look(source: Path, options: Sequence[str]) -> Found:
    """What `source` is and what it lists.

    Args:
      source: a folder of class folders or of split folders, a CSV file, TFRecords, or a data set.
      options: of the ingest job, `key=value`.

    Raises:
      ProjectError: it is none of these, or has too few images or classes; names the remedy.
      IngestError: the job cannot read it.
    """
    where = source.expanduser().resolve()
    if not where.exists():
        raise ProjectError(f"{source} does not exist; give a folder of class folders or a CSV file")
    job = _job(where)
    if job == RECORDS and options:
        raise ProjectError(
            f"{where} is a data set already, so that {options[0]} changes nothing; leave the "
            "options out, or give the images"
        )
    if job in (RECORDS, TFRECORD):
        return Found(job, where, tuple(options))
    with tempfile.TemporaryDirectory(prefix="sightline-new-") as scratch:
        function = jobs.get(job)
        given = bind(job, function, options)
        try:
            listed = function(Request(str(where), Path(scratch)), **given)
            items = [one for one in listed.items if isinstance(one, Item)]
        except IngestError as error:
            raise ProjectError(f"{error}{_hint(where)}") from error
    _check(where, items, listed.classes)
    return Found(job, where, tuple(options), items)


def _job(where: Path) -> str:
    if where.is_file():
        if where.suffix.lower() in _TABLES:
            return "csv"
        raise ProjectError(
            f"{where} is a file; give a CSV file that lists images and labels, or a folder. An "
            "archive must be unpacked first; `sightline ingest --jobs` lists what else can be "
            "read: ingest it, and give the data set's folder"
        )
    if (where / DATASET_FILE).is_file():
        return RECORDS
    shards = (one for pattern in _SHARDS for one in where.rglob(pattern))
    if any(one.is_file() and one.suffix not in (".json", ".txt") for one in shards):
        return TFRECORD
    return "folder"


def _hint(where: Path) -> str:
    """Another way to read a folder: by the table that lies in it."""
    tables = sorted(one for one in where.glob("*") if one.suffix.lower() in _TABLES)
    return f"; or did you mean the table {tables[0]}?" if tables else ""


def _check(where: Path, items: list[Item], classes: Sequence[str]) -> None:
    """Refuses what nothing can be learnt or measured from."""
    counts = Counter(one.class_name for one in items)
    total = sum(counts.values())
    remedy = "add images, or leave the class out"
    few = [name for name in classes if counts[name] < _FEWEST_OF_A_CLASS]
    if not total:
        raise ProjectError(
            f"{where} has no images; put them into {where}/<class>/*.jpg{_hint(where)}"
        )
    if few and total >= _FEWEST_IMAGES:
        shown = ", ".join(f"{name!r} ({counts[name]})" for name in few[:_NAMED])
        more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
        raise ProjectError(
            f"{where} has classes with fewer than {_FEWEST_OF_A_CLASS} images: {shown}{more}; one "
            f"is needed to train and one to test: {remedy}"
        )
    if total < _FEWEST_IMAGES:
        shown = ", ".join(f"{count} of {name!r}" for name, count in counts.most_common(_NAMED))
        raise ProjectError(
            f"{where} has {total} images ({shown}); a model needs at least {_FEWEST_IMAGES}, and "
            f"some 20 of each class to be of use: add images{_hint(where)}"
        )


def by_class(items: Sequence[Item]) -> Iterator[tuple[str, list[Item]]]:
    """(class, its items), sorted by class."""
    found: dict[str, list[Item]] = defaultdict(list)
    for one in items:
        found[one.class_name].append(one)
    yield from sorted(found.items())
