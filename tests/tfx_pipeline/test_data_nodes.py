"""The graph's nodes before training, launched through TFX: about a minute, so `make test-slow`."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from PIL import Image

from components.data_validation.gallery import read_gallery
from components.data_validation.statistics_checks import statistics_options
from core import bundle as bundles
from core.lineage import Lineage, write_lineage
from serving.deploy.rollback import rollback
from tfx_pipeline.config import pipelines
from tfx_pipeline.request.run import RunRequest
from trainers.data.features import DatasetInfo
from trainers.registry import recipes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BEFORE_TRAINING = (
    *("LiveModel.m", "Records", "StatisticsGen", "SchemaGen", "StatisticsValidator"),
    *("ImageValidator", "DataGate"),
)


def record(seed, label, name):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {
        "image/encoded": buffer.getvalue(),
        "image/format": "PNG",
        "image/height": 24,
        "image/width": 32,
        "image/class/label": label,
        "image/class/text": name,
    }


def splits(cats, *, leak=False):
    """200 training and 100 test images, `cats` of each hundred of them cats."""

    def some(count, first):
        return [
            record(first + i, int(i % 100 >= cats), "cat" if i % 100 < cats else "dog")
            for i in range(count)
        ]

    train, test = some(200, 0), some(100, 1000)
    return {"train": train, "test": [train[0], *test] if leak else test}


def launch(root, data, run, *, until="", **images):
    """Node -> state of everything before training; the error that stopped it, if any; outputs.

    With `until`, the process kills itself after that node.
    """
    from tfx_pipeline.graph import create_pipeline
    from tfx_pipeline.runners import dag

    shape = dataclasses.replace(pipelines.get("smoke")(), experiments=(), images=images)
    request = RunRequest(run, shape, {"m": recipes.get("digits_cnn")()}, str(data), str(root))
    request.layout.home.mkdir(parents=True, exist_ok=True)
    graph = dag.compile_graph(create_pipeline(request, DatasetInfo.load(data)), run)
    order = [name for name in dag.all_nodes(graph) if name in BEFORE_TRAINING]
    assert order.index("LiveModel.m") < order.index("StatisticsValidator")
    assert not [name for name in dag.all_nodes(graph) if "Resolver" in name]
    assert set(order) == set(BEFORE_TRAINING)
    assert "Trainer.m" in dag.downstream(graph, ["DataGate"])
    assert "Trainer.m" in dag.downstream(graph, ["StatisticsValidator"])
    states, error = {}, None
    for name in order:
        try:
            states[name] = "cached" if dag.launch(graph, name) else "done"
            if name == until:
                os.kill(os.getpid(), signal.SIGKILL)
        except Exception as caught:
            states[name], error = "failed", str(caught)
            break
    return states, error, {(o.node, o.key): o.uri for o in dag.outputs(graph)}


def die_after_statistics(root, data):
    """Starts a run in a child process, which dies after StatisticsGen."""
    launch(Path(root), Path(data), "1", until="StatisticsGen")


def test_leakage_stops_a_run_and_what_was_found_stays(tmp_path, write_dataset):
    data = write_dataset(tmp_path / "data", splits(50, leak=True), classes=("cat", "dog"))
    states, error, outputs = launch(tmp_path, data, "1")
    assert states["DataGate"] == "failed"
    assert "leakage" in error
    folder = outputs["ImageValidator", "image_report"]
    assert folder in error
    assert read_gallery(Path(folder)).counts == {"leakage": 1}

    states, error, _ = launch(tmp_path, data, "2")
    assert states["ImageValidator"] == "cached"
    assert states["DataGate"] == "failed"

    states, error, _ = launch(tmp_path, data, "3", limits={"leakage": 1})
    assert error is None
    assert states["DataGate"] == "done"


def numbered(data, number):
    """The data set with a different fingerprint."""
    info = dataclasses.replace(DatasetInfo.load(data), fingerprint=str(number))
    (data / "dataset.json").write_text(info.to_json())
    return data


@pytest.fixture
def pushed(tmp_path, write_dataset, write_bundle):
    """`pushed(cats)`: pushes a model trained with `cats` cats among a hundred images."""

    def push(cats, *, keep=True):
        number = len(list(tmp_path.glob("before*")))
        records = splits(cats)
        data = write_dataset(tmp_path / f"before{number}", records, classes=("cat", "dog"))
        keys = ("class/text", "class/label", "format", "height", "width")
        frame = {f"image/{key}": [r[f"image/{key}"] for r in records["train"]] for key in keys}
        statistics = tfdv.generate_statistics_from_dataframe(
            pd.DataFrame(frame), stats_options=statistics_options()
        )
        draft = write_bundle(data / "draft", str(number))
        (draft / "assets/labels.txt").write_text("cat\ndog\n")
        bundles.seal(draft, bundles.open_bundle(draft).manifest)
        kept = data / "kept"
        kept.mkdir()
        (kept / "statistics.pb").write_bytes(statistics.SerializeToString())
        digest = bundles.content_digest(draft)
        metrics = {"top1": 0.9}
        write_lineage(kept, Lineage(digest, "none_fp32", ("cat", "dog"), 0, metrics, "f", 100))
        bundles.push(draft, tmp_path / "bundles" / "digits_cnn", lineage=kept if keep else None)

    return push


def gate_of(outputs):
    from components.gates.significance_gate import anomaly_gate

    return anomaly_gate(outputs["StatisticsValidator", "anomalies"])


def test_bad_data_is_refused_at_every_start_and_after_a_kill(tmp_path, write_dataset, pushed):
    """The comparison is with the live model, regardless of earlier runs with the same bad data."""
    good = numbered(write_dataset(tmp_path / "good", splits(50), classes=("cat", "dog")), 0)
    bad = numbered(write_dataset(tmp_path / "bad", splits(90), classes=("cat", "dog")), 1)
    pushed(50)

    # A process that dies right after StatisticsGen, whose statistics are then in the cache.
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['die_after_statistics'](*sys.argv[2:])"
    arguments = [sys.executable, "-c", code, __file__, str(tmp_path), str(bad)]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    for run in ("2", "3"):
        states, error, outputs = launch(tmp_path, bad, run)
        assert error is None
        assert states["StatisticsGen"] == "cached"
        assert not gate_of(outputs).passed
        assert "digits_cnn 1" in gate_of(outputs).detail
    _, _, outputs = launch(tmp_path, good, "4")
    assert gate_of(outputs).passed
    states, _, outputs = launch(tmp_path, bad, "5")
    assert states["StatisticsValidator"] == "cached"
    assert not gate_of(outputs).passed


def test_what_is_compared_with_follows_pushes_and_rollbacks(tmp_path, write_dataset, pushed):
    data = numbered(write_dataset(tmp_path / "data", splits(90), classes=("cat", "dog")), 0)
    model = tmp_path / "bundles" / "digits_cnn"

    def verdict(run):
        states, error, outputs = launch(tmp_path, data, run)
        assert error is None
        rows = json.loads(
            (Path(outputs["StatisticsValidator", "anomalies"]) / "compared.json").read_text()
        )
        return states["LiveModel.m"], gate_of(outputs).passed, rows[0]

    first = {"model": "digits_cnn", "version": None, "compared": False}
    assert verdict("1") == ("done", True, {**first, "reason": "no version is live"})
    pushed(50)
    one = {"model": "digits_cnn", "version": 1, "compared": True, "reason": ""}
    assert verdict("2") == ("done", False, one)
    assert verdict("3") == ("cached", False, one)
    pushed(90)
    assert verdict("4") == ("done", True, {**one, "version": 2})
    rollback(model)
    assert verdict("5") == ("done", False, one)
    rollback(model, 2)
    assert verdict("6") == ("cached", True, {**one, "version": 2})
    pushed(90, keep=False)
    state, passed, row = verdict("7")
    assert (state, passed, row["version"], row["compared"]) == ("done", True, 3, False)
    assert "no lineage was kept at its push" in row["reason"]
