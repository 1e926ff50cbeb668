"""`sightline evaluate --tfma`: TFMA opens what is written, with the figures of the JSON."""

import json

import numpy as np
import pytest
from sklearn import metrics as oracle
from typer.testing import CliRunner

from core.bundle import SAVED_MODEL
from tfx_pipeline.cli import app
from trainers.evaluation.predictions import Predictions, write_table

CLASSES = ("no", "yes")
# TFMA computes in float32, and its cross-entropy clips elsewhere.
CLOSE = 1e-6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfma")
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300).astype(np.int32)
    yes = np.clip(np.where(labels == 1, 0.7, 0.3) + random.normal(0, 0.2, 300), 0.01, 0.99)
    slices = {
        f"slice/{key}": random.choice(values, 300).astype(object)
        for key, values in (("age", ["3-9", "10-19"]), ("light", ["dark", "bright"]))
    }
    ids = np.array([f"{i:064d}" for i in range(300)], dtype=object)
    scores = np.stack([1 - yes, yes], axis=1).astype(np.float32)
    table = Predictions(ids, labels, scores, slices)
    write_table(folder / "predictions.tfrecord", {SAVED_MODEL: table}, CLASSES)
    arguments = ["evaluate", str(folder / "predictions.tfrecord"), "--out", str(folder / "out")]
    keys = "light,age x light,class*light,class"
    result = CliRunner().invoke(app, [*arguments, "--tfma", "--slices", keys])
    assert result.exit_code == 0, result.exception
    assert "tfma.load_eval_result('" in result.output
    return folder / "out", table


@pytest.fixture(scope="module")
def opened(written):
    import tensorflow_model_analysis as tfma

    result = tfma.load_eval_result(str(written[0] / "tfma"))
    return {
        tuple((key, value) for key, value in names): {
            name: value["doubleValue"]
            for name, value in figures[""][""].items()
            if "doubleValue" in value
        }
        for names, figures in result.slicing_metrics
    }


def test_metrics_are_those_of_the_json_file(written, opened):
    found = json.loads((written[0] / "evaluation.json").read_text())
    whole = opened[()]
    assert whole["example_count"] == 300
    for name, (value, _, _) in found["metrics"].items():
        assert whole[name] == pytest.approx(value, abs=CLOSE), name
    table = written[1]
    guess = table.scores.argmax(1)
    f1 = oracle.f1_score(table.labels, guess, average="macro")
    assert whole["macro_f1"] == pytest.approx(f1, abs=CLOSE)


def test_slices_and_crosses_are_those_of_the_json_file(written, opened):
    found = json.loads((written[0] / "evaluation.json").read_text())
    assert {one["key"] for one in found["slices"]} == {"light", "age*light", "class*light", "class"}
    for one in found["slices"]:
        names = {
            "image/class/text" if key == "class" else f"slice/{key}": value
            for key, value in zip(one["key"].split("*"), one["value"].split(", "), strict=True)
        }
        figures = next(values for slice_key, values in opened.items() if dict(slice_key) == names)
        assert figures["example_count"] == one["images"]
        for name, (value, _, _) in one["metrics"].items():
            assert figures[name] == pytest.approx(value, abs=CLOSE), (names, name)


def test_the_flag_needs_a_folder(written):
    table = str(written[0].parent / "predictions.tfrecord")
    result = CliRunner().invoke(app, ["evaluate", table, "--tfma"])
    assert result.exit_code == 2
    assert "need --out" in result.output
