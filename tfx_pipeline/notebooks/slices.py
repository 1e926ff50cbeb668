"""The figures of `slices_and_fairness.ipynb`: TFMA's slices with intervals, groups and gaps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from tfx_pipeline.notebooks import charts
from tfx_pipeline.notebooks.charts import Html, Row, interval
from tfx_pipeline.notebooks.run_results import RunResults
from trainers.data.features import TEXT
from trainers.evaluation import fairness
from trainers.evaluation.analysis import Analysis, AnalysisOptions, analyze
from trainers.evaluation.comparison import ALPHA, ModelPredictions

_RATES = ("accuracy", "true_positive_rate", "false_positive_rate", "positive_rate")


def tfma_slices(run: RunResults, model: Mapping[str, Any], variant: str) -> pd.DataFrame:
    """TFMA's metrics of one variant, one row per slice; those of the run's tables."""
    found = run.evaluation(model, variant).get_metrics_for_all_slices()
    shown = ("example_count", *(model.get("metric_facts") or ("top1",)))
    return pd.DataFrame(
        {
            "slice": ", ".join(f"{_key(key)} = {value}" for key, value in features) or "all",
            **{
                name: metrics[name]["doubleValue"]
                for name in shown
                if "doubleValue" in metrics.get(name, ())
            },
        }
        for features, metrics in found.items()
    )


def analyzed(
    run: RunResults, model: Mapping[str, Any], variant: str, *, groups: str = "", positive: str = ""
) -> Analysis:
    """The analysis of a variant's test predictions, as `sightline evaluate --out` writes it.

    Args:
      run: of the model.
      model: of the run's summary.
      variant: of the model.
      groups: slice keys and crosses, separated by commas; empty is every slice that ingest
        recorded.
      positive: class; see `AnalysisOptions`.

    Raises:
      AnalysisError: a group or class that does not exist.
    """
    keys = tuple(key.strip() for key in groups.split(",") if key.strip()) or run.recorded_slices
    options = AnalysisOptions(groups=keys, positive=positive)
    return analyze(run.predictions(model)[variant], options)


def slice_table(found: Analysis) -> pd.DataFrame:
    """One row per slice value: top-1 with its 95 % interval, none where there are few images."""
    rows = []
    for one in found.slices:
        top1 = one.metrics.get("top1")
        value, low, high = top1.as_list() if top1 else (np.nan, np.nan, np.nan)
        rows.append((f"{one.key} = {one.value}", one.images, value, low, high))
    return pd.DataFrame(rows, columns=["slice", "images", "top1", "low", "high"])


def slice_chart(found: Analysis) -> Html:
    """Top-1 by slice value; the line marks top-1 of all images."""
    rows = [
        Row(f"{one.key} = {one.value}", interval(one.metrics["top1"]))
        for one in found.slices
        if one.metrics
    ]
    hidden = len(found.slices) - len(rows)
    note = f"; {hidden} slice values with too few images are in the table only" if hidden else ""
    return charts.forest(
        rows,
        title=f"Top-1 by slice with 95 % intervals; dashed: all images{note}",
        x_title="top-1",
        reference=found.metrics["top1"].value,
    )


def weak_slices(found: Analysis) -> pd.DataFrame:
    """One row per slice, or pair of values, that is less accurate than the other images."""
    columns = ["slice", "images", "top1", "low", "high", "others", "p_holm", "significant"]
    rows = [
        (
            ", ".join(f"{_key(key)} = {value}" for key, value in one.values.items()),
            one.images,
            *one.accuracy.as_list(),
            one.outside,
            one.p_adjusted,
            one.p_adjusted < ALPHA,
        )
        for one in found.weak
    ]
    return pd.DataFrame(rows, columns=columns)


def rates(found: Analysis) -> pd.DataFrame:
    """One row per group and rate, with its 95 % interval and the number of images behind it."""
    columns = ["key", "positive", "group", "compared", "rate", "images", "value", "low", "high"]
    rows = [
        (
            *(one.key, one.positive, group.name, group.compared),
            *(rate, group.counts[rate], *value.as_list()),
        )
        for one in found.groups
        for group in one.groups
        for rate, value in group.rates.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def gaps(found: Analysis) -> pd.DataFrame:
    """One row per key and rate: the gap between groups with its interval."""
    columns = ["key", "positive", "rate", "gap", "low", "high", "highest", "lowest"]
    rows = [
        (one.key, one.positive, gap.rate, *gap.size.as_list(), gap.highest, gap.lowest)
        for one in found.groups
        for gap in one.gaps
    ]
    return pd.DataFrame(rows, columns=columns)


def group_charts(found: Analysis) -> Html:
    """A chart per key and rate, with the groups that are large enough.

    Accuracy is shown in any case, the rates of one class against the others if it is the only
    positive one.
    """
    parts = {}
    positives = {one.positive for one in found.groups if one.positive}
    for one in found.groups:
        compared = [group for group in one.groups if group.compared]
        for rate in _RATES if len(positives) == 1 else (fairness.ACCURACY,):
            rows = [Row(g.name, interval(g.rates[rate])) for g in compared if rate in g.rates]
            title = f"{one.key}: {rate.replace('_', ' ')}"
            if rate != fairness.ACCURACY:
                title += f", positive class: {one.positive}"
            if rows and title not in parts:
                parts[title] = charts.forest(rows, title="95 % intervals", x_title="rate")
    if not parts:
        return charts.text(
            "No groups: ingest recorded no slices of this data set. Set GROUPS to compare image "
            "properties, e.g. brightness."
        )
    return charts.stacked(parts)


def accuracy_gaps(model: ModelPredictions) -> pd.DataFrame:
    """One row per slice key: the gap in accuracy between its values, which needs no positive class.

    Keys without two values of enough images have no gap.
    """
    rows = []
    for key, values in sorted(model.slices.items()):
        groups = fairness.group_rates(model.scores, model.labels, values)
        for gap in fairness.gaps(groups):
            if gap.rate == fairness.ACCURACY:
                rows.append((_key(key), *gap.size.as_list(), gap.highest, gap.lowest))
    return pd.DataFrame(rows, columns=["key", "gap", "low", "high", "highest", "lowest"])


def _key(key: str) -> str:
    return "class" if key == TEXT else key.removeprefix("slice/")
