"""Names and values that identify the model, the data and the software of an evaluation."""

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.bundle import BundleError, open_bundle
from serving.benchmark.variants import environment
from tfx_pipeline.report.evaluation.context import Evaluation
from trainers.data.features import DatasetError, DatasetInfo
from trainers.evaluation.metric import Sampling
from trainers.identity.stack import git_commit, stack

_UNKNOWN = "not known"


def lineage(given: str, evaluation: Evaluation) -> dict[str, str]:
    """Name -> value, in the order of the page; `not known` where nothing was recorded.

    Args:
      given: the model as the user gave it: a bundle, a folder of `sightline train`, a run or a
        predictions file.
      evaluation: of the model.
    """
    sampling, machine = Sampling(), environment()
    rows = {
        "model": given,
        **dict(_model(given, evaluation.config)),
        "records": str(evaluation.data) if evaluation.data else _UNKNOWN,
        "split": f"{evaluation.split}, {evaluation.analysis.images:,} images",
        "data fingerprint": _fingerprint(evaluation.data),
        "intervals": f"95 %; bootstrap of {sampling.resamples:,} resamples, seed {sampling.seed}",
        "evaluated": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "evaluated with": f"sightline {git_commit() or _UNKNOWN}; {_versions(stack())}",
        "evaluated on": f"{machine['cpu']}, {machine['cores']} cores",
    }
    return {name: value for name, value in rows.items() if value}


def _model(given: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    facts = _recorded(given)
    seed = config.get("train", {}).get("seed")
    yield "configuration hash", facts.get("config_hash") or _hash(config)
    yield "seed", _UNKNOWN if seed is None else str(seed)
    yield "model's commit", facts.get("git_commit") or _UNKNOWN
    yield "model's stack", _versions(facts["stack"]) if facts.get("stack") else _UNKNOWN
    yield "model's data fingerprint", facts.get("data_fingerprint", "")
    yield "run", facts.get("run", "")
    yield "exported", facts.get("created", "")


def _recorded(given: str) -> dict[str, Any]:
    """What a bundle's manifest or a run's summary records of the model."""
    path = Path(given) if Path(given).exists() else Path(given.rpartition(":")[0] or given)
    try:
        manifest = open_bundle(path).manifest
    except (BundleError, OSError):
        pass
    else:
        return vars(manifest)
    for file in (path, path / "summary.json", path / "reports" / "latest" / "summary.json"):
        if file.name == "summary.json" and file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            return {key: found.get(key) for key in ("run", "git_commit", "stack")}
    return {}


def _hash(config: Mapping[str, Any]) -> str:
    if not config:
        return _UNKNOWN
    from trainers.config import config_hash, from_dict

    return config_hash(from_dict(dict(config)))


def _fingerprint(data: Path | None) -> str:
    try:
        return DatasetInfo.load(data).fingerprint if data else _UNKNOWN
    except DatasetError:
        return _UNKNOWN


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
