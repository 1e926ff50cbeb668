"""Checks a job before it writes shards: images per class and split, and lost objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfx_pipeline.ingest.findings import OBJECT_LOSSES, REJECTION
from tfx_pipeline.ingest.index import connect
from tfx_pipeline.ingest.plan import IngestPlan
from tfx_pipeline.ingest.report import count_files, first_of, summarize
from tfx_pipeline.ingest.source import IngestError, Source
from trainers.data import features

# Below this number of dropped and clipped objects, their share is too noisy to check.
_MIN_REPAIRED = 4
# Most class names in a message.
_SHOWN = 10
_CLIPPED = "box_clipped"


@dataclass(frozen=True)
class ObjectCounts:
    """Numbers of objects of a source by outcome.

    Attributes:
      kept: written to records.
      dropped: dropped, by the kinds of `OBJECT_LOSSES`.
      clipped: kept, with a clipped box.
    """

    kept: int
    dropped: int
    clipped: int

    @property
    def repaired_share(self) -> float:
        """Share of dropped and clipped objects among all; 0 without objects."""
        return (self.dropped + self.clipped) / max(self.kept + self.dropped, 1)


def count_objects(index_path: Path) -> ObjectCounts:
    """Numbers of objects by outcome, after `merge`."""
    marks = ",".join("?" * len(OBJECT_LOSSES))
    with connect(index_path) as index:
        kept = index.execute("SELECT COALESCE(SUM(objects), 0) FROM facts").fetchone()[0]
        counts = index.execute(
            f"SELECT SUM(kind IN ({marks})), SUM(kind = ?) FROM findings",
            (*OBJECT_LOSSES, _CLIPPED),
        ).fetchone()
    return ObjectCounts(kept, counts[0] or 0, counts[1] or 0)


def count_turned(index_path: Path) -> int:
    """Number of images whose EXIF orientation was not 1."""
    query = "SELECT COUNT(*) FROM facts WHERE json_extract(facts, '$.source_orientation') != 1"
    with connect(index_path) as index:
        return index.execute(query).fetchone()[0]


def check_counts(plan: IngestPlan, source: Source, index: Path, counts: Mapping[str, int]) -> None:
    """Checks that a model can be trained on the records.

    Args:
      plan: the plan of the job.
      source: the source of the job.
      index: the index, after every image has its split.
      counts: split -> number of records.

    Raises:
      IngestError: no image or no object is left, too many objects were dropped or clipped, or a
        class or split has no image where the source promises one.
    """
    if source.task == features.DETECTION:
        _check_objects(plan, source, index)
    refused = rejected_text(index)
    if not sum(counts.values()):
        raise IngestError(f"no image of {source.description} can be used{refused}")
    if source.every_class and not plan.everything and _has_open_images(index):
        _check_classes(source, index, counts, refused)


def _check_objects(plan: IngestPlan, source: Source, index: Path) -> None:
    found = count_objects(index)
    repaired = found.dropped + found.clipped
    example = first_of(index, (*OBJECT_LOSSES, _CLIPPED))
    reason = f", e.g. {example.file}: {example.detail}" if example else ""
    if not found.kept and found.dropped:
        raise IngestError(
            f"no object of {source.description} can be used: {found.dropped:,} of "
            f"{found.dropped:,} had to be dropped{reason}"
        )
    if not found.kept and not rejected_text(index):
        raise IngestError(f"{source.description} has no objects, so nothing can be learned from it")
    if repaired >= _MIN_REPAIRED and found.repaired_share > plan.max_repaired:
        raise IngestError(
            f"{repaired:,} of {found.kept + found.dropped:,} objects of {source.description} had "
            f"to be dropped ({found.dropped:,}) or clipped ({found.clipped:,}), more than "
            f"{plan.max_repaired:.0%}{reason}; correct the labels, or allow it with "
            f"--max-repaired {min(1.0, found.repaired_share + 0.01):.2f}"
        )


def rejected_text(index: Path) -> str:
    """The end of a message: how many files were rejected, with an example; empty for none."""
    rejected = [one for one in summarize(index) if one.level == REJECTION]
    if not rejected:
        return ""
    most = max(rejected, key=lambda one: one.count)
    file = most.first.file.encode("utf-8", "backslashreplace").decode()
    detail = f" ({most.first.detail})" if most.first.detail else ""
    number = count_files(index, REJECTION)
    return f"; {number} files were rejected, e.g. {file}: {most.meaning}{detail}"


def _has_open_images(index: Path) -> bool:
    """Whether any image is not declared as a validation or test image."""
    query = "SELECT 1 FROM items WHERE split NOT IN ('validation', 'test') LIMIT 1"
    with connect(index) as opened:
        return opened.execute(query).fetchone() is not None


def _check_classes(source: Source, index: Path, counts: Mapping[str, int], refused: str) -> None:
    with connect(index) as opened:
        query = "SELECT DISTINCT class FROM items JOIN facts USING (row) WHERE facts.split='train'"
        trained = {name for (name,) in opened.execute(query)}
    absent = [one for one in source.classes if one not in trained]
    if absent:
        more = f" and {len(absent) - _SHOWN:,} others" if len(absent) > _SHOWN else ""
        raise IngestError(
            f"no training image of class {', '.join(absent[:_SHOWN])}{more} in "
            f"{source.description}{refused}; add training images of it, or leave the class out"
        )
    empty = next((split for split, count in counts.items() if not count), "")
    if not empty:
        return
    with connect(index) as opened:
        groups = opened.execute("SELECT COUNT(DISTINCT grp) FROM items WHERE grp != x''").fetchone()
    if groups[0]:
        raise IngestError(
            f"the split {empty!r} of {source.description} has no image{refused}: the images form "
            f"{groups[0]:,} groups, and a group is never divided; use a --group that makes more, "
            "smaller groups"
        )
    raise IngestError(
        f"the split {empty!r} of {source.description} has no image{refused}; add images, give "
        f"the split a larger fraction, or add a folder {empty!r}"
    )
