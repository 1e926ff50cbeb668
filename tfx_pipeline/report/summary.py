"""`summary.json`: the results of one run, read from its artifacts.

The report, the console's tables, the notebooks and the next run's check for changes read it.
"""

import csv
import datetime
import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components import files
from components.gates import GateSettings, Verdict
from components.live import Live
from core.figures import percent, percent_interval, short
from core.files import read_json, replace_link, write_json
from core.lineage import store_state
from tfx_pipeline.request.run import Layout, RunRequest
from trainers.config import to_dict
from trainers.data.features import REPORT_FILE, DatasetInfo
from trainers.identity.stack import git_commit, stack

SUMMARY_FILE = "summary.json"
LATEST = "latest"
# Number of rejected files in a report; the ingest report lists all.
_NAMED = 20

_FIGURES = (
    "size_bytes",
    "gzip_bytes",
    "latency_ms_p50",
    "latency_ms_p99",
    "images_per_second",
)


@dataclass(frozen=True)
class Node:
    """The state of one component: `done`, `cached` or `failed`."""

    name: str
    state: str
    seconds: float


def build_summary(
    request: RunRequest,
    info: DatasetInfo,
    nodes: Sequence[Node],
    outputs: Sequence[Any],
    *,
    state: dict[str, Any],
    seconds: float,
    error: str = "",
) -> dict[str, Any]:
    """The summary of a run that ended, successfully or with an `error`.

    Args:
      request: of the run.
      info: the data set.
      nodes: in order of execution.
      outputs: `tfx_pipeline.runners.dag.Output`s of the run.
      state: `tfx_pipeline.request.run.run_state` when the run began.
      seconds: of all nodes.
      error: why the run stopped; empty without an error.
    """
    uris = {(output.node, output.key): output.uri for output in outputs}
    models = [_model(name, request, uris) for name in request.experiments]
    summary: dict[str, Any] = {
        "pipeline": request.pipeline.name,
        "run": request.run,
        "status": "error" if error else _status(models),
        "error": error,
        "seconds": seconds,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": f"sightline run {request.pipeline.name}",
        "key": request.key(state),
        "git_commit": git_commit(),
        "stack": stack(),
        "machine": _machine(uris),
        "data": {**asdict(info), "rejections": _rejections(Path(request.data))},
        "components": [asdict(node) for node in nodes],
        "models": models,
        "recommendation": "",
        "live": {
            request.experiments[model["name"]].name: _store_state(model, request, uris)
            for model in models
        },
        "unchecked": _unchecked(request, uris),
        "lineage": [
            {"id": o.id, "type": o.type, "producer": f"{o.node}.{o.key}", "uri": o.uri}
            for o in outputs
        ],
    }
    summary["data"]["anomalies"] = sorted(
        {
            gate["detail"]
            for model in models
            for gate in model.get("gates", [])
            if gate["name"] == "data/anomalies" and not gate["passed"]
        }
    )
    if not error:
        _recommend(summary, request)
    return summary


def _model(name: str, request: RunRequest, uris: dict[tuple[str, str], str]) -> dict[str, Any]:
    config = request.experiments[name]
    found: dict[str, Any] = {
        "name": name,
        "architecture": config.model.name,
        "config": to_dict(config),
        "seed": config.train.seed,
        "recommended": False,
    }
    trained = _path(uris, f"Trainer.{name}", "model")
    if trained:
        folder = trained / files.SERVING_MODEL
        facts = read_json(folder / "trained.json")
        found |= {key: facts[key] for key in ("parameters", "multiply_adds", "best_epoch")}
        probe = facts.get("probe") or {}
        found["linear_probe"] = probe.get("why", "")
        found["saw_validation"] = bool(probe.get("shipped") and probe.get("refitted"))
        found["history"] = _history(folder / "history.csv")
        # The result of a search is not in the request.
        found["config"] = read_json(folder / "config.json")
    tuned = _path(uris, f"Tuner.{name}", "tuner_results")
    if tuned:
        found["trials"] = read_json(tuned / "tuner_results.json")
    verdict_dir = _path(uris, f"SignificanceGate.{name}", "blessing")
    if verdict_dir:
        found |= _judged(name, uris, read_json(verdict_dir / files.VERDICT))
    pushed = _path(uris, f"BundlePusher.{name}", "pushed_model")
    if pushed:
        found["pushed"] = read_json(pushed / files.PUSHED)
    return found


def _store_state(
    model: dict[str, Any], request: RunRequest, uris: dict[tuple[str, str], str]
) -> dict[str, str] | None:
    """The state of the bundle store that belongs to this result.

    None when the store changed during the run other than by its push (another push, a rollback or
    a deletion), so that the next run compares again.
    """
    live = _path(uris, f"LiveModel.{model['name']}", "live")
    if live is None:
        return None
    after = store_state(request.layout.bundles / request.experiments[model["name"]].name)
    own = str((model.get("pushed") or {}).get("version"))
    before = Live.load(str(live)).state
    same = _without(before, own) == _without(after, own)
    return after if same else None


def _without(state: dict[str, str], version: str) -> dict[str, str]:
    return {name: digest for name, digest in state.items() if name != version}


def _unchecked(request: RunRequest, uris: dict[tuple[str, str], str]) -> list[str]:
    """Comparisons with the live models that could not be made, and why."""
    from components.gates.live_gates import unchecked

    anomalies = _path(uris, "StatisticsValidator", "anomalies")
    lives = [_path(uris, f"LiveModel.{name}", "live") for name in request.experiments]
    if anomalies is None or None in lives:
        return []
    found = [unchecked(Live.load(str(live)), str(anomalies)) for live in lives]
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def _judged(name: str, uris: dict[tuple[str, str], str], verdict: dict[str, Any]) -> dict[str, Any]:
    bundle = Path(uris[(f"Compressor.{name}", "bundle")]) / files.SERVING_MODEL
    manifest = read_json(bundle / "manifest.json")
    benchmark = Path(uris[(f"Benchmarker.{name}", "benchmark_result")])
    figures = read_json(benchmark / files.BENCHMARK)["variants"]
    described = {v["name"]: v for v in manifest["variants"]}
    variants = []
    for variant, facts in verdict["variants"].items():
        if variant not in figures:
            continue  # The baseline, a model of another run.
        about = described.get(variant, {"method": "none", "dtype": "fp32", "sparsity": 0.0})
        variants.append(
            {
                "name": variant,
                "method": about["method"],
                "dtype": about["dtype"],
                "sparsity": about["sparsity"],
                "recommended": variant == verdict["recommended"],
                "dropped": variant in verdict["dropped"],
                **{key: figures[variant][key] for key in _FIGURES},
                **facts,
            }
        )
    predictions = uris[(f"Predictor.{name}", "predictions")]
    validation = files.predictions_file(predictions, files.VALIDATION)
    return {
        "metric_facts": verdict["metric_facts"],
        "variants": variants,
        "recommended_variant": verdict["recommended"],
        "why_variant": verdict["reason"],
        "confusion": verdict["confusion"],
        "slices": verdict["slices"],
        "fairness": verdict["fairness"],
        "max_gap": verdict["max_gap"],
        "gates": verdict["gates"],
        "verdict": verdict["verdict"],
        "blessed": verdict["blessed"],
        "dropped": verdict["dropped"],
        "excludable_drop": verdict["excludable_drop"],
        "refused_because": "; ".join(
            _reason(gate) for gate in verdict["gates"] if not gate["passed"]
        ),
        "evaluation": uris[(f"Evaluator.{name}", "evaluation")],
        "predictions": str(files.predictions_file(predictions)),
        "validation_predictions": str(validation) if validation.is_file() else "",
    }


def _reason(gate: dict[str, Any]) -> str:
    """A gate that stopped a model; if undecided, with the number of images that would decide it."""
    value = "" if gate["value"] is None else f" {short(float(gate['value']), 4)}"
    text = f"{gate['name']}{value}, required {gate['threshold']}"
    if gate["verdict"] != Verdict.UNDECIDED.value:
        return text
    needed = f" (about {gate['images_needed']:,} images would)" if gate["images_needed"] else ""
    return f"{text}: not decided by these images{needed}"


def _status(models: list[dict[str, Any]]) -> str:
    stopped = [model for model in models if not model.get("pushed")]
    if stopped:
        undecided = all(model.get("verdict") == Verdict.UNDECIDED.value for model in stopped)
        return "undecided" if undecided else "refused"
    return "pushed" if all(map(_is_shipped, models)) else "withdrawn"


def _is_shipped(model: dict[str, Any]) -> bool:
    """Whether servers can load the model: it is in its folder and was not rolled back."""
    pushed = model.get("pushed")
    return bool(pushed) and not pushed.get("withdrawn")


def _recommend(summary: dict[str, Any], request: RunRequest) -> None:
    """Marks the recommended model: chosen on validation, reported with its test figures."""
    from components.gates.recommend import recommend_model
    from trainers.evaluation.predictions import read_table

    shipped = [model for model in summary["models"] if _is_shipped(model)]
    if not shipped:
        passed = any(model.get("pushed") for model in summary["models"])
        reason = "every model that passed its gates was withdrawn"
        summary["recommendation"] = f"none: {reason if passed else 'no model passed its gates'}"
        return
    whole = all(model["validation_predictions"] for model in shipped)
    key, split = ("validation_predictions", "validation") if whole else ("predictions", "test")
    predictions_of, latency = {}, {}
    for model in shipped:
        variant = model["recommended_variant"]
        predictions_of[model["name"]] = read_table(Path(model[key]))[variant]
        figures = next(v for v in model["variants"] if v["name"] == variant)
        latency[model["name"]] = figures["latency_ms_p50"]
    chosen, reason = recommend_model(
        predictions_of, latency, GateSettings(**request.pipeline.gates), split
    )
    saw = [model["name"] for model in shipped if whole and model.get("saw_validation")]
    if saw:
        reason += f"; the last layer of {', '.join(saw)} was fitted on these images as well"
    for model in summary["models"]:
        model["recommended"] = model["name"] == chosen
        if model["recommended"]:
            figures = next(v for v in model["variants"] if v["recommended"])
            top1 = figures["metrics"]["top1"]
            reason += f"; test top-1 {percent(top1)} (95 % interval {percent_interval(top1)} %)"
    summary["recommendation"] = reason


def _path(uris: dict[tuple[str, str], str], node: str, key: str) -> Path | None:
    uri = uris.get((node, key))
    return Path(uri) if uri else None


def _machine(uris: dict[tuple[str, str], str]) -> dict[str, Any]:
    for (node, _), uri in uris.items():
        if node.startswith("Benchmarker."):
            return read_json(Path(uri) / files.BENCHMARK)["machine"]
    return {"cores": os.cpu_count()}


def _history(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8") as handle:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(handle)]


def _rejections(data: Path) -> list[str]:
    """The first rejections at ingest, one line each; none for records of other tools."""
    path = data / REPORT_FILE
    if not path.is_file():
        return []
    found = read_json(path)["findings"].values()
    rejected = (one for entry in found if entry["level"] == "rejection" for one in entry["files"])
    return [f"{one['file']}: {one['detail']}" for one in itertools.islice(rejected, _NAMED)]


def write_summary(summary: dict[str, Any], layout: Layout) -> Path:
    """Writes `summary.json`, `errors.json` and `report.html`, then points `latest` at them."""
    from tfx_pipeline.report import write_report
    from tfx_pipeline.report.error_images import write_errors

    folder = layout.report(summary["run"])
    write_json(folder / SUMMARY_FILE, summary, default=str)
    write_errors(summary, folder)
    write_report(summary, folder)
    replace_link(folder.parent / LATEST, folder.name)
    return folder
