"""`sightline validate`: what is wrong with a data set, before it costs a training run."""

import os
import tempfile
import uuid
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from components.data_validation.anomaly import ImageAnomalies, ValidatorSettings, blocking
from components.data_validation.name_series import NUMBERED
from tfx_pipeline.report.gallery import anomaly_rows
from tfx_pipeline.report.page import render_images
from trainers.data.features import DatasetInfo

FINE, REFUSED = 0, 3

_STYLES = {"bad": "red", "warn": "yellow", "plain": ""}


def validate(
    directory: Path,
    *,
    out: Path | None = None,
    settings: ValidatorSettings | None = None,
    console: Console | None = None,
) -> int:
    """Reads every record, prints a table of what is wrong, and writes a page with the images.

    Args:
      directory: holds `dataset.json` and `Split-*`.
      out: the HTML page to write; None writes none.
      settings: limits and thresholds; the defaults where None.
      console: to print on.

    Returns:
      0, or 3 where a limit is exceeded.

    Raises:
      DatasetError: no data set there, or shards are missing.
      OSError: the page cannot be written; an older one stays as it was.
    """
    console, settings = console or Console(), settings or ValidatorSettings()
    from components.data_validation.image_anomalies import find_anomalies

    info = DatasetInfo.load(directory)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(_printable(f"reading {info.name}"), total=None)
        found = find_anomalies(
            directory, settings, lambda done, of: progress.update(task, completed=done, total=of)
        )
    console.print(anomaly_table(found))
    if "near_leakage" in blocking(found):
        console.print(
            "near_leakage: frames of one object, person or camera are in several splits, so that "
            "figures on them are too good; ingest again with --group COLUMN or --group EXPRESSION, "
            "or allow it with --max-near-leakage",
            soft_wrap=True,
            highlight=False,
        )
    if "series_split" in found.counts:
        console.print(
            f"series_split: the names of {found.counts['series_split']:,} images say that they are "
            "of a series, such as frames of one object, that is also in another split; if they "
            f"are, ingest again with --group '{NUMBERED}' or with a column of the table",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    if out is not None:
        write_page(directory, found, Path(out), shown=settings.gallery)
        console.print(_printable(f"wrote {out}"), soft_wrap=True, highlight=False)
    return REFUSED if blocking(found) else FINE


def anomaly_table(found: ImageAnomalies) -> Table:
    """One row a kind: how many, how many are allowed, and the first of them."""
    over = len(blocking(found))
    verdict = f"{over} over the limit" if over else "within the limits"
    total = sum(found.records.values())
    title = f"{found.name}, {total:,} records: {verdict}"
    table = Table(
        title=Text(_printable(title), "bold red" if over else "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("kind", "severity"):
        table.add_column(column, no_wrap=True)
    for column in ("found", "allowed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("the first of them", overflow="fold", ratio=1)
    for row in anomaly_rows(found):
        style = _STYLES[row["tone"]]
        table.add_row(
            Text(row["kind"], "bold" if row["over"] else ""),
            Text(row["severity"], style),
            Text(row["count"], "bold red" if row["over"] else ""),
            row["limit"],
            # Text, never str: names are data, and rich would read [brackets] in them as markup.
            Text(_printable(row["example"])),
        )
    if not table.row_count:
        table.add_row("nothing", *[""] * 3, "every image decodes, and none occurs twice")
    return table


def _printable(text: str) -> str:
    """`text` where names that are not UTF-8, as Python reads them from disk, are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_page(directory: Path, found: ImageAnomalies, out: Path, *, shown: int) -> None:
    """Writes the gallery as one HTML file, under a temporary name and then renamed.

    Args:
      directory: of the data set.
      found: what was found in it.
      out: the file; its folder is made when absent.
      shown: anomalies of each kind whose images are shown.

    Raises:
      OSError: the disk refused; an older page stays as it was.
    """
    from components.data_validation.gallery import write_gallery

    with tempfile.TemporaryDirectory() as gallery:
        write_gallery(directory, found, Path(gallery), shown=shown)
        text = render_images(DatasetInfo.load(directory), Path(gallery))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
