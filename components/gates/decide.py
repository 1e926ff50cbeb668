"""The whole verdict on one model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.evaluation.columns import (
    FLOAT,
    Table,
    compare,
    differing,
    own_float,
    ships,
    top1_correct,
    top1_pair,
)
from components.evaluation.predict_variants import OWN_FLOAT, REFERENCES
from components.evaluation.references import known
from components.gates.agreement import AllImages, agreement_gates
from components.gates.change import change_gates
from components.gates.collapse import collapsed, majority_gate
from components.gates.fairness import fairness_figures, fairness_gates
from components.gates.probe import probe_gate
from components.gates.recommend import Figures, drop_from_float, recommend
from components.gates.settings import GateSettings
from components.gates.verdicts import Gate, Verdict, overall
from core.bundle import SAVED_MODEL
from trainers.evaluation.metrics import metric_facts, metrics_with_intervals
from trainers.evaluation.noninferiority import excludable_drop
from trainers.evaluation.predictions import Predictions
from trainers.evaluation.scores import confusion_matrix
from trainers.evaluation.stats import bootstrap_interval


def judge(
    table: Table,
    figures: Figures,
    settings: GateSettings,
    *,
    classes: Sequence[str],
    checks: Sequence[Gate] = (),
    validation: Table | None = None,
    all_images: AllImages | None = None,
) -> dict[str, Any]:
    """The whole verdict, with the content of `verdict.json`.

    Args:
      table: the test split: column -> predictions, with `none_fp32` and `saved_model`, and
        `baseline` and `best` if there are such models.
      figures: variant -> `latency_ms_p50`, `size_bytes`, `gzip_bytes`.
      settings: of the pipeline.
      classes: names, in label order.
      checks: other gates: serving, schema, TFMA.
      validation: the validation split, which the variant is chosen on; None if there is none.
      all_images: agreement over all splits; None if it was not counted.
    """
    counts = all_images or AllImages()
    dropped = collapsed(table)
    choice = recommend(
        table,
        figures,
        settings,
        validation=validation,
        all_images=counts,
        dropped=dropped,
    )
    chosen = choice.variant
    described = describe(table)
    slices = slice_rows(table[chosen], classes)
    groups = fairness_figures(table[chosen], settings, classes)
    gates = [
        *_value_gates(described[chosen], figures[chosen], settings, chosen),
        majority_gate(table[chosen], chosen, settings),
        probe_gate(table, chosen, settings),
        *_slice_gates(slices, settings, chosen),
        *fairness_gates(groups, settings, chosen),
        *agreement_gates(table, chosen, counts, settings),
        *([] if chosen == FLOAT else [drop_from_float(chosen, table, counts, settings)]),
        *dropped.values(),
        *change_gates(table, chosen, settings),
        *checks,
    ]
    verdict = overall(gates)
    return {
        "verdict": verdict.value,
        "blessed": verdict is Verdict.HELD,
        "recommended": chosen,
        "reason": choice.reason,
        "selection": choice.to_dict(),
        "dropped": list(dropped),
        "excludable_drop": excludable_drops(table, chosen),
        "gates": [gate.to_dict() for gate in gates],
        "metric_facts": metric_facts(len(classes)),
        "variants": described,
        "slices": slices,
        "fairness": [one.to_dict() for one in groups],
        "max_gap": settings.max_gap,
        "confusion": {
            "variant": chosen,
            "matrix": confusion_matrix(table[chosen].scores, table[chosen].labels).tolist(),
        },
    }


def describe(table: Table) -> dict[str, dict[str, Any]]:
    """Column -> `metrics` with 95 % intervals, and what it is compared with.

    `difference` compares with the float file, `own_float` with the variant's own float pass. The
    float passes themselves are left out, since they do not ship.
    """
    found: dict[str, dict[str, Any]] = {}
    for column, predictions in table.items():
        if column.startswith(OWN_FLOAT):
            continue
        own = known(predictions, predictions)
        metrics = metrics_with_intervals(own.scores, own.labels)
        found[column] = {"metrics": {key: value.as_list() for key, value in metrics.items()}}
        if column != FLOAT:
            found[column]["difference"] = {"against": FLOAT, **compare(predictions, table[FLOAT])}
        against = own_float(column, table) if ships(column) and column != SAVED_MODEL else ""
        if against:
            count, ties = differing(predictions, table[against])
            found[column]["own_float"] = {
                "against": against,
                "agreement": 1 - count / len(predictions.labels),
                "differing": count,
                "ties": ties,
            }
    return found


def slice_rows(predictions: Predictions, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Top-1 with its interval for each class and each value of each slice key."""
    correct = top1_correct(predictions)
    names = np.array([classes[label] for label in predictions.labels], dtype=object)
    rows = []
    for key, values in {"class": names, **predictions.slices}.items():
        for value in sorted(set(values)):
            chosen = correct[values == value]
            interval = bootstrap_interval(chosen)
            rows.append(
                {"key": key, "value": value, "examples": len(chosen), "top1": interval.as_list()}
            )
    return rows


def excludable_drops(table: Table, variant: str) -> dict[str, Any]:
    """The drops in top-1 that the table's images exclude.

    Returns:
      `images`; `at_best`, the drop that they exclude if no image changes; and `excluded`: for the
      float file and each reference model of the table, the drop that the comparison excludes.
    """
    images = len(table[FLOAT].labels)
    others = [name for name in (FLOAT, *REFERENCES) if name in table and name != variant]
    lows = {name: top1_pair(table[variant], table[name]).interval().low for name in others}
    return {
        "images": images,
        "at_best": excludable_drop(images),
        "excluded": {name: max(0.0, -low) for name, low in lows.items()},
    }


def _value_gates(
    found: dict[str, Any], figures: dict[str, float], settings: GateSettings, variant: str
) -> list[Gate]:
    top1, low, high = found["metrics"]["top1"]
    latency, size = figures["latency_ms_p50"], figures["size_bytes"]
    return [
        Gate(
            "value/top1",
            top1,
            f">= {settings.min_top1}",
            Verdict.of(top1 >= settings.min_top1),
            variant,
            detail=f"95 % interval {low:.4f} to {high:.4f}",
        ),
        Gate(
            "budget/latency_ms_p50",
            latency,
            f"<= {settings.max_latency_ms}",
            Verdict.of(latency <= settings.max_latency_ms),
            variant,
        ),
        Gate(
            "budget/size_bytes",
            size,
            f"<= {settings.max_size_bytes}",
            Verdict.of(size <= settings.max_size_bytes),
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
            Verdict.of(worst["top1"][0] >= settings.min_slice_top1),
            variant,
            slice=f"{worst['key']}={worst['value']}",
            detail=f"the lowest of {len(judged)} slices of {settings.min_slice_examples} or more",
        )
    ]
