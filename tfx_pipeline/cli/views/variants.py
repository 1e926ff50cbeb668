"""The table of variants that `sightline compress` prints."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from core.bundle import Manifest, Variant

if TYPE_CHECKING:
    from components.gates.verdicts import Gate
    from trainers.evaluation.predictions import Predictions

_FLOAT = "none_fp32"
_UNKNOWN = "-"
_COLUMNS = ("variant", "kB", "gzip kB", "smaller", "zeros", "partitions", "SNR dB", "top-1")


def variants_table(
    manifest: Manifest, predictions: "Mapping[str, Predictions]", collapsed: "Mapping[str, Gate]"
) -> Table:
    """One row per variant: sizes, sparsity, partitions, signal-to-noise ratio, validation top-1.

    Args:
      manifest: of the draft.
      predictions: variant -> predictions of the validation split; without them, top-1 is unknown.
      collapsed: variant -> the gate that it fails; its row is struck out.
    """
    shown = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        shown.add_column(column, justify="left" if column == "variant" else "right")
    shown.add_column("")
    (base,) = (one.gzip_bytes for one in manifest.variants if one.name == _FLOAT)
    for variant in manifest.variants:
        figures = manifest.conversion.get(variant.name, {})
        cells = _cells(variant, figures, base, predictions.get(variant.name))
        word, style = ("collapsed", "strike") if variant.name in collapsed else ("", None)
        shown.add_row(*map(escape, (*cells, word)), style=style)
    return shown


def _cells(
    variant: Variant, figures: dict[str, Any], base: int, found: "Predictions | None"
) -> tuple[str, ...]:
    snr = figures.get("snr_db")
    return (
        variant.name,
        f"{variant.size_bytes / 1e3:.1f}",
        f"{variant.gzip_bytes / 1e3:.1f}",
        f"{base / variant.gzip_bytes:.1f}x",
        f"{variant.sparsity:.0%}",
        str(figures.get("partitions") or _UNKNOWN),
        _UNKNOWN if snr is None else f"{snr:.1f}",
        _UNKNOWN if found is None else _top1(found),
    )


def _top1(predictions: "Predictions") -> str:
    """Top-1 with its 95 % interval."""
    from trainers.evaluation.scores import top_k_correct
    from trainers.evaluation.stats import proportion_interval

    correct = top_k_correct(predictions.scores, predictions.labels, 1)
    found = proportion_interval(float(correct.sum()), len(correct))
    return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"
