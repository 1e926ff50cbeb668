"""An evaluation names its model, data and software, or that they are not known."""

import json
import platform
import shutil
from dataclasses import replace

import pytest

from tfx_pipeline.report.evaluation.lineage import lineage
from tfx_pipeline.report.evaluation.page import render


@pytest.fixture
def bundle(earlier):
    """A bundle of an earlier version, and its manifest."""
    folder = earlier("b54914a") / "bundles" / "tiny" / "1"
    return folder, json.loads((folder / "manifest.json").read_text())


def test_a_bundle_has_the_lineage_of_its_manifest(bundle, make_evaluation):
    folder, manifest = bundle
    found = lineage(str(folder), replace(make_evaluation(), config=manifest["config"]))

    assert found["model"] == str(folder)
    assert found["configuration hash"] == manifest["config_hash"]
    assert found["seed"] == str(manifest["config"]["train"]["seed"])
    assert found["model's commit"] == manifest["git_commit"]
    assert f"tensorflow {manifest['stack']['tensorflow']}" in found["model's stack"]
    assert found["model's data fingerprint"] == manifest["data_fingerprint"]
    assert found["data fingerprint"] == "f" * 64
    assert found["split"] == "test, 300 images"
    assert found["intervals"] == "95 %; bootstrap of 1,000 resamples, seed 0"
    assert f"python {platform.python_version()}" in found["evaluated with"]
    assert "cores" in found["evaluated on"]


def test_a_run_has_its_commit_with_and_without_a_model(tmp_path, make_evaluation):
    summary = {"run": "r7", "git_commit": "0123456789ab", "stack": {"tensorflow": "2.16.2"}}
    latest = tmp_path / "smoke" / "reports" / "latest"
    latest.mkdir(parents=True)
    (latest / "summary.json").write_text(json.dumps(summary))
    for given in (tmp_path / "smoke", f"{tmp_path / 'smoke'}:digits_cnn", latest / "summary.json"):
        found = lineage(str(given), replace(make_evaluation(), config={}))
        assert found["run"] == "r7"
        assert found["model's commit"] == "0123456789ab"
        assert found["model's stack"] == "tensorflow 2.16.2"


def test_what_a_predictions_file_does_not_know_is_said(tmp_path, make_evaluation):
    file = tmp_path / "predictions.tfrecord"
    file.write_bytes(b"")
    found = lineage(str(file), replace(make_evaluation(data=None), config={}))
    for name in ("configuration hash", "seed", "model's commit", "records", "data fingerprint"):
        assert found[name] == "not known"
    assert "run" not in found


def test_records_that_were_deleted_are_no_failure(tmp_path, records, make_evaluation):
    copy = shutil.copytree(records[0], tmp_path / "copy")
    evaluation = make_evaluation(data=copy)
    shutil.rmtree(copy)
    assert lineage("m", replace(evaluation, config={}))["data fingerprint"] == "not known"


def test_the_page_has_the_lineage_and_the_files(make_evaluation):
    evaluation = replace(make_evaluation(), lineage={"model": "<m>"}, written=("classes.csv",))
    page = render(evaluation)
    assert '<th scope="row">model</th><td class="id">&lt;m&gt;</td>' in page
    assert '<a href="classes.csv">classes.csv</a>' in page
    assert "&#34;seed&#34;: 3" in page
