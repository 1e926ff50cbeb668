"""`sightline validate`: problems of a data set."""

import tempfile
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from components.data_validation.anomaly import ImageAnomalies, ValidatorSettings, blocking
from components.data_validation.name_series import NUMBERED
from core.files import write_text
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
    """Reads every record, prints a table of the problems, and writes a page with the images.

    Args:
      directory: folder of `dataset.json` and `Split-*`.
      out: the HTML page; None writes none.
      settings: limits and thresholds; None uses the defaults.
      console: to print on.

    Returns:
      0, or 3 if a limit is exceeded.

    Raises:
      DatasetError: the folder holds no data set, or shards are missing.
      OSError: the page cannot be written; an existing page is unchanged.
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
            "near_leakage: frames of one object, person, or camera are in several splits, so "
            "results on them are too good; ingest again with --group COLUMN or --group EXPRESSION, "
            "or raise the limit with --max-near-leakage",
            soft_wrap=True,
            highlight=False,
        )
    if "series_split" in found.counts:
        console.print(
            f"series_split: by their names, {found.counts['series_split']:,} images belong to a "
            "series, such as frames of one object, that is also in another split; if so, "
            f"ingest again with --group '{NUMBERED}' or with a column of the table",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    if out is not None:
        write_page(directory, found, Path(out), shown=settings.gallery)
        console.print(_printable(f"wrote {out}"), soft_wrap=True, highlight=False)
    return REFUSED if blocking(found) else FINE


def anomaly_table(found: ImageAnomalies) -> Table:
    """One row per kind: the number found, the number allowed, and the first example."""
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
    table.add_column("first example", overflow="fold", ratio=1)
    for row in anomaly_rows(found):
        style = _STYLES[row["tone"]]
        table.add_row(
            Text(row["kind"], "bold" if row["over"] else ""),
            Text(row["severity"], style),
            Text(row["count"], "bold red" if row["over"] else ""),
            row["limit"],
            # Text rather than str: rich would read [brackets] in names as markup.
            Text(_printable(row["example"])),
        )
    if not table.row_count:
        table.add_row("nothing", *[""] * 3, "every image decodes, and there are no duplicates")
    return table


def _printable(text: str) -> str:
    """`text` with escapes for file names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_page(directory: Path, found: ImageAnomalies, out: Path, *, shown: int) -> None:
    """Writes the gallery as one HTML file, atomically.

    Args:
      directory: of the data set.
      found: its anomalies.
      out: the file; its folder is created where missing.
      shown: number of images to show for each kind of anomaly.

    Raises:
      OSError: the file cannot be written; an existing page is unchanged.
    """
    from components.data_validation.gallery import write_gallery

    with tempfile.TemporaryDirectory() as gallery:
        write_gallery(directory, found, Path(gallery), shown=shown)
        text = render_images(DatasetInfo.load(directory), Path(gallery))
    write_text(out, text, errors="backslashreplace")
