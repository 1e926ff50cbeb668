"""What a run's summary makes of its pushes, from `pushed.json` files alone."""

import json
from types import SimpleNamespace

import pytest

from tfx_pipeline.summary import build_summary
from trainers.data.features import DatasetInfo

WITHDRAWN = {"path": "b/.withdrawn-2", "version": 2, "pushed": False, "withdrawn": True}


@pytest.fixture
def summarised(request_, tmp_path):
    """The summary of a run whose pushes left these records, one an experiment."""

    def build(*records):
        outputs = []
        for name, record in zip(request_.experiments, records, strict=True):
            folder = tmp_path / "artifacts" / name
            folder.mkdir(parents=True)
            (folder / "pushed.json").write_text(json.dumps(record))
            place = {"node": f"BundlePusher.{name}", "key": "pushed_model", "uri": str(folder)}
            outputs.append(SimpleNamespace(**place, id=1, type="PushedModel"))
        info = DatasetInfo.load(tmp_path / "data")
        return build_summary(request_, info, [], outputs, state={}, seconds=1.0)

    return build


def test_a_run_whose_models_a_rollback_withdrew_was_no_push(summarised):
    found = summarised(WITHDRAWN, WITHDRAWN, WITHDRAWN)
    assert found["status"] == "withdrawn"
    assert found["recommendation"] == "none: every model that passed its gates was withdrawn"
    assert [model["pushed"] for model in found["models"]] == [WITHDRAWN] * 3


def test_a_refused_model_counts_more_than_a_withdrawn_one(summarised):
    assert summarised(WITHDRAWN, None, WITHDRAWN)["status"] == "refused"


def test_a_run_without_any_push_is_refused(summarised):
    found = summarised(None, None, None)
    assert found["status"] == "refused"
    assert found["recommendation"] == "none: no model passed its gates"
