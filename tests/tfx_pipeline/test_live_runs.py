"""Whole runs against a bundle store that changes between them: minutes, so `make test-slow`."""

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from core.bundle import versions
from serving.deploy.rollback import rollback
from tfx_pipeline.cli.views import run as runs
from tfx_pipeline.config import PipelineConfig, make_experiments
from tfx_pipeline.ingest import ingest
from tfx_pipeline.request.run import RunRequest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Trains in seconds; the tested gates compare with the live model.
QUICK = ("train.epochs=3", "train.global_batch=64", "optim.warmup_steps=0")
# A second model, and surely a better one.
BETTER = "train.epochs=8"
SHAPE = PipelineConfig(
    name="quick",
    experiments=("digits_cnn",),
    gates={"max_latency_ms": 1e6, "min_agreement": 0.0, "max_drop": 0.9},
    benchmark_runs=5,
    serving_requests=2,
)


def request(root, data, *overrides, **about):
    experiments = make_experiments(SHAPE, data, (*QUICK, *overrides))
    number = len([*root.glob("runs/quick/logs/*")]) + 1
    return RunRequest(f"r{number}", SHAPE, experiments, str(data), str(root), **about)


def run(root, data, *overrides, **about):
    """Exit status, output, and summary."""
    console = Console(file=StringIO(), width=250)
    status = runs.run(request(root, data, *overrides, **about), console)
    summary = json.loads((root / "runs/quick/reports/latest/summary.json").read_text())
    return status, console.file.getvalue(), summary


def gate(summary, name):
    (found,) = [g for g in summary["models"][0]["gates"] if g["name"] == name]
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with version 1, pushed by a run on good data."""
    root = tmp_path_factory.mktemp("root")
    ingest("digits", root / "data")
    status, printed, summary = run(root, root / "data")
    assert status == 0, printed
    assert summary["models"][0]["pushed"]["version"] == 1
    assert not [g for g in summary["models"][0]["gates"] if g["name"].startswith("change/")]
    kept = root / "bundles/digits_cnn/.lineage/1"
    assert {path.name for path in kept.iterdir()} == {
        *("lineage.json", "statistics.pb", "predictions.tfrecord"),
    }
    return root


@pytest.fixture
def copy(root, tmp_path):
    """A separate root for one test, with the output of the first run."""
    shutil.copytree(root / "bundles", tmp_path / "bundles")
    return tmp_path


def test_an_unchanged_run_does_nothing_and_a_changed_store_runs_it_again(root, copy):
    status, printed, _ = run(root, root / "data")
    assert status == 0
    assert "nothing changed since run r1" in printed
    assert versions(root / "bundles/digits_cnn") == [1]

    status, printed, summary = run(copy, root / "data", BETTER)
    assert status == 0, printed
    assert summary["models"][0]["pushed"]["version"] == 2
    assert gate(summary, "change/live")["value"] == 1
    assert "predictions of its push" in gate(summary, "change/live")["detail"]
    assert "nothing changed" in run(copy, root / "data", BETTER)[1]

    rollback(copy / "bundles/digits_cnn")
    status, printed, summary = run(copy, root / "data", BETTER)
    assert "nothing changed" not in printed
    # The same model, which was rolled back and is compared with version 1.
    assert status == 3
    assert gate(summary, "change/live")["value"] == 1
    assert summary["models"][0]["pushed"]["withdrawn"]
    states = {node["name"]: node["state"] for node in summary["components"]}
    assert states["Trainer.digits_cnn"] == "cached"
    assert states["LiveModel.digits_cnn"] in ("cached", "done")
    assert "nothing changed" in run(copy, root / "data", BETTER)[1]

    shutil.rmtree(copy / "bundles/digits_cnn/.withdrawn-2")
    status, printed, _ = run(copy, root / "data", BETTER)
    assert status == 0, printed
    assert versions(copy / "bundles/digits_cnn") == [1, 2]


def test_a_bundle_without_lineage_predicts_again_and_drift_is_reported_as_unchecked(root, copy):
    shutil.rmtree(copy / "bundles/digits_cnn/.lineage")
    status, printed, summary = run(copy, root / "data", BETTER)
    assert status == 0, printed
    detail = gate(summary, "change/live")["detail"]
    assert "live version 1 (predicted again: no lineage was kept" in detail
    assert "not checked  drift is not checked against digits_cnn 1" in printed
    # Later runs are compared with the new version.
    assert Path(copy / "bundles/digits_cnn/.lineage/2/statistics.pb").is_file()
