"""Merges the verdicts on items: resolves duplicates, assigns each record a split and a shard.

Everything is SQL on the index, in constant memory and in one process.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tfx_pipeline.ingest import splits
from tfx_pipeline.ingest.check import read_verdicts
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.groups import group_splits
from tfx_pipeline.ingest.index import connect, read_item_row, record_findings
from trainers.data.features import SPLITS

# Most files with equal content that a message lists.
_NAMED = 4
_PAGE = 50_000
_OPEN = """SELECT facts.row, digest, items.split, grp FROM facts JOIN items USING (row)
           WHERE facts.row >= ? AND facts.row < ? ORDER BY facts.row"""


@dataclass(frozen=True)
class Twin:
    """One of several items with equal bytes."""

    row: int
    name: str
    split: str
    label: str


def merge(index_path: Path, verdict_files: Iterable[Path], *, keep_duplicates: bool) -> None:
    """Copies the verdicts into the index and resolves duplicates.

    Args:
      index_path: an index from `index.create`.
      verdict_files: all files of verdicts, in order of the chunks.
      keep_duplicates: report duplicates as notes and keep them.
    """
    with connect(index_path, write=True) as index:
        for file in verdict_files:
            for one in read_verdicts(file):
                record_findings(index, one.row, one.findings)
                if one.facts is not None:
                    text = json.dumps(asdict(one.facts))
                    index.execute(
                        "INSERT INTO facts VALUES (?,?,?,NULL,NULL,?)",
                        (one.row, one.facts.digest, text, one.objects),
                    )
        repeated = index.execute(
            "SELECT digest FROM facts GROUP BY digest HAVING COUNT(*) > 1 ORDER BY digest"
        ).fetchall()
        for (digest,) in repeated:
            twins = _twins(index, digest)
            if keep_duplicates:
                found = _noted(twins)
            else:
                found = resolve_duplicates(twins)
                rows = [(one.row,) for one, _ in found]
                index.executemany("DELETE FROM facts WHERE row = ?", rows)
            for twin, finding in found:
                record_findings(index, twin.row, [finding])


def assign_splits(
    index_path: Path,
    *,
    fractions: tuple[float, float, float],
    shards: int,
    everything: str = "",
    every_class: bool = False,
) -> dict[str, int]:
    """Assigns each record a split and a shard by its content; returns the records per split.

    Args:
      index_path: after `merge`.
      fractions: of train, validation and test, for images without a declared split.
      shards: shards per split.
      everything: put all records into this split; empty to split as the source does.
      every_class: see `group_splits`.

    Raises:
      IngestError: a group is in two splits of the source.
    """
    counts: dict[str, int] = dict.fromkeys(SPLITS, 0)
    with connect(index_path, write=True) as index:
        present = {
            split
            for (split,) in index.execute("SELECT DISTINCT split FROM items WHERE split != ''")
        }
        grouped = (
            {}
            if everything
            else group_splits(index, present=present, fractions=fractions, every_class=every_class)
        )
        last = index.execute("SELECT COALESCE(MAX(row), -1) FROM facts").fetchone()[0]
        for start in range(0, last + 1, _PAGE):
            rows = index.execute(_OPEN, (start, start + _PAGE)).fetchall()
            placed = []
            for row, digest, declared, group in rows:
                split = everything or grouped.get(group)
                split = split or splits.choose_split(
                    digest, declared, present=present, fractions=fractions
                )
                counts[split] += 1
                placed.append((split, splits.choose_shard(digest, shards), row))
            index.executemany("UPDATE facts SET split = ?, shard = ? WHERE row = ?", placed)
        index.execute("CREATE INDEX IF NOT EXISTS by_shard ON facts (split, shard, digest, row)")
    return counts


def held_out_share(index: sqlite3.Connection) -> float:
    """The share of the source's training records that was moved to validation."""
    query = "SELECT COUNT(*), SUM(facts.split = 'validation') FROM facts JOIN items USING (row)"
    total, held = index.execute(f"{query} WHERE items.split = 'train'").fetchone()
    return held / total if total else 0.0


def resolve_duplicates(twins: list[Twin]) -> list[tuple[Twin, IngestFinding]]:
    """The items to reject among several with equal bytes, with the reason of each.

    If all have the same label, one is kept: test before validation before train (so that no test
    image is trained on), then the first by name. If labels differ, none is kept.
    """
    rank = {"test": 0, "validation": 1}
    ordered = sorted(twins, key=lambda one: (rank.get(one.split, 2), one.name))
    labels = sorted({one.label for one in ordered})
    if len(labels) > 1:
        names = ", ".join(sorted(one.name for one in ordered)[:_NAMED])
        more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
        reason = f"one image with labels {' and '.join(labels)}: {names}{more}"
        return [(one, IngestFinding("conflict", one.name, reason)) for one in ordered]
    reason = f"of {ordered[0].name}"
    return [(one, IngestFinding("duplicate", one.name, reason)) for one in ordered[1:]]


def _noted(twins: list[Twin]) -> list[tuple[Twin, IngestFinding]]:
    first = min(twins, key=lambda one: one.name)
    return [
        (one, IngestFinding("duplicate_kept", one.name, f"of {first.name}"))
        for one in twins
        if one is not first
    ]


def _twins(index: sqlite3.Connection, digest: str) -> list[Twin]:
    rows = index.execute("SELECT row FROM facts WHERE digest = ? ORDER BY row", (digest,))
    found = []
    for (row,) in rows.fetchall():
        item = read_item_row(index, row)
        label = item.class_name
        if item.objects is not None:
            boxes = zip(item.objects.classes, item.objects.boxes, strict=True)
            label = f"{len(item.objects.boxes)} objects {sorted(boxes)}"
        found.append(Twin(row, item.name, item.split, label))
    return found
