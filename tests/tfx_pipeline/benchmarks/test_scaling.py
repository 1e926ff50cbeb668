"""Cost by size and batch: what is counted by hand, and ratios by SciPy."""

import json

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from serving.benchmark.errors import BenchmarkError
from tfx_pipeline.benchmarks.scaling import measure
from tfx_pipeline.cli import app
from trainers.config import ConfigError
from trainers.registry import UnknownNameError

WIDTH, DEPTH, PATCH, CLASSES = 24, 2, 8, 7
VIT = ["width=24", "depth=2", "patch=8", "heads=3"]

pytestmark = pytest.mark.onednn


@pytest.fixture(scope="module")
def figures():
    seen = []
    found = measure(
        "vit", VIT, sizes=(16, 32), batches=(1, 3), classes=CLASSES, rounds=3, on_round=seen.append
    )
    assert seen == [1, 2, 3]
    return found


def test_work_is_that_of_the_formulas(figures):
    assert [(c["image_size"], c["batch"]) for c in figures["cells"]] == [
        ([16, 16], 1),
        ([16, 16], 3),
        ([32, 32], 1),
        ([32, 32], 3),
    ]
    work = {}
    for cell in figures["cells"]:
        side, batch = cell["image_size"][0], cell["batch"]
        patches = (side // PATCH) ** 2
        tokens = patches + 1
        attention = DEPTH * 2 * tokens**2 * WIDTH  # multiply-adds: 4 N^2 d FLOPs per layer
        dense = DEPTH * tokens * (4 * WIDTH**2 + 2 * WIDTH * 4 * WIDTH)
        total = attention + dense + patches * PATCH**2 * 3 * WIDTH + WIDTH * CLASSES
        assert cell["multiply_adds"] == total
        assert cell["attention_share"] == pytest.approx(attention / total)
        assert cell["attention_layers"] == DEPTH
        work[side, batch] = batch * total
        assert cell["work_ratio"] == pytest.approx(work[side, batch] / work[16, 1])


def test_memory_grows_with_the_batch(figures):
    small, large = figures["cells"][:2]
    weights = 4 * small["parameters"] / 1e6  # all of them are trainable
    assert large["memory_mb"] - weights == pytest.approx(3 * (small["memory_mb"] - weights))
    # At least the widest pair of live tensors: the hidden units of an MLP and its shortcut.
    assert small["memory_mb"] - weights >= 4 * 5 * (4 * WIDTH + WIDTH) / 1e6


def test_times_and_their_ratios(figures):
    first = figures["cells"][0]
    for cell in figures["cells"]:
        times = np.array(cell["engine_ms"])
        assert len(times) == 3
        assert times.min() > 0
        rate = 1e3 * cell["batch"] / np.median(times)
        assert cell["images_per_second"] == pytest.approx(rate)
        if cell is first:
            continue
        logs = np.log(times / first["engine_ms"])
        limits = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
        expected = np.exp([logs.mean(), *limits])
        assert cell["time_ratio"] == pytest.approx(expected.tolist())


def test_the_verb_shows_and_stores_the_cells(tmp_path):
    out = tmp_path / "scaling.json"
    arguments = ("resnet8", "width=4", "--sizes", "8,16", "--batches", "1,2", "--rounds", "2")
    result = CliRunner().invoke(
        app, ["benchmark", "scaling", *arguments, "--out", str(out)], env={"COLUMNS": "140"}
    )
    assert result.exit_code == 0, result.output
    stored = json.loads(out.read_text())
    assert (stored["model"], stored["options"], stored["rounds"]) == ("resnet8", ["width=4"], 2)
    assert stored["definitions"].keys() <= stored["cells"][0].keys()
    rows = [line.split() for line in result.output.splitlines()]
    for cell in stored["cells"]:
        head = [str(cell["image_size"][0]), str(cell["batch"])]
        (row,) = [row for row in rows if row[:2] == head]
        assert f"{cell['work_ratio']:.2f}x" in row
        assert cell["attention_layers"] == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sizes": ()}, BenchmarkError, "sizes must be distinct"),
        ({"sizes": (16, 16)}, BenchmarkError, r"got \[16, 16\]"),
        ({"batches": (0,)}, BenchmarkError, "batches must be"),
        ({"rounds": 1}, BenchmarkError, "at least 2, got 1"),
        ({"sizes": (8, 12)}, ConfigError, "vit at 12 px: .*do not tile"),
    ],
)
def test_bad_numbers(options, error, message):
    with pytest.raises(error, match=message):
        measure("vit", VIT, **{"sizes": (8,), "batches": (1,), **options})


def test_an_unknown_model():
    with pytest.raises(UnknownNameError, match="vit_s16"):
        measure("vit_s17")


def test_sizes_that_are_not_numbers():
    result = CliRunner().invoke(app, ["benchmark", "scaling", "vit", "--batches", "1,x"])
    assert result.exit_code == 2
    assert "--batches" in result.output
