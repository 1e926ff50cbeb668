"""Every notebook on a run with TFMA's results: what its cells hold, and its HTML in a browser."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from typer.testing import CliRunner

from tfx_pipeline.cli import app
from tfx_pipeline.notebooks.execute import run_headless

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]
#: Without the proxies of the environment.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
CLASSES = ("cat", "dog", "owl")
#: Notebook -> expressions whose values the tests read.
SHOWN = {
    "compare_models": ["metrics.to_dict('records')", "differences.to_dict('records')"],
    "compression_pareto": ["variants.to_dict('records')"],
    "data_quality": ["class_shares.to_dict('records')", "anomalies['kind'].tolist()"],
    "errors": ["wrong['id'].tolist()", "int(confusions['images'].sum())"],
    "slices_and_fairness": ["tfma_slices.to_dict('records')", "slice_table.to_dict('records')"],
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, finished_run):
    """The run with TFMA's results of both models."""
    import tensorflow_model_analysis as tfma
    from apache_beam.options.pipeline_options import PipelineOptions

    from components.evaluation.eval_config import EvalSettings, make_eval_config

    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("evaluated") / "pets")
    summary = json.loads((folder / "reports/latest/summary.json").read_text())
    for model in summary["models"][:2]:
        variants = [one["name"] for one in model["variants"]]
        settings = EvalSettings(slices=("slice/brightness", "slice/race"))
        tfma.run_model_analysis(
            eval_config=make_eval_config(variants, settings, len(CLASSES)),
            data_location=model["predictions"],
            output_path=str(folder / model["evaluation"]),
            pipeline_options=PipelineOptions(["--runner=FnApiRunner"]),
        )
    return folder


@pytest.fixture(scope="module")
def executed(tmp_path_factory, evaluated):
    """Name -> the executed notebook's file and the values of `SHOWN`."""
    import nbformat

    folder, found = tmp_path_factory.mktemp("notebooks"), {}

    def run(name):
        if name not in found:
            path = folder / f"{name}.ipynb"
            arguments = ["notebook", name, str(evaluated), "--out", str(path), "--execute"]
            ran = CliRunner().invoke(app, arguments)
            assert ran.exit_code == 0, ran.exception
            probe = nbformat.read(path, as_version=4)
            values = ", ".join(SHOWN[name])
            probe.cells.append(
                nbformat.v4.new_code_cell(f"import json\nprint(json.dumps([{values}]))")
            )
            copy = folder / f"{name}-probe.ipynb"
            nbformat.write(probe, copy)
            run_headless(copy)
            last = json.loads(copy.read_text(encoding="utf-8"))["cells"][-1]["outputs"][-1]
            found[name] = path, json.loads("".join(last["text"]))
        return found[name]

    return run


# Beam and TFMA issue deprecation warnings.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SHOWN)
def test_every_cell_runs_without_errors_and_warnings(executed, name):
    path, _ = executed(name)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [one for cell in cells for one in cell.get("outputs", ())]
    assert len(outputs) >= 5
    assert [one for one in outputs if one["output_type"] == "error"] == []
    assert [one["text"] for one in outputs if one.get("name") == "stderr"] == []


@pytest.mark.filterwarnings("ignore")
def test_figures_equal_the_summary(executed, evaluated):
    summary = json.loads((evaluated / "reports/latest/summary.json").read_text())
    metrics, differences = executed("compare_models")[1]
    (variants,) = executed("compression_pareto")[1]
    seen = {(one["model"], one["variant"], one["metric"]): one for one in metrics}
    optimal = {(one["model"], one["variant"]): one for one in variants}
    for model in summary["models"][:2]:
        for variant in model["variants"]:
            key = model["name"], variant["name"]
            for metric in model["metric_facts"]:
                one = seen[(*key, metric)]
                assert [one["value"], one["low"], one["high"]] == variant["metrics"][metric]
            one = optimal[key]
            assert [one["top1"], one["low"], one["high"]] == variant["metrics"]["top1"]
    tops = [m["variants"][1]["metrics"]["top1"][0] for m in summary["models"][:2]]
    (row,) = differences
    assert row["difference"] == pytest.approx(tops[1] - tops[0])


@pytest.mark.filterwarnings("ignore")
def test_tfmas_slices_equal_scikit_learn_and_those_with_intervals(executed, predictions):
    tfma_slices, slice_table = executed("slices_and_fairness")[1]
    one = predictions["pets_cnn"]["pqat_int8"]
    guess = one.scores.argmax(axis=1)
    masks = {"all": np.ones(len(guess), bool), "class = owl": one.labels == 2}
    for key, values in one.slices.items():
        short = key.removeprefix("slice/")
        masks |= {f"{short} = {value}": values == value for value in set(values)}
    found = {row["slice"]: row for row in tfma_slices}
    for name, mask in masks.items():
        labels, guesses = one.labels[mask], guess[mask]
        assert found[name]["example_count"] == mask.sum()
        assert found[name]["top1"] == pytest.approx(accuracy_score(labels, guesses))
        f1 = f1_score(labels, guesses, average="macro", zero_division=0)
        assert found[name]["macro_f1"] == pytest.approx(f1)
    assert len(slice_table) == 5
    for row in slice_table:
        assert row["top1"] == pytest.approx(found[row["slice"]]["top1"])
        assert row["low"] < row["top1"] < row["high"]


@pytest.mark.filterwarnings("ignore")
def test_errors_and_data_equal_the_tables(executed, predictions):
    wrong, confused = executed("errors")[1]
    one = predictions["pets_cnn"]["pqat_int8"]
    expected = one.ids[one.scores.argmax(axis=1) != one.labels]
    assert set(wrong) == set(expected)
    assert confused == len(expected)
    shares, kinds = executed("data_quality")[1]
    assert [row["share"] for row in shares] == pytest.approx([1 / 3] * 3)
    assert "leakage" in kinds


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SHOWN)
def test_a_browser_shows_the_page_without_requests(executed, open_page, name):
    file = executed(name)[0].with_suffix(".html")
    page = open_page(file)
    assert page.requested <= {file.as_uri()}
    assert page.console == []
    assert re.search(r'<svg[^>]* class="chart"[^>]* viewBox=', page.dom)


def test_jupyter_starts_with_the_notebook(finished_run, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (tmp_path / "jupyter_server_config.py").write_text(
        f"""
c.ServerApp.open_browser = False
c.ServerApp.allow_root = True
c.ServerApp.port = {port}
c.IdentityProvider.token = "secret"
"""
    )
    command = [sys.executable, "-m", "tfx_pipeline.cli", "notebook", "errors", str(finished_run)]
    log = tmp_path / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, "shown=7"],
            cwd=tmp_path,
            env={**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}/api/contents/errors.ipynb?token=secret"
    try:
        found = None
        while found is None:
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
            with contextlib.suppress(urllib.error.URLError):
                found = json.load(_OPENER.open(url, timeout=60))
    finally:
        server.terminate()
        server.wait()
    parameters = found["content"]["cells"][1]["source"]
    assert f"RUN = {str(finished_run)!r}" in parameters
    assert "SHOWN = 7 " in parameters
    assert "wrote errors.ipynb" in log.read_text()
