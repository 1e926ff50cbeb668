"""The figures of `compare_models.ipynb`: metrics, gates, paired differences and changed images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from core import figures
from core.figures import FRACTION
from tfx_pipeline.notebooks import charts
from tfx_pipeline.notebooks.charts import Html, Row, interval
from tfx_pipeline.notebooks.run_results import RunError, RunResults
from trainers.evaluation.common_images import CommonImages, on_common_images
from trainers.evaluation.comparison import Comparison, ModelPredictions, aligned, compare

pd.set_option("display.max_colwidth", None)  # Details are sentences.

_GATES = ["model", "name", "variant", "slice", "value", "threshold", "verdict", "waived", "detail"]


def metrics(run: RunResults) -> pd.DataFrame:
    """One row per model, variant and metric of the run's tables, with its 95 % interval."""
    rows = []
    for model in run.models:
        facts = model.get("metric_facts") or {}
        for variant in model["variants"]:
            for name, estimate in variant["metrics"].items():
                if facts and name not in facts:  # It equals another metric.
                    continue
                title = facts.get(name, {}).get("title", name)
                rows.append(
                    {"model": model["name"], "variant": variant["name"], "metric": name}
                    | {"title": title, "unit": facts.get(name, {}).get("unit", FRACTION)}
                    | dict(zip(("value", "low", "high"), estimate, strict=True))
                    | {"recommended": bool(variant.get("recommended"))}
                )
    return pd.DataFrame(rows)


def metric_chart(found: pd.DataFrame, metric: str = "top1") -> Html:
    """One metric of the recommended variant of each model.

    Raises:
      RunError: the run has no such metric.
    """
    chosen = found[(found["metric"] == metric) & found["recommended"]]
    if chosen.empty:
        known = ", ".join(sorted(set(found["metric"])))
        raise RunError(f"no metric {metric!r} of a recommended variant (known: {known})")
    rows = [
        Row(f"{one['model']} {one['variant']}", interval([one["value"], one["low"], one["high"]]))
        for one in chosen.to_dict("records")
    ]
    title = str(chosen["title"].iloc[0])
    kind = charts.SHARES if (chosen["unit"] == FRACTION).all() else charts.PLAIN
    return charts.forest(
        rows, title=f"{title} of the recommended variants, 95 % intervals", x_title=title, kind=kind
    )


def metric_table(found: pd.DataFrame) -> pd.DataFrame:
    """All metrics of the recommended variants as text, one column per model."""
    chosen = found[found["recommended"]]
    shown = chosen.assign(
        name=chosen["model"] + " " + chosen["variant"],
        text=[_with_interval(one) for one in chosen.to_dict("records")],
    )
    table = shown.pivot(index="title", columns="name", values="text")
    return table.loc[list(dict.fromkeys(shown["title"])), list(dict.fromkeys(shown["name"]))]


def _with_interval(one: dict[str, Any]) -> str:
    estimate = (one["value"], one["low"], one["high"])
    reach = figures.metric_interval(estimate, one["unit"])
    return f"{figures.metric(estimate, one['unit'])} ({reach})"


def gates(run: RunResults) -> pd.DataFrame:
    """One row per gate and model, as the run decided."""
    rows = [
        {"model": model["name"], **gate, "value": figures.short(float(gate["value"]), 7)}
        for model in run.models
        for gate in model.get("gates") or ()
    ]
    return pd.DataFrame(rows, columns=_GATES)


def chosen_predictions(
    run: RunResults, other: RunResults | None = None, *, variant: str = ""
) -> CommonImages:
    """The test predictions of each model on the images of all, the recommended model first.

    Args:
      run: its models.
      other: a second run, whose models follow; names then begin with the run's.
      variant: the same one of every model; empty is the recommended one of each.

    Raises:
      RunError: a model lacks the variant, or its predictions.
      ComparisonError: too few of the images are shared.
    """
    runs = [run] if other is None else [run, other]
    found = []
    for one in runs:
        for model in one.models:
            made = one.predictions(model)[one.variant(model, variant)["name"]]
            label = made.name if other is None else f"{one.summary.get('run')} {made.name}"
            found.append(replace(made, name=label))
    return on_common_images(found)


def compared(models: Sequence[ModelPredictions]) -> list[Comparison]:
    """Each model compared with the first; empty for one model.

    Raises:
      ComparisonError: predictions of other images or classes.
    """
    return compare(models) if len(models) > 1 else []


def differences(found: Sequence[Comparison]) -> pd.DataFrame:
    """One row per comparison: difference of top-1 and of cross-entropy, with tests."""
    return pd.DataFrame(
        {
            "candidate": one.candidate,
            "reference": one.reference,
            **dict(zip(("difference", "low", "high"), one.top1.as_list(), strict=True)),
            "gained": one.paired.gained,
            "lost": one.paired.lost,
            "mcnemar_p": one.p_value,
            "p_holm": one.p_adjusted,
            "cross_entropy": one.cross_entropy.value,
            "cross_entropy_low": one.cross_entropy.low,
            "cross_entropy_high": one.cross_entropy.high,
            "images_for_1_point": one.needed,
        }
        for one in found
    )


def difference_chart(found: Sequence[Comparison]) -> Html:
    """Differences in top-1 with Tango's intervals; the line marks no difference."""
    if not found:
        return charts.text("One model: set OTHER to the folder of another run to compare with it.")
    rows = [Row(one.candidate, interval(one.top1), color) for color, one in enumerate(found)]
    return _points(rows, f"Difference in top-1 from {found[0].reference}, 95 % intervals")


def slice_changes(found: Sequence[Comparison]) -> pd.DataFrame:
    """One row per comparison and slice value with enough images, the greatest loss first."""
    return pd.DataFrame(
        {
            "candidate": one.candidate,
            "slice": f"{change.key.removeprefix('slice/')} = {change.value}",
            "images": change.paired.total,
            **dict(zip(("difference", "low", "high"), change.interval.as_list(), strict=True)),
            "p_holm": change.p_adjusted,
        }
        for one in found
        for change in one.slices
    )


def slice_charts(found: Sequence[Comparison]) -> Html:
    """The differences of each comparison by slice, the greatest loss first."""
    parts = {}
    for one in found:
        rows = [
            Row(f"{change.key.removeprefix('slice/')} = {change.value}", interval(change.interval))
            for change in one.slices
        ]
        parts[f"{one.candidate} against {one.reference}"] = _points(rows, "Difference in top-1")
    return charts.stacked(parts)


def _points(rows: Sequence[Row], title: str) -> Html:
    return charts.forest(rows, title=title, x_title="points", kind=charts.POINTS, reference=0.0)


def changed_images(found: Sequence[Comparison], models: Sequence[ModelPredictions]) -> pd.DataFrame:
    """One row per comparison and image on which exactly one model is right, losses first.

    Args:
      found: the comparisons of `models`.
      models: in the order given to `compared`.
    """
    columns = ["candidate", "change", "image", "label", "predicted_by_reference"]
    rows = []
    for one, other in zip(found, models[1:], strict=True):
        first, second = models[0], aligned(other, models[0])
        for at in one.changed.tolist():
            change = "lost" if first.correct[at] else "gained"
            labels = (first.labels[at], first.predicted[at], second.predicted[at])
            names = (first.classes[label] for label in labels)
            rows.append((one.candidate, change, first.ids[at], *names))
    return pd.DataFrame(rows, columns=[*columns, "predicted_by_candidate"])
