"""`sightline evaluate` and `sightline benchmark`: figures of one model, as tables."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from serving.benchmark import Figures
from serving.bundle import SAVED_MODEL, open_bundle


def evaluate_model(
    model: Path, data: Path | None, split: str, variant: str = ""
) -> dict[str, dict[str, list[float]]]:
    """Variant -> metric -> [value, low, high], every example of `split` counted once.

    Args:
      model: a bundle, or what `trainers.loop.save_trained` wrote.
      data: the records; None is where the model's own configuration says.
      split: which of them.
      variant: of a bundle; empty is all of them.
    """
    from trainers.metrics import metrics_with_intervals

    found = _trained(model, data, split) or _bundle(model, data, split, variant)
    return {
        name: {
            key: value.as_list()
            for key, value in metrics_with_intervals(p.scores, p.labels).items()
        }
        for name, p in found.items()
    }


def _trained(model: Path, data: Path | None, split: str) -> dict[str, Any]:
    if not (model / "trained.json").is_file():
        return {}
    from trainers.data.features import DatasetInfo
    from trainers.forward import Forward, predict_split
    from trainers.trained import load_trained

    trained = load_trained(model)
    config = trained.config
    if data is not None:
        config = replace(config, data=replace(config.data, dir=str(data)))
    info = DatasetInfo.load(Path(config.data.dir))
    return {"trained": predict_split(Forward(trained.model, config), config, info, split)}


def _bundle(model: Path, data: Path | None, split: str, variant: str) -> dict[str, Any]:
    bundle = open_bundle(model)
    from components.answers import answer

    where = data or Path(bundle.manifest.config["data"]["dir"])
    names = [variant] if variant else [SAVED_MODEL, *(v.name for v in bundle.manifest.variants)]
    return {name: answer(bundle, name, where, split) for name in names}


def evaluation_table(found: Mapping[str, Mapping[str, list[float]]]) -> Table:
    """One row a metric, one column a variant, each value with its 95 % interval."""
    table = Table("metric", box=None, pad_edge=False)
    for name in found:
        table.add_column(name, justify="right")
    for metric in next(iter(found.values())):
        cells = []
        for figures in found.values():
            value, low, high = figures[metric]
            cells.append(f"{value:.4f} [{low:.4f}, {high:.4f}]".replace("[", "\\["))
        table.add_row(metric, *cells)
    return table


def benchmark_table(figures: Mapping[str, Figures], machine: Mapping[str, str]) -> Table:
    """One row a variant; ratios are against the float TFLite file of the same run."""
    title = f"{machine['cpu']}, {machine['cores']} cores, batch 1"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in (
        "variant",
        "size kB",
        "gzip kB",
        "smaller",
        "p50 ms",
        "p99 ms",
        "img/s",
        "faster",
    ):
        table.add_column(column, justify="left" if column == "variant" else "right")
    base = figures.get("none_fp32") or next(iter(figures.values()))
    for name, f in figures.items():
        table.add_row(
            name,
            f"{f.size_bytes / 1e3:.0f}",
            f"{f.gzip_bytes / 1e3:.0f}",
            f"{base.gzip_bytes / f.gzip_bytes:.2f}x",
            f"{f.latency_ms_p50:.3f}",
            f"{f.latency_ms_p99:.3f}",
            f"{f.images_per_second:.0f}",
            f"{base.latency_ms_p50 / f.latency_ms_p50:.2f}x",
        )
    return table
