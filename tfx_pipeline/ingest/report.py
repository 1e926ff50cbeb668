"""`ingest_report.json`: every repair and rejection, counted by kind and listed by file.

A careless source can have a finding for each of a million objects, so that the list goes from the
index to the file without ever being in memory.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from tfx_pipeline.ingest.findings import KINDS, REJECTION, REPAIR, Finding
from tfx_pipeline.ingest.index import all_findings, connect


@dataclass(frozen=True)
class KindCount:
    """How often one kind was found, and the first file it was found in."""

    kind: str
    level: str
    meaning: str
    count: int
    first: Finding


def summarize(index_path: Path) -> list[KindCount]:
    """One entry a kind: rejections, repairs, notes, each by name."""
    with connect(index_path) as index:
        found = [
            KindCount(kind, *KINDS[kind], *_count(same))
            for kind, same in groupby(all_findings(index), key=lambda one: one.kind)
        ]
    order = {REJECTION: 0, REPAIR: 1}
    return sorted(found, key=lambda one: (order.get(one.level, 2), one.kind))


def first_of(index_path: Path, kinds: Sequence[str]) -> Finding | None:
    """The first finding of the most frequent one of some kinds; None where there is none."""
    every = [one for one in summarize(index_path) if one.kind in kinds]
    return max(every, key=lambda one: one.count).first if every else None


def count_files(index_path: Path, level: str) -> int:
    """How many different files have a finding of `level`."""
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
      about: what the job was asked and what it wrote.
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


def report_table(summary: list[KindCount]) -> Any:
    """A rich table of what was found: the worst first, with one example each."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title_justify="left", box=None, pad_edge=False)
    for name in ("", "kind", "what", "e.g."):
        table.add_column(name, overflow="fold")
    table.add_column("count", justify="right")
    colors = {REJECTION: "red", REPAIR: "yellow"}
    for one in summary:
        example = f"{one.first.file}: {one.first.detail}"[:90]
        table.add_row(
            f"[{colors.get(one.level, 'dim')}]{one.level}[/]",
            one.kind,
            one.meaning,
            escape(example.encode("utf-8", "backslashreplace").decode()),
            f"{one.count:,}",
        )
    return table


def _count(same: Iterator[Finding]) -> tuple[int, Finding]:
    first = next(same)
    return 1 + sum(1 for _ in same), first


def _lines(same: Iterator[Finding]) -> Iterator[bytes]:
    for number, one in enumerate(same):
        text = json.dumps({"file": one.file, "detail": one.detail})
        yield f"{',' if number else ''}\n   {text}".encode()
