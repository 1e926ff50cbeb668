"""`sightline benchmark serving`: its options, its table, and its file."""

import json

from typer.testing import CliRunner

from core.bundle import BundleError
from serving.benchmark import server
from serving.benchmark.errors import BenchmarkError
from tfx_pipeline.cli import app


def run(*arguments):
    return CliRunner().invoke(app, ["benchmark", "serving", *map(str, arguments)])


def test_options_reach_the_measurement_and_figures_the_file(tmp_path, monkeypatch):
    options_given = {}
    row = {"part": "one caller", "name": "engine, p50", "unit": "ms", "target": "", "met": None}
    figures = {
        "machine": {"cpu": "Abacus", "cores": "2"},
        "model": "digits",
        "source": "a.jpg",
        "images": 2,
        "mean_kb": 1.5,
        "seconds": 0.25,
        "rounds": 3,
        "variants": {"ptq_int8": {"rows": [{**row, "value": 4.0, "low": 3.5, "high": 4.5}]}},
    }

    def measure(bundle, images, *, on_progress, **options):
        options_given.update(options, bundle=str(bundle), images=[str(file) for file in images])
        on_progress(1, 6, "ptq_int8: round 1, gRPC x1")
        return figures

    monkeypatch.setattr(server, "measure", measure)
    result = run(
        *("b", "--image", "a.jpg", "--image", "c.jpg", "--variant", "ptq_int8"),
        *("--seconds", 0.25, "--rounds", 3, "--no-batching", "--out", tmp_path / "o.json"),
    )
    assert result.exit_code == 0, result.output
    assert options_given == {
        "bundle": "b",
        "images": ["a.jpg", "c.jpg"],
        "variants": ["ptq_int8"],
        "seconds": 0.25,
        "rounds": 3,
        "batching": False,
    }
    assert "digits, ptq_int8" in result.output
    assert "3.500..4.500" in result.output
    assert json.loads((tmp_path / "o.json").read_text()) == figures


def test_errors_come_before_anything_is_started(tmp_path):
    result = run(tmp_path / "absent")
    assert isinstance(result.exception, BundleError)
    assert "is not a folder; give a bundle" in str(result.exception)
    result = run(tmp_path, "--rounds", 0)
    assert isinstance(result.exception, BenchmarkError)
    assert "rounds must be at least 2" in str(result.exception)


def test_help_has_an_example():
    result = CliRunner().invoke(app, ["benchmark", "serving", "--help"])
    assert "sightline benchmark serving bundles/digits_cnn" in " ".join(result.output.split())
