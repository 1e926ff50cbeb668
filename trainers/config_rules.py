"""Checks the values of a configuration, alone and together."""

from trainers.config import Config, ConfigError
from trainers.config_keys import keys_of


def validate(config: Config) -> Config:
    """`config` itself, when every value is in range.

    Raises:
      ConfigError: names the key, the value and what is allowed.
    """
    for name, key in keys_of(type(config)).items():
        group, _, own = name.rpartition(".")
        value = getattr(getattr(config, group) if group else config, own)
        if not key.accepts(value):
            raise ConfigError(f"{name} must be {key.allowed}, got {value!r}")
    if not config.train.epochs and not config.model.init:
        raise ConfigError(
            "train.epochs must be at least 1 where model.init is empty (0 takes the weights of "
            "model.init as they are), got 0"
        )
    if config.train.freeze_epochs > config.train.epochs:
        raise ConfigError(
            f"train.freeze_epochs={config.train.freeze_epochs} is more than train.epochs="
            f"{config.train.epochs}"
        )
    if config.train.sync_batch_norm and (config.train.accumulate > 1 or config.train.xla):
        raise ConfigError(
            "train.sync_batch_norm=true does not work with train.accumulate or train.xla: replicas "
            "cannot exchange statistics within a part of a step; unset one of them"
        )
    return config
