"""Ingest on a console: runs a job and prints its summary and findings; lists the jobs."""

import inspect
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tfx_pipeline.ingest import TFRECORD, ingest, jobs
from tfx_pipeline.ingest.findings import REJECTION, REPAIR
from tfx_pipeline.ingest.options import describe
from tfx_pipeline.ingest.report import KindCount
from trainers.data import features


def ingest_and_print(
    job: str,
    source: str | None,
    out: Path,
    console: Console,
    *,
    options: Sequence[str] = (),
    shown: Path | None = None,
    **settings: Any,
) -> None:
    """Runs an ingest job and prints its summary.

    Args:
      job: name of a registered job.
      source: to read.
      out: the data set's folder.
      console: to print on.
      options: of the job, as `key=value`.
      shown: the final name of `out`, to print if `out` will be renamed.
      settings: further arguments of `tfx_pipeline.ingest.ingest`.
    """
    started = time.perf_counter()
    found: list[KindCount] = []
    info = ingest(job, out, where=source, options=options, on_found=found.extend, **settings)
    seconds = time.perf_counter() - started
    counts = ", ".join(f"{split.examples:,} {key}" for key, split in info.splits.items())
    objects = sum(split.objects for split in info.splits.values())
    more = f", {objects:,} objects" if info.task == features.DETECTION else ""
    console.print(
        f"{escape(info.name)}: {info.num_classes} classes, {counts}{more}; {seconds:.1f} s",
        soft_wrap=True,
    )
    if info.held_out:
        console.print(
            f"held out of train for validation: {info.splits['validation'].examples:,} images, "
            f"{info.held_out:.2%}",
            highlight=False,
        )
    if found:
        console.print(_findings_table(found))
        console.print(
            f"all findings are listed in {(shown or out) / features.REPORT_FILE}", soft_wrap=True
        )
    console.print(f"wrote {shown or out}", soft_wrap=True)


def _findings_table(summary: list[KindCount]) -> Table:
    """One row per kind of finding, the worst level first, with an example."""
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


def jobs_table() -> Table:
    """Every job with the first line of its documentation and its options."""
    from tfx_pipeline.ingest.tfrecord import adopt, known_options

    table = Table(box=None, pad_edge=False)
    for name in ("job", "reads", "options"):
        table.add_column(name, overflow="fold")
    rows: dict[str, tuple[Any, dict[str, Any]]] = {
        name: (jobs.get(name), describe(jobs.get(name))) for name in jobs.names()
    }
    rows[TFRECORD] = (adopt, describe(known_options))
    for name, (function, known) in sorted(rows.items()):
        module = inspect.getmodule(function)
        first = (inspect.getdoc(module) or "").splitlines()[0]
        given = " ".join(f"{key}={_shown(value)}" for key, value in known.items())
        table.add_row(name, first, given)
    return table


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or "..."
