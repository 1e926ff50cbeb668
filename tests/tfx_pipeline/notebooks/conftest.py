"""A finished run, small but with real records, predictions and a gallery."""

import hashlib
import io
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from trainers.data.features import DatasetInfo
from trainers.evaluation.metrics import metric_facts, metrics_with_intervals
from trainers.evaluation.predictions import Predictions, write_table

CLASSES = ("cat", "dog", "owl")
SKILLS = {
    "pets_cnn": {"none_fp32": 1.6, "pqat_int8": 0.9, "saved_model": 1.6},
    "pets_vit": {"none_fp32": 0.5, "pqat_int8": 0.4},
}
SIZE = 90


def images(count, first=0):
    """PNGs of random pixels, and their digests."""
    made = []
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        made.append(data.getvalue())
    return made, [hashlib.sha256(one).hexdigest() for one in made]


def record(data, digest, label):
    return {
        "image/encoded": data,
        "image/format": "PNG",
        "image/filename": f"{CLASSES[label]}/{digest[:6]}.png",
        "image/height": 12,
        "image/width": 12,
        "image/key/sha256": digest,
        "image/class/label": label,
        "image/class/text": CLASSES[label],
    }


@pytest.fixture(scope="session")
def predictions():
    """Model -> variant -> predictions of the test images."""
    _, ids = images(SIZE)
    labels = (np.arange(SIZE) % 3).astype(np.int32)
    noise = np.random.default_rng(1).normal(size=(SIZE, 3))
    slices = {
        "slice/brightness": np.array(["dark", "bright"], object)[np.arange(SIZE) // 3 % 2],
        "slice/race": np.array(["Black", "White", "Asian"], object)[np.arange(SIZE) // 30],
    }
    found = {}
    for model, variants in SKILLS.items():
        found[model] = {}
        for variant, skill in variants.items():
            exponents = np.exp(noise + skill * np.eye(3)[labels])
            scores = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
            found[model][variant] = Predictions(np.array(ids, object), labels, scores, slices)
    return found


@pytest.fixture(scope="session")
def records(tmp_path_factory, write_dataset):
    """Train and test images; two test images are the same bytes as train images."""
    train, train_ids = images(40, first=SIZE - 2)
    test, test_ids = images(SIZE)
    splits = {
        "train": [record(*one, i % 2) for i, one in enumerate(zip(train, train_ids, strict=True))],
        "test": [record(*one, i % 3) for i, one in enumerate(zip(test, test_ids, strict=True))],
    }
    return write_dataset(tmp_path_factory.mktemp("records") / "data", splits, classes=CLASSES)


def model_summary(name, variants, folder, records):
    shown = []
    for number, (variant, found) in enumerate(variants.items()):
        metrics = metrics_with_intervals(found.scores, found.labels)
        shown.append(
            {
                "name": variant,
                "recommended": variant == "pqat_int8",
                "dropped": False,
                "sparsity": 0.8 if variant == "pqat_int8" else 0.0,
                "size_bytes": 40_000 - 9_000 * number,
                "gzip_bytes": 30_000 - 8_000 * number,
                "latency_ms_p50": 0.4 - 0.1 * number,
                "latency_ms_p99": 0.9 - 0.1 * number,
                "metrics": {key: value.as_list() for key, value in metrics.items()},
            }
        )
    gate = {"name": "value/top1", "variant": "pqat_int8", "slice": "", "value": 0.5, "detail": ""}
    return {
        "name": name,
        "recommended": name == "pets_cnn",
        "recommended_variant": "pqat_int8",
        "config": {"data": {"dir": str(records)}},
        "variants": shown,
        "metric_facts": metric_facts(len(CLASSES)),
        "gates": [{**gate, "threshold": ">= 0.4", "verdict": "held", "waived": ""}],
        "excludable_drop": {"images": SIZE, "at_best": 0.0409, "excluded": {}},
        # One relative to the run's folder, one absolute: both are allowed.
        "evaluation": f"evaluation/{name}",
        "predictions": str(folder / "predictions" / name),
    }


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, predictions, records):
    """A run's folder with predictions, a gallery and a summary; TFMA's results are empty folders.

    Tests only read it.
    """
    from components.data_validation.anomaly import ValidatorSettings
    from components.data_validation.gallery import write_gallery
    from components.data_validation.image_anomalies import find_anomalies

    folder = tmp_path_factory.mktemp("root") / "runs" / "pets"
    for model, variants in predictions.items():
        write_table(folder / "predictions" / model, variants, CLASSES)
        (folder / "evaluation" / model).mkdir(parents=True)
    gallery = folder / "gallery"
    write_gallery(records, find_anomalies(records, ValidatorSettings()), gallery, shown=4)
    info = asdict(DatasetInfo.load(records))
    info["slices"] = ["slice/brightness", "slice/race"]
    for split, labels in {"train": [20, 20, 0], "test": [30, 30, 30]}.items():
        info["splits"][split]["per_class"] = dict(zip(CLASSES, labels, strict=True))
    summary = {
        "pipeline": "pets",
        "run": "20260101-000000",
        "status": "pushed",
        "data": info,
        "machine": {"cpu": "test", "cores": 2},
        "recommendation": "pets_cnn: most accurate",
        "models": [
            *(model_summary(n, v, folder, records) for n, v in predictions.items()),
            {"name": "failed_early"},
        ],
        "lineage": [{"producer": "ImageValidator.image_report", "uri": "gallery"}],
    }
    report = folder / "reports" / "latest"
    report.mkdir(parents=True)
    (report / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


@pytest.fixture
def change_summary(finished_run, tmp_path):
    """A copy of `finished_run` whose summary a function changed."""

    def change(edit):
        copy = shutil.copytree(finished_run, tmp_path / "changed")
        path = copy / "reports" / "latest" / "summary.json"
        summary = json.loads(path.read_text(encoding="utf-8"))
        edit(summary)
        path.write_text(json.dumps(summary), encoding="utf-8")
        return copy

    return change
