"""`sightline benchmark evaluation` on small tables."""

import json

import pytest
from typer.testing import CliRunner

from tfx_pipeline.benchmarks.evaluation import measure
from tfx_pipeline.cli import app


@pytest.mark.slow
def test_both_commands_are_measured(tmp_path):
    out = tmp_path / "figures.json"
    arguments = ["--images", "300", "--classes", "5", "--slices", "2", "--out", str(out)]
    result = CliRunner().invoke(app, ["benchmark", "evaluation", *arguments])
    assert result.exit_code == 0, result.exception
    found = json.loads(out.read_text())
    assert (found["images"], found["classes"], found["slices"]) == (300, 5, 2)
    assert list(found["commands"]) == ["evaluate", "compare"]
    for row in found["commands"].values():
        assert row["cpu_seconds"] > 0
        assert 0.05 < row["peak_gb"] < 4
    assert "target (50,000 x 1,000, 12 keys)" in result.output


def test_sizes_out_of_range():
    with pytest.raises(ValueError, match="at least 100 images, 2 classes and 0 slices, got 9"):
        measure(images=9)
