"""What a run's summary makes of its pushes, from `pushed.json` files alone."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from components.live import find_live, write_live
from core import bundle as bundles
from core.lineage import store_state
from tfx_pipeline.report import summary as summaries
from tfx_pipeline.report.summary import build_summary
from trainers.data.features import DatasetInfo
from trainers.evaluation.predictions import Predictions, write_table

WITHDRAWN = {"path": "b/.withdrawn-2", "version": 2, "pushed": False, "withdrawn": True}


@pytest.fixture
def summarized(request_, tmp_path):
    """The summary of a run whose pushes left these records, one an experiment."""

    def build(*records, looked=(), error=""):
        outputs = [*looked]
        for name, record in zip(request_.experiments, records, strict=True):
            folder = tmp_path / "artifacts" / name
            folder.mkdir(parents=True)
            (folder / "pushed.json").write_text(json.dumps(record))
            place = {"node": f"BundlePusher.{name}", "key": "pushed_model", "uri": str(folder)}
            outputs.append(SimpleNamespace(**place, id=1, type="PushedModel"))
        info = DatasetInfo.load(tmp_path / "data")
        return build_summary(request_, info, [], outputs, state={}, seconds=1.0, error=error)

    return build


def test_a_run_whose_models_a_rollback_withdrew_was_no_push(summarized):
    found = summarized(WITHDRAWN, WITHDRAWN, WITHDRAWN)
    assert found["status"] == "withdrawn"
    assert found["recommendation"] == "none: every model that passed its gates was withdrawn"
    assert [model["pushed"] for model in found["models"]] == [WITHDRAWN] * 3


def test_a_refused_model_counts_more_than_a_withdrawn_one(summarized):
    assert summarized(WITHDRAWN, None, WITHDRAWN)["status"] == "refused"


def test_a_run_without_any_push_is_refused(summarized):
    found = summarized(None, None, None)
    assert found["status"] == "refused"
    assert found["recommendation"] == "none: no model passed its gates"


@pytest.fixture
def look(request_, tmp_path):
    """`look()`: the LiveModel artifacts of every model of the store as it is."""

    def at_the_store():
        found = []
        for name in request_.experiments:
            folder = tmp_path / "live" / name
            model = request_.layout.bundles / name
            write_live(find_live(model, ("a", "b")), model, folder)
            node = {"node": f"LiveModel.{name}", "key": "live", "uri": str(folder)}
            found.append(SimpleNamespace(**node, id=2, type="SightlineLiveModel"))
        return found

    return at_the_store


def test_a_result_stands_for_the_store_that_it_pushed_to(
    request_, summarized, look, write_bundle, tmp_path
):
    first, *others = request_.experiments
    model = request_.layout.bundles / first
    bundles.push(write_bundle(tmp_path / "before", "before"), model)
    looked = look()
    bundles.push(write_bundle(tmp_path / "own", "own"), model)
    own = {"path": "b/2", "version": 2, "pushed": True, "withdrawn": False}
    found = summarized(own, None, None, looked=looked, error="stopped after the push")
    assert found["live"] == {first: store_state(model), **{name: {} for name in others}}


def test_a_result_does_not_stand_for_a_store_that_others_changed_meanwhile(
    request_, summarized, look, write_bundle, tmp_path
):
    first, *others = request_.experiments
    looked = look()
    bundles.push(write_bundle(tmp_path / "theirs", "theirs"), request_.layout.bundles / first)
    found = summarized(None, None, None, looked=looked)
    assert found["live"] == {first: None, **{name: {} for name in others}}


def test_a_run_that_never_looked_at_the_store_does_not_stand_for_it(request_, summarized):
    found = summarized(None, None, None)
    assert found["live"] == dict.fromkeys(request_.experiments)


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (["not decided"], "undecided"),
        (["not decided", "not decided"], "undecided"),
        (["not decided", "failed"], "refused"),
        (["not decided", None], "refused"),
    ],
)
def test_a_run_is_undecided_when_nothing_else_stopped_its_models(verdicts, status):
    stopped = [{"pushed": None, "verdict": verdict} for verdict in verdicts]
    assert summaries._status([*stopped, {"pushed": {"version": 1}}]) == status


def test_a_gate_that_stopped_a_model_is_named_with_the_images_it_needs():
    gate = {"name": "change/top1", "value": 0.0, "threshold": "no drop", "images_needed": 1155}
    assert summaries._reason(gate | {"verdict": "failed"}) == "change/top1 0, required no drop"
    undecided = summaries._reason(gate | {"verdict": "not decided"})
    assert undecided.endswith("not decided by these images (about 1,155 images would)")


def test_the_recommended_model_is_chosen_on_validation_and_reported_on_test(request_, tmp_path):
    """The test split would choose the other one."""
    labels = (np.arange(300) % 10).astype(np.int32)
    ids = np.array([f"{i:064x}" for i in range(300)], dtype=object)

    def table(path, wrong):
        guess = np.where(np.arange(300) < wrong, (labels + 1) % 10, labels)
        scores = np.full((300, 10), 0.05, np.float32)
        scores[np.arange(300), guess] = 0.55
        write_table(path, {"none_fp32": Predictions(ids, labels, scores, {})}, tuple("0123456789"))
        return str(path)

    def model(name, wrong_on_validation, wrong_on_test):
        top1 = 1 - wrong_on_test / 300
        figures = {"name": "none_fp32", "latency_ms_p50": 1.0, "recommended": True}
        return {
            "name": name,
            "pushed": {"version": 1},
            "recommended_variant": "none_fp32",
            "validation_predictions": table(tmp_path / f"{name}-v", wrong_on_validation),
            "predictions": table(tmp_path / f"{name}-t", wrong_on_test),
            "variants": [{**figures, "metrics": {"top1": [top1, top1 - 0.01, top1 + 0.01]}}],
        }

    summary = {"models": [model("good", 3, 60), model("lucky", 60, 3)]}
    summaries._recommend(summary, request_)
    assert [one["recommended"] for one in summary["models"]] == [True, False]
    assert "99.0% of 300 validation images" in summary["recommendation"]
    assert "provably less accurate: lucky" in summary["recommendation"]
    assert "fitted on these images" not in summary["recommendation"]
    assert "test top-1 80.0 % (95 % interval 79.0 to 81.0 %)" in summary["recommendation"]

    summary["models"][0]["saw_validation"] = True
    summaries._recommend(summary, request_)
    sentence = "the last layer of good was fitted on these images as well; test top-1"
    assert sentence in summary["recommendation"]

    # Without a validation split the test split is used, and named.
    for one in summary["models"]:
        one["validation_predictions"] = ""
    summaries._recommend(summary, request_)
    assert "99.0% of 300 test images" in summary["recommendation"]
    assert "fitted on these images" not in summary["recommendation"]
