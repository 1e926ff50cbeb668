"""File names inside artifacts, and reading and writing JSON; standard library only."""

import json
import os
from pathlib import Path
from typing import Any

SELECTION = "selection.json"
BENCHMARK = "benchmark.json"
VERDICT = "verdict.json"
ROUND_TRIP = "round_trip.json"
PUSHED = "pushed.json"
LIVE = "live.json"
COMPARED = "compared.json"
IMAGE_ANOMALIES = "anomalies.json"
AGREEMENT = "agreement.json"
FLOAT_PASSES = "FloatPasses"  # next to the Compressor's draft: tables of its models in float
VALIDATION = "validation"
SERVING_MODEL = "Format-Serving"  # the folder of TFX's Trainer for the output of run_fn


def read_json(path: Path | str) -> Any:
    """The content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` under a temporary name and renames it onto `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def predictions_file(uri: str, split: str = "test") -> Path:
    """The predictions table inside a Predictor's artifact."""
    return Path(uri) / f"Split-{split}" / "data_tfrecord-00000-of-00001"
