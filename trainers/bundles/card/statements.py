"""The statements of a model card: intended use, limits, groups, and what was not measured."""

from collections.abc import Sequence
from typing import Any

from core import figures
from core.bundle import SAVED_MODEL, Manifest

INTENDED_USE = (
    "It predicts which class of assets/labels.txt an image shows, for images like those of its "
    "data set. Use model.tflite on devices and plain CPUs, the SavedModel in TF Serving.",
    "It always returns a class, also for an image that shows none of its classes: choose a score "
    "below which your application leaves the decision to its user. It was not tested for decisions "
    "about people.",
)
GENERAL_LIMITS = (
    "Figures hold for images like the test split; they can be worse with another camera, light or "
    "crop. Measure on your images.",
    "Scores are the model's confidence, not a probability of being right: see the calibration "
    "error.",
    "Intervals cover the choice of test images, not the choice of seed.",
)
#: Rate of a group -> its heading.
RATE_TITLES = {
    "accuracy": "accuracy",
    "true_positive_rate": "true positive rate",
    "false_positive_rate": "false positive rate",
    "positive_rate": "predicted positive",
    "overconfidence": "overconfidence",
    "equalized_odds": "equalized odds",
}
#: Rows of one table of groups; the page of an evaluation has all of them.
MOST_GROUPS = 20


def measured_variant(manifest: Manifest) -> str:
    """The recommended variant, or the SavedModel if only that has metrics; empty without any."""
    names = (manifest.recommended, SAVED_MODEL)
    return next((name for name in names if manifest.metrics.get(name)), "")


def not_measured(manifest: Manifest, model: dict[str, Any]) -> list[str]:
    """What the card has no figures for, one sentence each."""
    found = []
    if not measured_variant(manifest):
        found.append(
            "Accuracy and calibration: not measured. `sightline evaluate` measures them, and "
            "`sightline run` records them in the card."
        )
    if not manifest.benchmark:
        found.append("Latency: not measured. `sightline benchmark` measures it.")
    if not model.get("slices"):
        found.append("Accuracy of slices: not recorded in this bundle.")
    if not model.get("fairness"):
        found.append(
            "Differences between groups of people or of images: not recorded in this bundle. "
            "`sightline evaluate --groups` measures them, and `gates.fairness` judges them."
        )
    if not manifest.gates:
        found.append("Quality gates: not checked; the bundle was pushed without them.")
    return found


def license_text(manifest: Manifest) -> str:
    """What is known about the license of the weights."""
    origin = manifest.weights_origin.get("license", "")
    stated = "The license of this model is not stated; set it before you publish the model."
    return f"{stated} Training started from weights under {origin}." if origin else stated


def limits(manifest: Manifest, model: dict[str, Any]) -> list[str]:
    """The limits of the figures, the drop in top-1 that the test images exclude included."""
    drop = figures.excludable_drop(
        model.get("excludable_drop") or manifest.gates.get("excludable_drop")
    )
    return [*GENERAL_LIMITS, *([drop] if drop else [])]


def fairness_tables(model: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups, gaps and gates of each key as text.

    Returns:
      For each key: `title`, `rates` (headings), `groups` (`name`, `images`, `note`, and `cells`,
      (value, interval) for each heading), `more` (groups left out), `gaps` (`rate`, `value`,
      `interval`, `between`), `gates` (`name`, `verdict`, `threshold`, `detail`) and `minimum`.
    """
    gates = [gate for gate in model.get("gates") or [] if _is_fairness(gate)]
    return [_table(one, gates) for one in model.get("fairness") or []]


def _is_fairness(gate: Any) -> bool:
    return isinstance(gate, dict) and str(gate.get("name", "")).startswith("fairness/")


def _table(one: dict[str, Any], gates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    groups = sorted(one["groups"], key=lambda group: not group["compared"])
    present = {rate for group in groups for rate in group["rates"]}
    rates = [rate for rate in RATE_TITLES if rate in present]
    positive = f"; positive class: {one['positive']}" if one["positive"] else ""
    return {
        "title": f"{one['key']}{positive}",
        "rates": [RATE_TITLES[rate] for rate in rates],
        "groups": [
            {
                "name": group["name"],
                "images": figures.count(group["images"]),
                "note": group["note"],
                "cells": [_cell(rate, group["rates"].get(rate)) for rate in rates],
            }
            for group in groups[:MOST_GROUPS]
        ],
        "more": max(0, len(groups) - MOST_GROUPS),
        "gaps": [
            {
                "rate": RATE_TITLES[gap["rate"]],
                "value": _points(gap["size"][0]),
                "interval": f"{_points(gap['size'][1])} to {_points(gap['size'][2])}",
                "between": f"{gap['highest']} and {gap['lowest']}, of {gap['compared']} groups",
            }
            for gap in one["gaps"]
            if gap["rate"] in RATE_TITLES
        ],
        "gates": [
            {key: str(gate.get(key) or "") for key in ("name", "verdict", "threshold", "detail")}
            for gate in gates
            if gate.get("slice") == one["key"]
        ],
        "minimum": one["minimum"],
    }


def _cell(rate: str, raw: Any) -> tuple[str, str]:
    if raw is None:
        return figures.DASH, ""
    if rate == "overconfidence":
        return figures.points(raw), figures.points_interval(raw)
    return figures.percent(raw), figures.percent_interval(raw)


def _points(value: float) -> str:
    return f"{100 * value:.1f}"
