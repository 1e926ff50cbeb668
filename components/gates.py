"""The gates a model must pass, as plain functions on the predictions table and the benchmark.

Nothing here knows TFX: the same verdict can be had in a notebook or a test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.answers import BASELINE, REFERENCES
from components.references import known, paired
from serving.bundle import SAVED_MODEL
from trainers.metrics import confusion_matrix, metrics_with_intervals, top_k_correct
from trainers.predictions import Predictions
from trainers.stats import Interval, bootstrap_interval, mcnemar, paired_difference

FLOAT = "none_fp32"

# Latencies this close are one class: the download then decides.
_NEAR = 1.25

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class GateSettings:
    """What a pipeline asks of a model before it ships.

    Attributes:
      min_top1: lowest test top-1 of the recommended variant, in [0, 1].
      min_slice_top1: the same for every slice of at least `min_slice_examples` images.
      min_slice_examples: smaller slices are shown, not judged.
      max_drop: a variant may replace the float model if the 95 % interval of its paired top-1
        difference stays above minus this (a non-inferiority margin).
      min_agreement: lowest fraction of images on which a variant and the float model agree.
      max_latency_ms: p50 at batch 1 of the recommended variant.
      max_size_bytes: of the recommended variant's file.
      new_classes: `refuse` or `accept` class names that differ from the live model's.
    """

    min_top1: float = 0.0
    min_slice_top1: float = 0.0
    min_slice_examples: int = 30
    max_drop: float = 0.02
    min_agreement: float = 0.95
    max_latency_ms: float = 1000.0
    max_size_bytes: int = 500_000_000
    new_classes: str = "refuse"

    def __post_init__(self) -> None:
        if self.new_classes not in ("refuse", "accept"):
            raise ValueError(f"gates.new_classes is refuse or accept, got {self.new_classes!r}")


@dataclass(frozen=True)
class Gate:
    """One gate's verdict: what was measured, what was asked, and whether it held."""

    name: str
    value: float
    threshold: str
    passed: bool
    variant: str = ""
    slice: str = ""
    detail: str = ""


def top1_correct(predictions: Predictions) -> np.ndarray:
    """(M,) bool: whether the class with the highest score is the label."""
    return np.asarray(top_k_correct(predictions.scores, predictions.labels, 1)).astype(bool)


def compare(candidate: Predictions, reference: Predictions) -> dict[str, Any]:
    """Paired top-1 difference with its 95 % interval, McNemar's p and the agreement.

    Models of different classes are compared as `components.references.paired` says.
    """
    candidate, reference = paired(candidate, reference)
    ours, theirs = top1_correct(candidate), top1_correct(reference)
    same = candidate.scores.argmax(axis=1) == reference.scores.argmax(axis=1)
    return {
        "top1": paired_difference(ours, theirs).as_list(),
        "mcnemar_p": mcnemar(ours, theirs).p_value,
        "agreement": float(same.mean()),
    }


def describe(table: dict[str, Predictions]) -> dict[str, dict[str, Any]]:
    """Variant -> `metrics` with 95 % intervals and its `difference` against the float file."""
    found: dict[str, dict[str, Any]] = {}
    for variant, answers in table.items():
        own = known(answers, answers)
        metrics = metrics_with_intervals(own.scores, own.labels)
        found[variant] = {"metrics": {key: value.as_list() for key, value in metrics.items()}}
        if variant != FLOAT:
            found[variant]["difference"] = {"against": FLOAT, **compare(answers, table[FLOAT])}
    return found


def recommend(
    described: dict[str, dict[str, Any]], figures: Figures, settings: GateSettings
) -> tuple[str, str]:
    """The TFLite variant to ship, and why.

    Of those that are provably not worse than the float file by more than `max_drop` and agree with
    it, the fastest; within 25 % of its speed, the smallest download.
    """
    eligible = [FLOAT]
    for variant, found in described.items():
        if variant in (SAVED_MODEL, FLOAT, *REFERENCES):
            continue
        difference = found["difference"]
        sound = difference["top1"][1] >= -settings.max_drop
        if sound and difference["agreement"] >= settings.min_agreement:
            eligible.append(variant)
    fastest = min(figures[v]["latency_ms_p50"] for v in eligible)
    near = [v for v in eligible if figures[v]["latency_ms_p50"] <= _NEAR * fastest]
    chosen = min(near, key=lambda v: figures[v]["gzip_bytes"])
    if len(eligible) == 1:
        return chosen, "no compressed variant is provably as good as the float model"
    ratio = figures[FLOAT]["gzip_bytes"] / figures[chosen]["gzip_bytes"]
    return chosen, (
        f"of {len(eligible)} variants as good as float, {len(near)} within 25 % of the fastest "
        f"({fastest:.2f} ms); {chosen} is the smallest of them, {ratio:.1f}x below float"
    )


def slice_rows(answers: Predictions, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Top-1 with its interval for each class and each value of each slice key."""
    correct = top1_correct(answers)
    names = np.array([classes[label] for label in answers.labels], dtype=object)
    rows = []
    for key, values in {"class": names, **answers.slices}.items():
        for value in sorted(set(values)):
            chosen = correct[values == value]
            interval = bootstrap_interval(chosen)
            rows.append(
                {"key": key, "value": value, "examples": len(chosen), "top1": interval.as_list()}
            )
    return rows


def judge(
    table: dict[str, Predictions],
    figures: Figures,
    settings: GateSettings,
    *,
    classes: Sequence[str],
    checks: Sequence[Gate] = (),
) -> dict[str, Any]:
    """The whole verdict, as `verdict.json` holds it.

    Args:
      table: variant -> answers, with `none_fp32`, `saved_model` and perhaps `baseline`.
      figures: variant -> `latency_ms_p50`, `size_bytes`, `gzip_bytes`.
      settings: of the pipeline.
      classes: names, in label order.
      checks: gates judged elsewhere: serving, schema, TFMA.
    """
    described = describe(table)
    chosen, reason = recommend(described, figures, settings)
    slices = slice_rows(table[chosen], classes)
    gates = [
        *_value_gates(described[chosen], figures[chosen], settings, chosen),
        *_slice_gates(slices, settings, chosen),
        *_agreement_gates(described, settings, chosen),
        *_baseline_gates(table, chosen),
        *checks,
    ]
    return {
        "blessed": all(gate.passed for gate in gates),
        "recommended": chosen,
        "reason": reason,
        "gates": [vars(gate) for gate in gates],
        "variants": described,
        "slices": slices,
        "confusion": {
            "variant": chosen,
            "matrix": confusion_matrix(table[chosen].scores, table[chosen].labels).tolist(),
        },
    }


def _value_gates(
    found: dict[str, Any], figures: dict[str, float], settings: GateSettings, variant: str
) -> list[Gate]:
    top1 = Interval(*found["metrics"]["top1"])
    latency, size = figures["latency_ms_p50"], figures["size_bytes"]
    return [
        Gate(
            "value/top1",
            top1.value,
            f">= {settings.min_top1}",
            top1.value >= settings.min_top1,
            variant,
            detail=f"95 % interval {top1.low:.4f} to {top1.high:.4f}",
        ),
        Gate(
            "budget/latency_ms_p50",
            latency,
            f"<= {settings.max_latency_ms}",
            latency <= settings.max_latency_ms,
            variant,
        ),
        Gate(
            "budget/size_bytes",
            size,
            f"<= {settings.max_size_bytes}",
            size <= settings.max_size_bytes,
            variant,
        ),
    ]


def _slice_gates(slices: list[dict[str, Any]], settings: GateSettings, variant: str) -> list[Gate]:
    judged = [row for row in slices if row["examples"] >= settings.min_slice_examples]
    if not judged or not settings.min_slice_top1:
        return []
    worst = min(judged, key=lambda row: row["top1"][0])
    return [
        Gate(
            "slice/top1",
            worst["top1"][0],
            f">= {settings.min_slice_top1}",
            worst["top1"][0] >= settings.min_slice_top1,
            variant,
            slice=f"{worst['key']}={worst['value']}",
            detail=f"the lowest of {len(judged)} slices of {settings.min_slice_examples} or more",
        )
    ]


def _agreement_gates(
    described: dict[str, dict[str, Any]], settings: GateSettings, variant: str
) -> list[Gate]:
    exported = described[SAVED_MODEL]["difference"]["agreement"]
    gates = [
        Gate(
            "agreement/saved_model",
            exported,
            ">= 0.999",
            exported >= 0.999,
            SAVED_MODEL,
            detail="TFLite float against the SavedModel",
        )
    ]
    if variant != FLOAT:
        difference = described[variant]["difference"]
        low = difference["top1"][1]
        gates += [
            Gate(
                "agreement/float",
                difference["agreement"],
                f">= {settings.min_agreement}",
                difference["agreement"] >= settings.min_agreement,
                variant,
            ),
            Gate(
                "compression/top1_drop",
                difference["top1"][0],
                f"interval above {-settings.max_drop}",
                low >= -settings.max_drop,
                variant,
                detail=f"95 % interval {low:+.4f} to {difference['top1'][2]:+.4f}",
            ),
        ]
    return gates


def _baseline_gates(table: dict[str, Predictions], variant: str) -> list[Gate]:
    if BASELINE not in table:
        return []
    found = compare(table[variant], table[BASELINE])
    value, low, high = found["top1"]
    worse = high < 0 and found["mcnemar_p"] < 0.05
    return [
        Gate(
            "change/top1",
            value,
            "not provably below the last pushed",
            not worse,
            variant,
            detail=f"95 % interval {low:+.4f} to {high:+.4f}, McNemar p {found['mcnemar_p']:.3f}",
        )
    ]
