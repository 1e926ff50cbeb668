"""A model in a user's file: trained, described from its folder, and an error if it is missing."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from trainers.data.features import FILENAME, ID, IMAGE, LABEL

SIGHTLINE = Path(sys.executable).with_name("sightline")
PLUGIN = """
from trainers.config import Config, DataConfig, ModelConfig, TrainConfig
from trainers.keras import keras
from trainers.registry import models, recipes


@models.register("tiny")
def tiny(images, *, width: int = 4):
    x = keras.layers.Conv2D(width, 3, strides=4, activation="relu", name="conv")(images)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


@recipes.register("tiny_colors")
def tiny_colors():
    return Config(
        name="tiny_colors",
        data=DataConfig(dir="colors", image_size=(16, 16)),
        model=ModelConfig("tiny"),
        train=TrainConfig(epochs=1, global_batch=8),
    )
"""


def record(number):
    """A gray PNG of one of two brightnesses, labeled by it."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (60 + number, 60, 60 + 120 * (number % 2))).save(file, "PNG")
    name = f"{number}.png"
    return {IMAGE: file.getvalue(), LABEL: number % 2, FILENAME: name, ID: name.rjust(64, "0")}


@pytest.fixture
def home(tmp_path, write_dataset):
    """The current folder, with a plugin and records of two colors."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    counts = {"train": range(32), "validation": range(32, 40), "test": range(40, 48)}
    records = {split: [record(number) for number in counts[split]] for split in counts}
    write_dataset(tmp_path / "colors", records, classes=("red", "blue"), slices=())
    return tmp_path


def sightline(home, *arguments):
    return subprocess.run(
        [SIGHTLINE, *arguments], cwd=home, capture_output=True, text=True, check=False
    )


@pytest.mark.onednn
def test_a_trained_folder_knows_its_plugin(home):
    trained = sightline(home, "train", "tiny_colors", "--plugins", "mine.py")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    described = sightline(home, "describe", "work/tiny_colors", "--json")
    # 4 filters of 3 x 3 x 3 and biases; 4 x 2 weights and biases.
    assert '"parameters": 122' in described.stdout, described.stderr
    (home / "mine.py").rename(home / "moved.py")
    missed = sightline(home, "evaluate", "work/tiny_colors")
    assert missed.returncode == 1
    line = " ".join(missed.stderr.split())
    # TensorFlow may write lines before it.
    assert f"error: work/tiny_colors was made with the plugin {home}/mine.py" in line
    assert "give its new location" in line
