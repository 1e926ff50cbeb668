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
    runs = {_name(results, role, run): _run(run) for role in ROLES for run in results.runs[role]}
    pairs = [
        _pair(results, first, second)
        for first, second in _PAIRS
        if results.runs[first] and results.runs[second]
    ]
    cores = int(environment.get("cores", os.cpu_count() or 1))
    return {
        "machine": {"cores": cores, "cpu": environment.get("cpu", "")},
        "examples": results.state["examples"],
        "runs": runs,
        "pairs": pairs,
    }


def _name(results: Results, role: str, run: RunResult) -> str:
    """`RECIPE-SEED`, with the role where two have one recipe."""
    is_shared = list(results.recipes.values()).count(run.recipe) > 1
    return f"{run.recipe}-{run.seed}" + (f"-{role}" if is_shared else "")


def _pair(results: Results, first: str, second: str) -> dict[str, Any]:
    """The difference of the first seeds of two roles."""
    one, other = results.runs[first][0], results.runs[second][0]
    right = one.test.correct, other.test.correct
    return {
        "a": _name(results, first, one),
        "b": _name(results, second, other),
        "difference": paired_difference(*right).as_list(),
        "p_value": pair(*right).mcnemar_p,
    }


def _run(run: RunResult) -> dict[str, Any]:
    names = ("val_top1", "best_epoch", "parameters", "multiply_adds", "seconds", "cpu_seconds")
    return {
        "test_top1": bootstrap_interval(run.test.correct).as_list(),
        "epochs": run.epochs,
        "images_per_second": max(row["images_per_second"] for row in run.history),
        **{name: run.facts[name] for name in names},
    }
