"""The weights that training starts from: random ones, or those of `model.init`.

The readers of weight files (`trainers.weights`) are loaded only by runs that need them.
"""

from pathlib import Path

from trainers.config import Config
from trainers.keras import keras


def prepared(config: Config) -> Config:
    """`config` as it is trained: with the normalization that packaged weights were trained with.

    Raises:
      WeightsError: `model.init=pretrained`, and there are no such weights here.
    """
    if not config.model.init:
        return config
    from trainers.weights import with_input_of_weights

    return with_input_of_weights(config)


def origin_of(config: Config) -> dict[str, str]:
    """What `trainers.weights.origin` says of `model.init`; empty for random weights."""
    if not config.model.init:
        return {}
    from trainers.weights import origin

    return origin(config)


def init_file(config: Config) -> Path | None:
    """The file or trained folder that `model.init` names; None for random weights."""
    if not config.model.init:
        return None
    from trainers.weights import init_path

    return init_path(config)


def start(model: keras.Model, config: Config) -> list[str]:
    """Fills `model` from `model.init`, if it is set, and returns the mapping, one line a row.

    Packaged weights are known to fit: of their mapping there is a summary.

    Raises:
      WeightsError: weights that cannot be read or that do not fit.
    """
    path = init_file(config)
    if path is None:
        return []
    from trainers.weights import PRETRAINED, initialize

    report = initialize(model, path, config)
    return report.brief() if config.model.init == PRETRAINED else report.lines()
