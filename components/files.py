"""File names inside artifacts; `read_json` and `write_json` are those of `core.files`."""

from pathlib import Path

from core.files import read_json, write_json

__all__ = ["predictions_file", "read_json", "write_json"]

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


def predictions_file(uri: str, split: str = "test") -> Path:
    """The predictions table inside a Predictor's artifact."""
    return Path(uri) / f"Split-{split}" / "data_tfrecord-00000-of-00001"
