"""The figures of a study that `tools/benchmarks_md.py` writes into BENCHMARKS.md."""

import os
from typing import Any

from tfx_pipeline.study.results import Results, RunResult
from tfx_pipeline.study.sets import DISTILLED, HYBRID, RESNET, ROLES, VIT
from trainers.evaluation.noninferiority import pair
from trainers.evaluation.stats import bootstrap_interval, paired_difference

_PAIRS = ((DISTILLED, VIT), (HYBRID, RESNET), (HYBRID, VIT))


def benchmark_figures(results: Results) -> dict[str, Any]:
    """`machine`, `examples`, `runs` by name, and `pairs` of the first seeds, as JSON values."""
    environment = results.timing.get("environment", {})
    runs = {f"{run.recipe}-{run.seed}": _run(run) for role in ROLES for run in results.runs[role]}
    pairs = []
    for first, second in _PAIRS:
        if results.runs[first] and results.runs[second]:
            one, other = results.runs[first][0], results.runs[second][0]
            pairs.append(
                {
                    "a": f"{one.recipe}-{one.seed}",
                    "b": f"{other.recipe}-{other.seed}",
                    "difference": paired_difference(one.test.correct, other.test.correct).as_list(),
                    "p_value": pair(one.test.correct, other.test.correct).mcnemar_p,
                }
            )
    cores = int(environment.get("cores", os.cpu_count() or 1))
    return {
        "machine": {"cores": cores, "cpu": environment.get("cpu", "")},
        "examples": results.state["examples"],
        "runs": runs,
        "pairs": pairs,
    }


def _run(run: RunResult) -> dict[str, Any]:
    names = ("val_top1", "best_epoch", "parameters", "multiply_adds", "seconds", "cpu_seconds")
    return {
        "test_top1": bootstrap_interval(run.test.correct).as_list(),
        "epochs": run.epochs,
        "images_per_second": max(row["images_per_second"] for row in run.history),
        **{name: run.facts[name] for name in names},
    }
