"""The table of `sightline evaluate` without a folder."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score
from typer.testing import CliRunner

from core.bundle import SAVED_MODEL, open_bundle
from tfx_pipeline.cli import app
from tfx_pipeline.cli.shared import console
from trainers.evaluation.predictions import Predictions, write_table

CLASSES = ("cat", "dog", "eel")


def predictions(seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, 150).astype(np.int32)
    scores = random.dirichlet(np.ones(3), 150).astype(np.float32)
    ids = np.array([f"{i:064d}" for i in range(150)], object)
    return Predictions(ids, labels, scores, {})


@pytest.fixture
def run(tmp_path):
    """A run whose model has two variants, of which the int8 file is recommended."""
    table = tmp_path / "predictions.tfrecord"
    write_table(table, {SAVED_MODEL: predictions(0), "ptq_int8": predictions(1)}, CLASSES)
    model = {"name": "cnn", "predictions": str(table), "recommended_variant": "ptq_int8"}
    summary = {"models": [model], "data": {"classes": CLASSES}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def evaluate(*arguments):
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("options", "heading", "seed"),
    [
        ((), "cnn saved_model (recommended: ptq_int8)", 0),
        (("--variant", "ptq_int8"), "cnn ptq_int8 (recommended)", 1),
    ],
)
def test_the_heading_names_the_variant_and_the_recommended_one(run, options, heading, seed):
    first, *rows = evaluate(run, *options).splitlines()
    assert " ".join(first.split()) == f"metric {heading}"
    found = predictions(seed)
    top1 = accuracy_score(found.labels, found.scores.argmax(1))
    assert rows[0].startswith("top-1 ")
    assert f" {top1:.4f} [" in rows[0]


def test_rows_have_titles_and_none_that_repeats_another(run):
    _, *rows = evaluate(run).splitlines()
    text = "\n".join(rows)
    assert "macro F1" in text
    assert "micro" not in text
    assert "_" not in text
    assert "top-5" not in text, "there are three classes"


def test_a_file_is_named_by_its_end(run):
    first = evaluate(f"{run}/predictions.tfrecord:ptq_int8").splitlines()[0]
    assert str(run.parent) not in first
    assert f"{run.name}/predictions.tfrecord:ptq_int8" in first.replace(" ", "")


def test_a_bundle_marks_its_recommended_variant(earlier, monkeypatch):
    monkeypatch.setattr(console, "_width", 300)
    old = earlier("b54914a")
    bundle = old / "bundles/tiny/1"
    best = open_bundle(bundle).manifest.recommended
    table = evaluate(bundle, "--data", old / "data")
    assert table.count("(recommended)") == 1
    assert f"{best} (recommended)" in table.splitlines()[0]
    assert "top-1" in table
    assert "micro" not in table
