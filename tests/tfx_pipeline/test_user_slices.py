"""Slices that ingest recorded, from a table of faces to TFMA's results and the gates."""

import csv
import hashlib
import json
from collections import defaultdict

import numpy as np
import pytest

from tfx_pipeline.config import PipelineConfig, make_experiments
from tfx_pipeline.ingest import ingest
from tfx_pipeline.request.run import RunRequest
from trainers.data.features import DatasetInfo

# Dependencies of TFX and Beam emit deprecation warnings.
pytestmark = [pytest.mark.shared_data, pytest.mark.filterwarnings("ignore")]
_COLUMNS = ("race", "age", "service_test")


@pytest.fixture
def faces(extract, tmp_path):
    """Records of 500 faces, labeled by gender, with three columns of the table as slices."""
    options = {"label": "gender", "slices": ",".join(_COLUMNS)}
    ingest("csv", tmp_path / "faces", where=extract("fairface_A") / "labels.csv", options=options)
    return tmp_path / "faces"


def test_tfma_counts_every_slice_that_the_table_has(faces, extract, tmp_path):
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_model_analysis as tfma
    from apache_beam.options.pipeline_options import PipelineOptions

    from components.evaluation.eval_config import EvalSettings, make_eval_config
    from components.evaluation.evaluator import analyze
    from components.gates import GateSettings
    from components.gates.decide import _slice_gates, slice_rows
    from tfx_pipeline.graph import create_pipeline
    from trainers.data.pipeline import eval_batches
    from trainers.evaluation.predictions import Predictions, read_table, write_table

    info = DatasetInfo.load(faces)
    shape = PipelineConfig("faces", ("digits_cnn",))
    request = RunRequest("r", shape, make_experiments(shape, faces), str(faces), str(tmp_path))
    nodes = {node.id: node for node in create_pipeline(request, info).components}
    settings = json.loads(nodes["Evaluator.digits_cnn"].exec_properties["settings"])
    wanted = {"slice/race", "slice/age", "slice/service_test", "slice/brightness"}
    assert wanted <= set(settings["slices"])

    # The records with random predictions, whose accuracy differs between slices.
    (config,) = request.experiments.values()
    rows = [
        (
            identity.decode(),
            int(label),
            {key: values[at].decode() for key, values in slices.items()},
        )
        for batch in eval_batches(config, info, "test", batch=64)
        for slices in [{key: value.numpy() for key, value in batch.slices.items()}]
        for at, (identity, label, real) in enumerate(
            zip(batch.ids.numpy(), batch.labels.numpy(), batch.mask.numpy(), strict=True)
        )
        if real
    ]
    coin = np.random.default_rng(0).random(len(rows)) < 0.7
    labels = np.array([label for _, label, _ in rows], np.int32)
    scores = np.full((len(rows), 2), 0.25, np.float32)
    scores[np.arange(len(rows)), np.where(coin, labels, 1 - labels)] = 0.75
    ids = np.array([identity for identity, _, _ in rows], object)
    keys = {key: np.array([row[2][key] for row in rows], object) for key in info.slices}
    table = tmp_path / "table"
    answers = dict.fromkeys(("none_fp32", "ptq_int8"), Predictions(ids, labels, scores, keys))
    write_table(table, answers, info.classes)
    eval_config = make_eval_config(list(answers), EvalSettings(**settings), 2)
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        analyze(pipeline, table, str(tmp_path / "evaluation"), eval_config)

    # The oracle: the table's own text and the bytes of the files, no code of ours.
    folder = extract("fairface_A")
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    by_digest = {
        hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest(): row for row in lines
    }
    right = defaultdict(list)
    for serialized in tf.data.TFRecordDataset(str(table)).as_numpy_iterator():
        feature = tf.train.Example.FromString(serialized).features.feature
        row = by_digest[ids[len(right["all"])]]
        answer = int(np.argmax(feature["scores/none_fp32"].float_list.value))
        correct = sorted({one["gender"] for one in lines})[answer] == row["gender"]
        right["all"].append(correct)
        for column in _COLUMNS:
            right[f"slice/{column}", row[column]].append(correct)

    result = tfma.load_eval_result(str(tmp_path / "evaluation"), model_name="none_fp32")
    found = {
        features[0]: metrics
        for features, metrics in result.get_metrics_for_all_slices().items()
        if features and features[0][0].removeprefix("slice/") in _COLUMNS
    }
    assert set(found) == set(right) - {"all"}
    assert len({value for key, value in found if key == "slice/race"}) == 7
    for key, values in found.items():
        assert values["example_count"]["doubleValue"] == len(right[key])
        assert values["top1"]["doubleValue"] == pytest.approx(np.mean(right[key]), abs=1e-6)

    # The gates judge the same slices, by name.
    judged = {
        (row["key"], row["value"]): row
        for row in slice_rows(read_table(table)["none_fp32"], info.classes)
    }
    for key, values in right.items():
        if key != "all":
            assert judged[key]["examples"] == len(values)
            assert judged[key]["top1"][0] == pytest.approx(np.mean(values))
    few = max(len(values) for key, values in right.items() if key[0] == "slice/race")
    (gate,) = _slice_gates(
        [row for row in judged.values() if row["key"] == "slice/race"],
        GateSettings(min_slice_top1=0.99, min_slice_examples=few),
        "none_fp32",
    )
    assert gate.to_dict()["verdict"] == "failed"
    assert gate.slice.startswith("slice/race=")
    assert f"{few} or more" in gate.detail
