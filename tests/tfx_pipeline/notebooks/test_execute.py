import json
import os
import re
import sys

import pytest
from typer.testing import CliRunner

from tfx_pipeline.cli import app
from tfx_pipeline.notebooks import execute
from tfx_pipeline.notebooks.catalog import NotebookError
from tfx_pipeline.notebooks.run_results import RunError


def sightline(*arguments):
    return CliRunner().invoke(app, ["notebook", *map(str, arguments)])


def outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [one for cell in cells for one in cell.get("outputs", ())]


def requests(html):
    """Addresses that a browser would load, in attributes, styles and scripts."""
    found = re.findall(r"""(?:src|href|poster|action)\s*=\s*["']?((?:https?:)?//[^"'\s>]+)""", html)
    found += re.findall(r"""url\(\s*["']?((?:https?:)?//[^"')]+)""", html)
    return found + re.findall(r"""(?:import|from)\s*\(?\s*["'](https?://[^"']+)""", html)


def test_a_notebook_runs_without_a_browser(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = sightline("compression_pareto", finished_run, "max_drop=0.1", "--execute")
    assert ran.exit_code == 0, ran.output
    assert ran.output.split() == [
        *("wrote", "compression_pareto.ipynb"),
        *("wrote", "compression_pareto.html"),
    ]
    found = outputs(tmp_path / "compression_pareto.ipynb")
    assert found
    assert {one["output_type"] for one in found} <= {"execute_result", "stream", "display_data"}
    assert not [one for one in found if one.get("name") == "stderr"]
    html = (tmp_path / "compression_pareto.html").read_text(encoding="utf-8")
    assert requests(html) == []
    summary = json.loads((finished_run / "reports/latest/summary.json").read_text())
    for model in summary["models"][:2]:
        for variant in model["variants"]:
            value = variant["metrics"]["top1"][0]
            assert f"{model['name']}, {variant['name']}: {100 * value:.1f} % at " in html
    assert "dashed: a drop of 10 points" in html


def test_the_check_of_requests_sees_them():
    html = """<script src="https://cdn/x.js"></script><link href='//cdn/y.css'>
      <style>a { background: url(http://cdn/z.png) }</style><script>import("https://cdn/w.js")"""
    assert len(requests(html)) == 4


def test_a_failed_cell_is_an_error_and_its_output_is_kept(tmp_path):
    source = "print('before')\nraise ValueError('no such thing')"
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "source": source}
    path = tmp_path / "fails.ipynb"
    book = {"cells": [{**cell, "execution_count": None}], "metadata": {}}
    path.write_text(json.dumps({**book, "nbformat": 4, "nbformat_minor": 5}))
    with pytest.raises(NotebookError, match=r"fails\.ipynb stopped: ValueError: no such thing"):
        execute.run_headless(path)
    assert [one["output_type"] for one in outputs(path)] == ["stream", "error"]
    assert not (tmp_path / "fails.html").exists()


def test_without_a_name_all_notebooks_are_listed():
    ran = sightline()
    assert ran.exit_code == 0
    for name in ("data_quality", "compare_models", "slices_and_fairness", "errors"):
        assert name in ran.output
    assert "groups" in ran.output


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("error", "runs/pets"), NotebookError, "unknown notebook 'error'; did you mean errors"),
        (("errors",), NotebookError, "errors needs the folder of a run"),
        (("errors", "runs/gone"), RunError, "runs/gone does not exist; did you mean"),
        (("errors", "runs/pets", "shown"), NotebookError, "written as key=value, got 'shown'"),
        (("compare_models", "runs/pets", "other=runs/x"), RunError, "runs/x does not exist"),
        (("data_quality", "runs"), RunError, "runs is not the folder of a finished run"),
    ],
)
def test_bad_input_is_an_error_and_writes_nothing(
    finished_run, monkeypatch, arguments, error, message
):
    folder = finished_run.parents[1]
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SIGHTLINE_RUN", raising=False)
    before = sorted(folder.rglob("*"))
    ran = sightline(*arguments, "--execute")
    assert ran.exit_code == 1
    assert isinstance(ran.exception, error)
    assert message in str(ran.exception)
    assert sorted(folder.rglob("*")) == before


def test_a_run_without_the_artifact_is_refused_before_anything_starts(change_summary, tmp_path):
    run = change_summary(lambda summary: summary["models"][0].pop("predictions"))
    ran = sightline("errors", run, "--out", tmp_path / "x.ipynb", "--execute")
    assert "no predictions of the test images of pets_cnn" in str(ran.exception)
    assert not (tmp_path / "x.ipynb").exists()


@pytest.mark.parametrize(
    ("missing", "options", "message"),
    [
        ("nbconvert", ["--execute"], r"nbconvert is not installed; run pip install 'sightline\["),
        ("ipykernel", [], r"ipykernel is not installed; run pip install 'sightline\["),
        ("jupyterlab notebook", [], "run pip install jupyterlab, or write HTML without it"),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    finished_run, tmp_path, monkeypatch, missing, options, message
):
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("Jupyter would start"))
    for name in missing.split():
        monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "x.ipynb"
    ran = sightline("errors", finished_run, "--out", out, *options)
    assert re.search(message, str(ran.exception))
    assert not out.exists()
