"""Tiny networks of other libraries, their logits, and models to fill."""

from pathlib import Path

import numpy as np
import pytest

from trainers.config import Config, DataConfig, ModelConfig
from trainers.models import build_model

#: Made by tools/make_weight_fixtures.py with PyTorch, which is no dependency of ours.
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def their_logits():
    """Fixture's name -> (2, 7) float32 logits; `images_SIZE` -> (2, SIZE, SIZE, 3) uint8."""
    with np.load(DATA / "logits.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def weights_data():
    """The folder of weights files."""
    return DATA


@pytest.fixture(scope="session")
def make():
    """`make("resnet18", size, classes, data={...}, width=4)`: (model, its config)."""

    def build(name, size=32, classes=7, data=None, **options):
        config = Config(
            name="test",
            data=DataConfig(**{"image_size": (size, size), **(data or {})}),
            model=ModelConfig(name, options=options),
        )
        return build_model(config, classes), config

    return build
