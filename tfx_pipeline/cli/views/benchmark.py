"""The tables of `sightline benchmark BUNDLE`."""

from collections.abc import Mapping

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from serving.benchmark.preprocessing import TARGET, PreprocessingFigures
from serving.benchmark.rounds import RatioOverRounds
from serving.benchmark.variants import DEFINITIONS, VariantFigures


def bundle_tables(
    figures: Mapping[str, VariantFigures],
    decoding: PreprocessingFigures,
    machine: Mapping[str, str],
    source: str,
) -> Group:
    """Sizes with speedups over the float TFLite file, and the two latencies of each variant.

    Args:
      figures: of `serving.benchmark.variants.benchmark`.
      decoding: of `benchmark_preprocessing`.
      machine: its `environment`.
      source: description of the encoded images.
    """
    notes = [f"{name}: {text}" for name, text in DEFINITIONS.items()]
    notes.append(f"images of bytes to label: {source}")
    notes.append("ratios: geometric mean over interleaved rounds, with its 95 % interval")
    return Group(
        _sizes(figures, f"{machine['cpu']}, {machine['cores']} cores, batch 1"),
        "",
        _latencies(figures),
        "",
        _preprocessing(decoding),
        "",
        *(Text(note, style="dim") for note in notes),
    )


def _sizes(figures: Mapping[str, VariantFigures], title: str) -> Table:
    """One row per variant; ratios are relative to the float TFLite file of the same run."""
    columns = ("variant", "size kB", "gzip kB", "smaller", "faster", "95 % interval")
    table = _table(columns, title)
    base = figures.get("none_fp32") or next(iter(figures.values()))
    for name, found in figures.items():
        table.add_row(
            name,
            f"{found.size_bytes / 1e3:.0f}",
            f"{found.gzip_bytes / 1e3:.0f}",
            f"{base.gzip_bytes / found.gzip_bytes:.2f}x",
            *_ratio(found.speedup, is_base=found is base),
        )
    return table


def _latencies(figures: Mapping[str, VariantFigures]) -> Table:
    """Two rows per variant, engine alone and bytes to label."""
    columns = ("variant", "latency", "p50 ms", "p90 ms", "p99 ms", "img/s")
    table = _table((*columns, "of engine", "95 % interval"))
    engine, label = DEFINITIONS
    for name, found in figures.items():
        alone = (found.latency_ms_p50, found.latency_ms_p90, found.latency_ms_p99)
        whole = (
            found.bytes_to_label_ms_p50,
            found.bytes_to_label_ms_p90,
            found.bytes_to_label_ms_p99,
        )
        table.add_row(name, engine, *map(_ms, alone), f"{found.images_per_second:.0f}")
        rate = f"{found.bytes_to_label_images_per_second:.0f}"
        table.add_row("", label, *map(_ms, whole), rate, *_ratio(found.bytes_to_label_ratio))
    return table


def _preprocessing(found: PreprocessingFigures) -> Text:
    one, two = (float(np.median(rates)) for rates in (found.one_caller, found.two_callers))
    value, low, high = found.ratio
    return Text(
        f"preprocessing ({found.variant}): {one:,.0f} img/s with one caller, {two:,.0f} with two: "
        f"{value:.2f}x ({low:.2f} to {high:.2f}); target {TARGET:.1f}x with two idle cores"
    )


def _table(columns: tuple[str, ...], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in ("variant", "latency") else "right")
    return table


def _ms(value: float) -> str:
    return f"{value:.3f}"


def _ratio(found: RatioOverRounds | None, *, is_base: bool = False) -> tuple[str, str]:
    """A ratio and its interval, which is omitted for the base and for a single run."""
    if is_base:
        return "1.00x", ""
    if found is None:
        return "", ""
    value, low, high = found
    return f"{value:.2f}x", f"{low:.2f} to {high:.2f}"
