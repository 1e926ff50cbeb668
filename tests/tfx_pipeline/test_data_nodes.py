"""The graph's nodes before training, launched through TFX: about a minute, so `make test-slow`."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.gallery import read_gallery
from tfx_pipeline.config import RunRequest, pipelines
from trainers.data.features import DatasetInfo
from trainers.registry import recipes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BEFORE_TRAINING = (
    *("Records", "PreviousStatistics", "StatisticsGen", "SchemaGen", "StatisticsValidator"),
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
    """200 training and 100 test pictures, `cats` of each hundred of them cats."""

    def some(count, first):
        return [
            record(first + i, int(i % 100 >= cats), "cat" if i % 100 < cats else "dog")
            for i in range(count)
        ]

    train, test = some(200, 0), some(100, 1000)
    return {"train": train, "test": [train[0], *test] if leak else test}


def launch(root, data, run, **images):
    """Node -> state of everything before training; the error that stopped it, if any; outputs."""
    from tfx_pipeline.graph import create_pipeline
    from tfx_pipeline.runners import dag

    shape = dataclasses.replace(pipelines.get("smoke")(), experiments=(), images=images)
    request = RunRequest(run, shape, {"m": recipes.get("digits_cnn")()}, str(data), str(root))
    request.layout.home.mkdir(parents=True, exist_ok=True)
    graph = dag.compile_graph(create_pipeline(request, DatasetInfo.load(data)), run)
    order = [name for name in dag.all_nodes(graph) if name in BEFORE_TRAINING]
    assert order.index("PreviousStatistics") < order.index("StatisticsGen")
    assert set(order) == set(BEFORE_TRAINING)
    assert "Trainer.m" in dag.downstream(graph, ["DataGate"])
    assert "Trainer.m" in dag.downstream(graph, ["StatisticsValidator"])
    states, error = {}, None
    for name in order:
        try:
            states[name] = "cached" if dag.launch(graph, name) else "done"
        except Exception as caught:
            states[name], error = "failed", str(caught)
            break
    return states, error, {(o.node, o.key): o.uri for o in dag.outputs(graph)}


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


def test_drift_from_the_run_before_is_told_to_the_gate(tmp_path, write_dataset):
    from components.significance_gate import anomaly_gate

    gates = []
    for run, cats in enumerate((50, 50, 90)):
        folder = tmp_path / f"data{run}"
        data = write_dataset(
            folder,
            splits(cats),
            classes=("cat", "dog"),
        )
        info = dataclasses.replace(DatasetInfo.load(data), fingerprint=str(run))
        (data / "dataset.json").write_text(info.to_json())
        _, error, outputs = launch(tmp_path, data, str(run))
        assert error is None
        gates.append(anomaly_gate(outputs["StatisticsValidator", "anomalies"]))
    assert [gate.passed for gate in gates] == [True, True, False]
    assert "train image/class/text" in gates[2].detail
