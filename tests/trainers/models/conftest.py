"""Finds the families of models through the registry: a test that takes `family` runs for each."""

import inspect
from collections.abc import Callable
from functools import partial

import pytest

from trainers.config import Config, ConfigError, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model
from trainers.registry import models

CLASSES = 5
SIZES = (32, 71, 75, 224, 331)  # pixels
# Options that make any family small, as far as its builder has them.
TINY = {"width": 8, "depth": 1, "heads": 2, "patch": 8, "blocks": (1, 1), "trunk_width": 4}
# The first block of MobileNetV3 has squeeze and excitation; the third of either is residual.
DEPTHS = {"mobilenet_v3_small": 3, "efficientnet_lite0": 3}


def families() -> list[str]:
    """The shortest registered name of every builder function, of such a one in `DEPTHS`."""

    def rank(name: str) -> tuple[int, bool, str]:
        return len(name), name not in DEPTHS, name

    found = {}
    for name in models.names():
        builder = models.get(name)
        key = builder.func if isinstance(builder, partial) else builder
        if key not in found or rank(name) < rank(found[key]):
            found[key] = name
    return sorted(found.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", families())


def tiny_options(name: str) -> dict:
    allowed = inspect.signature(models.get(name)).parameters
    options = {key: value for key, value in TINY.items() if key in allowed}
    if "width" in options and allowed["width"].annotation is float:
        options["width"] = 0.25
    if name in DEPTHS:
        options["depth"] = DEPTHS[name]
    return options


@pytest.fixture(scope="session")
def make() -> Callable[..., tuple[keras.Model, Config]]:
    """`make(name, tiny=True, **options)`: a model at the smallest size it takes, its config."""

    def build(name: str, *, tiny: bool = False, **options) -> tuple[keras.Model, Config]:
        options = {**(tiny_options(name) if tiny else {}), **options}
        for size in SIZES:
            config = Config(
                name="test",
                data=DataConfig(image_size=(size, size)),
                model=ModelConfig(name=name, options=options),
            )
            try:
                return build_model(config, CLASSES), config
            except ConfigError:
                if size == SIZES[-1]:
                    raise
        raise AssertionError

    return build


@pytest.fixture(scope="session")
def small_names() -> list[str]:
    """The values of `family`."""
    return families()
