import json

import numpy as np

from core.bundle import SAVED_MODEL
from tfx_pipeline.cli.views.subjects import load
from trainers.evaluation.predictions import Predictions, write_table


def test_the_bundle_of_a_run_is_where_tfx_writes_models(tmp_path):
    scores = np.full((3, 2), 0.5, np.float32)
    ids = np.array(["a", "b", "c"], object)
    table = tmp_path / "predictions.tfrecord"
    found = Predictions(ids, np.array([0, 1, 0], np.int32), scores, {})
    write_table(table, {SAVED_MODEL: found}, ("cat", "dog"))
    bundle = tmp_path / "Compressor.pets" / "bundle" / "16"
    (bundle / "Format-Serving").mkdir(parents=True)
    summary = {
        "data": {"classes": ["cat", "dog"]},
        "models": [{"name": "pets", "predictions": str(table)}],
        "lineage": [{"producer": "Compressor.pets.bundle", "uri": str(bundle)}],
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))

    (subject,) = load(str(tmp_path), data=None, split="test", variant="")
    assert subject.model == bundle / "Format-Serving"

    (bundle / "Format-Serving").rmdir()
    (subject,) = load(str(tmp_path), data=None, split="test", variant="")
    assert subject.model is None
