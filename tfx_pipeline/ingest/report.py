"""`ingest_report.json`: every repair and rejection, counted by kind and listed by file.

A source may have a million findings, so they are streamed from the index to the file.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from tfx_pipeline.ingest.findings import KINDS, REJECTION, REPAIR, IngestFinding
from tfx_pipeline.ingest.index import all_findings, connect


@dataclass(frozen=True)
class KindCount:
    """The number of findings of one kind, and the first of them."""

    kind: str
    level: str
    meaning: str
    count: int
    first: IngestFinding


def summarize(index_path: Path) -> list[KindCount]:
    """One entry per kind: rejections, then repairs, then notes, each sorted by name."""
    with connect(index_path) as index:
        found = [
            KindCount(kind, *KINDS[kind], *_count(same))
            for kind, same in groupby(all_findings(index), key=lambda one: one.kind)
        ]
    order = {REJECTION: 0, REPAIR: 1}
    return sorted(found, key=lambda one: (order.get(one.level, 2), one.kind))


def first_of(index_path: Path, kinds: Sequence[str]) -> IngestFinding | None:
    """The first finding of the most frequent kind among `kinds`; None without findings."""
    every = [one for one in summarize(index_path) if one.kind in kinds]
    return max(every, key=lambda one: one.count).first if every else None


def count_files(index_path: Path, level: str) -> int:
    """Number of distinct files that have a finding of `level`."""
    kinds = [kind for kind, (one, _) in KINDS.items() if one == level]
    marks = ",".join("?" * len(kinds))
    with connect(index_path) as index:
        query = f"SELECT COUNT(DISTINCT file) FROM findings WHERE kind IN ({marks})"
        return index.execute(query, kinds).fetchone()[0]


def write_report(index_path: Path, about: dict[str, Any], file: BinaryIO) -> None:
    """Writes the report of one ingest job.

    It holds `about`, then `counts` (level -> kind -> number of findings) and `findings`: kind ->
    `level`, `meaning`, `count`, `files`, each with `file` and `detail`.

    Args:
      index_path: of the index, with all findings.
      about: the job's arguments and a summary of its output.
      file: to write to, as UTF-8.
    """
    counts: dict[str, dict[str, int]] = {}
    for one in summarize(index_path):
        counts.setdefault(one.level, {})[one.kind] = one.count
    head = json.dumps({**about, "counts": counts}, indent=1).removesuffix("\n}")
    file.write(f'{head},\n "findings": {{'.encode())
    with connect(index_path) as index:
        grouped = groupby(all_findings(index), key=lambda one: one.kind)
        for number, (kind, same) in enumerate(grouped):
            level, meaning = KINDS[kind]
            entry = {"level": level, "meaning": meaning, "count": counts[level][kind]}
            start = json.dumps(entry).removesuffix("}")
            separator = "," if number else ""
            file.write(f'{separator}\n  {json.dumps(kind)}: {start}, "files": ['.encode())
            for line in _lines(same):
                file.write(line)
            file.write(b"\n  ]}")
    file.write(b"\n }\n}\n")


def _count(same: Iterator[IngestFinding]) -> tuple[int, IngestFinding]:
    first = next(same)
    return 1 + sum(1 for _ in same), first


def _lines(same: Iterator[IngestFinding]) -> Iterator[bytes]:
    for number, one in enumerate(same):
        text = json.dumps({"file": one.file, "detail": one.detail})
        yield f"{',' if number else ''}\n   {text}".encode()
