"""`report.html`, the report of a run, and the page of `sightline validate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from core import charts, figures, html
from core.files import write_text
from tfx_pipeline.report import curves, gallery, view
from tfx_pipeline.report.section import registered
from tfx_pipeline.report.sections import RunReport, run_sections
from trainers.data.features import DatasetInfo

REPORT_FILE = "report.html"

_FOLDER = Path(__file__).parent
# With more classes a heat map is unreadable; the most confused pairs are listed instead.
_MAX_HEAT_CLASSES = 40
_MAX_PAIRS = 12


class _Scale(NamedTuple):
    """The ends of the common scale of whiskers, in shares of one."""

    low: float
    high: float

    def __str__(self) -> str:
        low, high = (figures.short(100 * end, 4) for end in self)
        return f"{low} to {high}\N{NO-BREAK SPACE}%"


def write_report(summary: dict[str, Any], directory: Path) -> Path:
    """Writes `report.html` atomically.

    Args:
      summary: content of `summary.json`; only `pipeline`, `run` and `status` are required.
      directory: created if necessary.

    Returns:
      Path of the report.

    Raises:
      OSError: the report cannot be written; an older one stays as it was.
    """
    text = render_report(summary, directory)
    target = directory / REPORT_FILE
    write_text(target, text)
    return target


def render_report(summary: dict[str, Any], directory: Path | None = None) -> str:
    """The HTML of the report; sections without data have a note instead.

    Args:
      summary: as for `write_report`.
      directory: with the other files of the run; None if there are none.
    """
    found = view.models(summary)
    colors = {model["name"]: index for index, model in enumerate(found)}
    estimates = [variant["top1_estimate"] for model in found for variant in model["variants"]]
    slices = view.slices(summary)
    cells = [cell for table in slices for row in table["rows"] for cell in row["cells"]]
    gates = view.gates(summary)
    return html.render(
        _FOLDER,
        "report.html.j2",
        header=view.header(summary),
        status=view.status(summary),
        tone=view.tone(summary),
        withdrawn=view.withdrawn(summary),
        models=found,
        colors=colors,
        whisker=charts.whisker,
        top1_scale=_Scale(*charts.whisker_scale(estimates)),
        slice_scale=_Scale(*charts.whisker_scale([cell["estimate"] for cell in cells])),
        gates=gates,
        outcomes=view.OUTCOMES,
        undecided=view.undecided(summary),
        data=view.data(summary),
        images=gallery.images_of_run(summary),
        trainings=[curves.training(model, colors[model["name"]]) for model in found],
        comparison=curves.comparison(found, colors),
        metrics=list(view.metrics(summary).values()),
        slices=slices,
        sections=registered(run_sections, RunReport(summary, directory)),
        confusions=[(model, confusion(model["confusion"], _classes(summary))) for model in found],
        size_chart=_trade_off(found, colors, "gzip_bytes"),
        latency_chart=_trade_off(found, colors, "p50_ms"),
        components=view.components(summary),
        environment=view.environment(summary),
        lineage=view.lineage(summary),
    )


def render_images(info: DatasetInfo, directory: Path) -> str:
    """The page of `sightline validate`.

    Args:
      info: the data set.
      directory: written by `components.data_validation.gallery.write_gallery`.
    """
    return html.render(
        _FOLDER,
        "validate.html.j2",
        name=info.name,
        task=info.task,
        classes=info.num_classes,
        fingerprint=info.fingerprint,
        source=info.source,
        images=gallery.images(directory),
    )


def confusion(raw: dict[str, Any], classes: Sequence[str]) -> dict[str, Any] | None:
    """A confusion matrix as a heat map and as its most confused pairs.

    Args:
      raw: `{"variant", "matrix"}`, the matrix (C, C) counts with labels as rows.
      classes: names in label order; missing ones are numbered.

    Returns:
      `rows`: (name, cells of `_heat`), empty for more than 40 classes; `pairs`: (label, predicted,
      count, share) by count. None without a square matrix of counts.
    """
    counts = _square(raw.get("matrix"))
    if counts is None:
        return None
    size = len(counts)
    names = [str(classes[i]) if i < len(classes) else str(i) for i in range(size)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(size, dtype=bool), 0, counts)
    order = np.lexsort((-shares.ravel(), -wrong.ravel()))[:_MAX_PAIRS]
    pairs = [divmod(int(cell), size) for cell in order if wrong.flat[cell]]
    heat = size <= _MAX_HEAT_CLASSES
    return {
        "variant": str(raw.get("variant") or ""),
        "names": names,
        "rows": list(zip(names, _heat(counts, shares, names), strict=True)) if heat else [],
        "pairs": [
            (names[i], names[j], figures.count(int(counts[i, j])), figures.percent(shares[i, j]))
            for i, j in pairs
        ],
        "errors": figures.count(int(wrong.sum())),
        "examples": figures.count(int(counts.sum())),
    }


def _square(raw: Any) -> np.ndarray | None:
    if not isinstance(raw, list) or not raw:
        return None
    if any(not isinstance(row, list) or len(row) != len(raw) for row in raw):
        return None
    return np.array([[figures.number(cell) or 0.0 for cell in row] for row in raw])


def _heat(counts: np.ndarray, shares: np.ndarray, names: list[str]) -> list[list[dict[str, Any]]]:
    right = np.eye(len(counts), dtype=bool)
    # Errors have a separate scale: next to a diagonal of 97 % they would all be white.
    worst = np.where(right, 0, shares).max() or 1.0
    depths = np.where(right, shares, shares / worst)

    def cell(i: int, j: int) -> dict[str, Any]:
        some = counts[i, j] > 0
        share = figures.percent(float(shares[i, j]))
        return {
            "count": f"{counts[i, j]:.0f}" if some else "",
            "kind": "hit" if i == j else "miss",
            "depth": f"{0.15 + 0.85 * depths[i, j]:.2f}" if some else "0",
            "deep": bool(depths[i, j] > 0.55),
            "tip": f"{names[i]} taken for {names[j]}: {counts[i, j]:.0f} ({share})",
        }

    return [[cell(i, j) for j in range(len(counts))] for i in range(len(counts))]


def _trade_off(models: view.Rows, colors: dict[str, int], cost: str) -> Markup:
    is_size = cost == "gzip_bytes"
    dots = [
        charts.Dot(
            x=variant[cost] / 1000 if is_size else variant[cost],
            y=variant["top1_estimate"],
            model=model["name"],
            variant=variant["name"],
            color=colors[model["name"]],
            x_text=variant["gzip"] if is_size else variant["p50"],
            y_text=variant["top1"],
        )
        for model in models
        for variant in model["variants"]
        if variant["top1_estimate"] is not None and variant[cost]
    ]
    return charts.trade_off(
        dots,
        title="Top-1 by " + ("gzipped size" if is_size else "median latency"),
        x_title="gzipped size, kB (log scale)" if is_size else "latency p50, ms (log scale)",
    )


def _classes(summary: dict[str, Any]) -> list[str]:
    classes = view.mapping(summary.get("data")).get("classes")
    return [str(name) for name in classes] if isinstance(classes, (list, tuple)) else []
