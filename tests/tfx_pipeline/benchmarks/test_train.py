"""The benchmark of training steps: contenders, ratios, and one real run."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from core.files import write_json
from tfx_pipeline.benchmarks import train
from tfx_pipeline.benchmarks.train import measure, table
from trainers.data.features import DatasetError
from trainers.registry import UnknownNameError

FIGURES = {
    "machine": {"cpu": "Abacus", "cores": "2"},
    "model": "cnn",
    "against": "resnet8",
    "image_size": [64, 64],
    "batch": 4,
    "rounds": 2,
    "steps": 3,
    "contenders": {
        "cnn width=8": {
            "step_seconds": [0.01, 0.03],
            "wait_seconds": [0.001, 0.001],
            "stall": 0.0476,
            "ratio": [0.5, 0.4, 0.625],
            "peak_mb": 812.3,
            "multiply_adds": 4_100_000_000,
        }
    },
}


def test_waiting_is_a_part_of_the_whole_time():
    found = train._times(np.array([[0.9, 0.1], [0.7, 0.3]]))
    assert found["stall"] == pytest.approx(0.2)
    assert found["step_seconds"] == [0.9, 0.7]


def test_a_model_with_options_is_measured_without_them_too(tmp_path):
    base = train._config(tmp_path, 32, 4)
    found = train._contenders(base, "cnn", ["width=8", "depth=1"])
    assert list(found) == ["cnn width=8 depth=1", "cnn"]
    assert found["cnn width=8 depth=1"].model.options == {"width": 8, "depth": 1}
    assert found["cnn"].model.options == {}
    with pytest.raises(UnknownNameError, match="resnet50"):
        train._contenders(base, "resnet5O", ())


def test_the_table_has_a_row_a_contender():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table(FIGURES))
    lines = console.export_text().splitlines()
    assert lines[0].startswith("Abacus, 2 cores; 64 px, 4 images a step; 2 alternating rounds of")
    row = " ".join(lines[-1].split())
    assert row == "cnn width=8 20.0 200.0 0.500 0.400 to 0.625 4.8 % 812 4.10"


def test_invalid_arguments_are_errors(tmp_path):
    with pytest.raises(ValueError, match="rounds must be at least 2 and steps at least 1, got 1"):
        measure("cnn", against="resnet8", data=tmp_path, rounds=1)
    with pytest.raises(DatasetError, match="is not a folder; use records"):
        measure("cnn", against="resnet8", data=tmp_path / "absent")


@pytest.mark.slow
def test_real_steps_on_ingested_images(tmp_path):
    noise = np.random.default_rng(0)
    for number in range(16):
        file = tmp_path / "in" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (24, 24, 3), np.uint8)).save(file)
    seen = []
    figures = measure(
        *("cnn", ["width=4", "depth=1"]),
        against="resnet8",
        data=tmp_path / "in",
        size=16,
        batch=4,
        rounds=2,
        steps=2,
        on_round=seen.append,
    )
    assert seen == [1, 2]
    found = figures["contenders"]
    assert list(found) == ["cnn width=4 depth=1", "cnn", "resnet8"]
    assert found["resnet8"]["ratio"] == [1.0, 1.0, 1.0]
    # Sixteen times as many multiply-adds take longer, whatever the machine.
    assert found["cnn"]["multiply_adds"] > 10 * found["cnn width=4 depth=1"]["multiply_adds"]
    assert all(row["peak_mb"] > 50 and 0 <= row["stall"] < 1 for row in found.values())
    write_json(tmp_path / "out.json", figures)
    assert json.loads((tmp_path / "out.json").read_text()) == figures
