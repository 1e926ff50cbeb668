"""The figures of `compression_pareto.ipynb`: cost and accuracy of variants, and losses to float."""

from collections.abc import Sequence

import pandas as pd

from core import charts as drawing
from core import figures
from core.figures import Estimate
from tfx_pipeline.notebooks import charts
from tfx_pipeline.notebooks.charts import Html, Row, interval
from tfx_pipeline.notebooks.run_results import FLOAT, RunResults
from trainers.evaluation.comparison import holm
from trainers.evaluation.noninferiority import pair

#: Column of the costs -> axis title.
COSTS = {
    "gzip_kb": "gzipped size, kB (log scale)",
    "latency_ms_p50": "latency p50, ms (log scale)",
}
_OPTIMAL = {"gzip_kb": "size", "latency_ms_p50": "latency"}
_RESULTS = ("recommended", "dropped")


def variants(run: RunResults) -> pd.DataFrame:
    """One row per variant: top-1 with its interval, sparsity, size, latency and result.

    `optimal` lists the costs for which a variant is Pareto optimal, by the point estimates;
    `result` is whether it was recommended, or dropped because it collapsed.
    """
    found = pd.DataFrame(
        {
            "model": model["name"],
            "variant": variant["name"],
            **dict(zip(("top1", "low", "high"), variant["metrics"]["top1"], strict=True)),
            "sparsity": variant.get("sparsity", 0.0),
            "gzip_kb": variant["gzip_bytes"] / 1000,
            "latency_ms_p50": variant["latency_ms_p50"],
            "latency_ms_p99": variant["latency_ms_p99"],
            "result": next((key for key in _RESULTS if variant.get(key)), ""),
        }
        for model in run.models
        for variant in model["variants"]
    )
    flags = {
        name: optimal(found[cost].tolist(), found["top1"].tolist())
        for cost, name in _OPTIMAL.items()
    }
    found["optimal"] = [
        ", ".join(name for name in flags if flags[name][row]) for row in range(len(found))
    ]
    return found


def optimal(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Whether each point is Pareto optimal: no other is as good in both and better in one.

    Args:
      costs: the lower, the better.
      values: the higher, the better; of equal length.
    """
    points = list(zip(costs, values, strict=True))
    return [
        not any(
            other_cost <= cost and other >= value and (other_cost, other) != (cost, value)
            for other_cost, other in points
        )
        for cost, value in points
    ]


def pareto_chart(found: pd.DataFrame, cost: str) -> Html:
    """Top-1 with intervals against a cost, a key of `COSTS`, one color per model."""
    models = list(dict.fromkeys(found["model"]))
    dots = [
        drawing.Dot(
            x=one[cost],
            y=Estimate(one["top1"], one["low"], one["high"]),
            model=one["model"],
            variant=one["variant"],
            color=models.index(one["model"]),
            x_text=f"{figures.three_digits(one[cost])} {'kB' if cost == 'gzip_kb' else 'ms'}",
            y_text=figures.percent(one["top1"]),
        )
        for one in found.to_dict("records")
    ]
    title = f"Top-1 with 95 % intervals by {COSTS[cost].split(',')[0]}"
    return charts.trade_off(dots, title=title, x_title=COSTS[cost])


def against_float(run: RunResults) -> pd.DataFrame:
    """One row per variant: its difference in top-1 from the float file of its model.

    Tango's interval and McNemar's exact test, as in the gates; `p_holm` is adjusted over all rows.
    """
    rows = []
    for model in run.models:
        predictions = run.predictions(model)
        if FLOAT not in predictions:
            continue
        reference = predictions[FLOAT].correct
        for name, one in predictions.items():
            if name != FLOAT:
                found = pair(one.correct, reference)
                ends = found.interval().as_list()
                counts = (found.gained, found.lost, found.mcnemar_p)
                rows.append((model["name"], name, *ends, *counts))
    columns = ["model", "variant", "difference", "low", "high", "only_variant", "only_float"]
    table = pd.DataFrame(rows, columns=[*columns, "mcnemar_p"])
    table["p_holm"] = holm(table["mcnemar_p"].astype(float))
    return table


def float_chart(found: pd.DataFrame, max_drop: float) -> Html:
    """The differences of `against_float`; the line marks the largest drop to accept.

    Args:
      found: of `against_float`.
      max_drop: in [0, 1]; 0.02 is 2 points.
    """
    models = list(dict.fromkeys(found["model"]))
    rows = [
        Row(
            f"{one['model']} {one['variant']}",
            interval([one["difference"], one["low"], one["high"]]),
            models.index(one["model"]),
        )
        for one in found.to_dict("records")
    ]
    return charts.forest(
        rows,
        title=f"Difference in top-1 from float; dashed: a drop of {100 * max_drop:g} points",
        x_title="points",
        kind=charts.POINTS,
        reference=-max_drop,
    )
