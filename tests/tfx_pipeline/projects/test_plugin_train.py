"""A model of a user's own file: trained, described from its folder, and missed when it is gone."""

import subprocess
import sys
from pathlib import Path

import pytest

from tfx_pipeline.ingest import ingest
from trainers.data.features import DATASET_FILE

SIGHTLINE = Path(sys.executable).with_name("sightline")
PLUGIN = """
from trainers.config import Config, DataConfig, ModelConfig, TrainConfig
from trainers.keras import keras
from trainers.registry import models, recipes


@models.register("tiny")
def tiny(images, *, width: int = 4):
    x = keras.layers.Conv2D(width, 3, strides=4, activation="relu", name="conv")(images)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


@recipes.register("tiny_digits")
def tiny_digits():
    return Config(
        name="tiny_digits",
        data=DataConfig(dir="digits", image_size=(16, 16)),
        model=ModelConfig("tiny"),
        train=TrainConfig(epochs=1),
    )
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    ingest("digits", tmp_path / "digits")
    assert (tmp_path / "digits" / DATASET_FILE).is_file()
    return tmp_path


def sightline(home, *arguments):
    return subprocess.run(
        [SIGHTLINE, *arguments], cwd=home, capture_output=True, text=True, check=False
    )


@pytest.mark.onednn
def test_a_trained_folder_knows_its_plugin(home):
    trained = sightline(home, "train", "tiny_digits", "--plugins", "mine.py")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    described = sightline(home, "describe", "work/tiny_digits", "--json")
    # 4 filters of 3 x 3 x 3 and biases; 4 x 10 weights and biases.
    assert '"parameters": 162' in described.stdout, described.stderr
    (home / "mine.py").rename(home / "moved.py")
    missed = sightline(home, "evaluate", "work/tiny_digits")
    assert missed.returncode == 1
    line = " ".join(missed.stderr.split())
    assert line.startswith(f"error: work/tiny_digits was made with the plugin {home}/mine.py")
    assert "give its new location" in line
