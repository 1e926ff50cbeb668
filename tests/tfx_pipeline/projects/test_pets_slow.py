"""180 photos of cats and dogs with the suggested settings, through TFX. Minutes, so slow."""

import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from components import files
from core.bundle import open_bundle
from tfx_pipeline.cli.views import run as runs
from tfx_pipeline.config import CompressionPlan, PipelineConfig, make_experiments
from tfx_pipeline.ingest import ingest
from tfx_pipeline.projects.suggest import suggest
from tfx_pipeline.request.run import RunRequest
from tfx_pipeline.request.settings import with_settings
from trainers.data.features import DatasetInfo
from trainers.evaluation.predictions import read_table

pytestmark = [pytest.mark.slow, pytest.mark.shared_data, pytest.mark.timeout(1500)]


def test_photos_become_a_model_that_knows_cats_from_dogs(extract, tmp_path):
    data = tmp_path / "data"
    ingest("folder", data, where=extract("cats_dogs_A"))
    found = suggest(data, DatasetInfo.load(data))
    pipeline = PipelineConfig(
        name="pets",
        experiments=(found.recipe,),
        slices=(),
        gates=dict(found.gates),
        best=CompressionPlan(ptq=("int8",)),
        benchmark_runs=50,
    )
    chosen, _ = with_settings(pipeline, ())
    overrides = tuple(f"{key}={value}" for key, value in found.overrides.items())
    request = RunRequest(
        run="first",
        pipeline=chosen,
        experiments=make_experiments(chosen, data, overrides),
        data=str(data),
        root=str(tmp_path),
    )
    console = Console(file=StringIO(), width=200)
    status = runs.run(request, console)
    printed = " ".join(console.file.getvalue().split())
    summary = json.loads((tmp_path / "runs/pets/reports/latest/summary.json").read_text())
    (model,) = summary["models"]
    assert status == runs.PUSHED, (printed, model["gates"])

    (gate,) = [gate for gate in model["gates"] if gate["name"] == "value/linear_probe"]
    assert gate["verdict"] == "held"
    assert "against the linear probe" in gate["detail"]
    table = read_table(files.predictions_file(str(_predictor(summary))))
    for column in ("saved_model", "none_fp32", "ptq_int8"):
        right = table[column].scores.argmax(axis=1) == table[column].labels
        assert right.sum() >= 48, column
    # The probe is the model, and all descriptions of the model show it.
    np.testing.assert_allclose(table["probe"].scores, table["saved_model"].scores, atol=1e-3)
    words = "the frozen backbone with the linear probe as its last layer is the model"
    assert words in printed
    bundle = open_bundle(tmp_path / "bundles" / model["config"]["name"] / "1")
    assert words in bundle.manifest.linear_probe["why"]
    assert words in (bundle.path / "card.html").read_text()


def _predictor(summary):
    (found,) = [o for o in summary["lineage"] if o["producer"].startswith("Predictor.")]
    return found["uri"]
