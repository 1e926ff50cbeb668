"""A whole study on scanned digits with real child processes."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score
from typer.testing import CliRunner

from tests.tfx_pipeline.study.test_report import check_complete
from tfx_pipeline.cli import app
from tfx_pipeline.study import cost, run
from tfx_pipeline.study.results import Results

PLAN = {
    **{"cnn": 4, "resnet": 1, "vit": 1, "distilled": 1},
    # Pruning and quantization-aware training are one step; one of them is enough.
    **{"prune90": 1, "qat": 0, "prune80": 0, "prune50": 0},
}


@pytest.mark.slow
def test_a_study_from_images_to_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A budget decides by the speed of the machine, so the plan is fixed here.
    monkeypatch.setattr(run, "planned", lambda *_, **__: dict(PLAN))
    monkeypatch.setattr(cost, "AT_STUDY_SIZE", ("vit_b16",))
    monkeypatch.setattr(run, "_TIMING", {"rounds": 2, "calls": 5, "study_calls": 1})
    arguments = ["study", "--data", "digits", "--budget", "1d", "--seeds", "2", "--out", "out"]
    found = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert "wrote out/report/index.html" in found.output

    results = Results(tmp_path / "out")
    check_complete(results)
    for role in ("cnn", "resnet", "vit"):
        assert [one.epochs for one in results.runs[role]] == [PLAN[role]] * 2
    assert len(results.runs["distilled"]) == 1
    # The study's predictions are those of the trained folder, on every test image once.
    cnn = results.runs["cnn"][0]
    assert len(set(cnn.test.ids)) == len(cnn.test.ids) == results.state["examples"]["test"]
    assert accuracy_score(cnn.test.labels, cnn.test.predicted) > 0.5
    float_file = results.variants("cnn")["none_fp32"]
    np.testing.assert_allclose(float_file.scores, cnn.test.scores, atol=1e-3)
    assert np.mean(results.variants("prune90")["prune_fp32"].scores.sum(axis=1)) == pytest.approx(
        1, abs=1e-3
    )
    assert set(results.left_out) == {"qat", "prune80", "prune50"}
    whole = json.loads((tmp_path / "out" / "report" / "study.json").read_text())
    rows = [row for table in whole["tables"] for row in table["rows"]]
    assert not [row for row in rows if row["verdict"]["word"] == "reproduced" and row["seeds"]]

    # The same command again trains nothing.
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert [line.split()[1] for line in again.output.splitlines() if "  done" in line] == ["report"]
