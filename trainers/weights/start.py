"""The initial weights of training: random, or from `model.init`.

The readers of weights files (`trainers.weights`) are loaded only if needed.
"""

from pathlib import Path

from trainers.config import Config
from trainers.keras import keras


def prepared(config: Config) -> Config:
    """`config` with the normalization of packaged weights, if it uses them.

    Raises:
      WeightsError: `model.init=pretrained`, and the weights are not installed.
    """
    if not config.model.init:
        return config
    from trainers.weights import with_input_of_weights

    return with_input_of_weights(config)


def origin_of(config: Config) -> dict[str, str]:
    """`trainers.weights.origin` of `model.init`; empty for random weights."""
    if not config.model.init:
        return {}
    from trainers.weights import origin

    return origin(config)


def init_file(config: Config) -> Path | None:
    """The file or folder of `model.init`; None for random weights."""
    if not config.model.init:
        return None
    from trainers.weights import init_path

    return init_path(config)


def start(model: keras.Model, config: Config) -> list[str]:
    """Fills `model` from `model.init`, if set, and returns the lines of the report.

    For packaged weights, which always fit, this is a summary.

    Raises:
      WeightsError: the weights cannot be read or do not fit.
    """
    path = init_file(config)
    if path is None:
        return []
    from trainers.weights import PRETRAINED, initialize

    report = initialize(model, path, config)
    return report.brief() if config.model.init == PRETRAINED else report.lines()
