"""What each configuration value may be; `validate` is the way in."""

import math
import re
from collections.abc import Callable
from typing import Any

from trainers.config import Config, ConfigError


def validate(config: Config) -> Config:
    """`config` itself, when every value is in range.

    Raises:
      ConfigError: names the key, the value and what is allowed.
    """
    for key, (fine, allowed) in _RULES.items():
        section, _, name = key.rpartition(".")
        value = getattr(getattr(config, section) if section else config, name)
        if not fine(value):
            raise ConfigError(f"{key} must be {allowed}, got {value!r}")
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
            "train.sync_batch_norm=true does not go with train.accumulate or train.xla: replicas "
            "cannot exchange statistics within a part of a step; unset one of them"
        )
    return config


def _one_of(*values: str) -> tuple[Callable[[Any], bool], str]:
    return values.__contains__, ", ".join(values[:-1]) + f" or {values[-1]}"


def _at_least(least: int, unit: str = "") -> tuple[Callable[[Any], bool], str]:
    words = "at least 1" if least == 1 else f"{least} or more"
    return lambda value: value >= least, f"{words} {unit}".strip()


_PART = (lambda value: 0 <= value < 1, "in [0, 1)")
_POSITIVE = (lambda value: 0 < value < math.inf, "positive")
_NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, "0 or more")

#: Key -> (whether a value is fine, what is allowed).
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (
        lambda name: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None,
        "a folder's name of letters, digits, `.`, `_` and `-`",
    ),
    "data.image_size": (lambda size: min(size) >= 1, "positive pixels"),
    "data.crop_fraction": (lambda part: 0 < part <= 1, "in (0, 1]"),
    "data.resize": _one_of("antialias", "bilinear"),
    "data.fit": _one_of("crop", "stretch"),
    "data.mean": (lambda mean: len(mean) == 3, "three values, one a channel"),
    "data.std": (lambda std: len(std) == 3 and min(std) > 0, "three positive values"),
    "data.on_error": _one_of("raise", "skip"),
    "data.max_skipped": _at_least(0),
    "data.cache": _one_of("auto", "memory", "disk", "none"),
    "data.cache_mb": _at_least(0, "MiB"),
    "data.host_sharding": _one_of("examples", "files"),
    "data.max_boxes": _at_least(1),
    "model.dropout": _PART,
    "optim.name": _one_of("sgd", "adam", "adamw", "lamb"),
    "optim.learning_rate": _POSITIVE,
    "optim.reference_batch": _at_least(0),
    "optim.scaling": _one_of("linear", "sqrt"),
    "optim.momentum": _PART,
    "optim.beta_2": _PART,
    "optim.epsilon": _POSITIVE,
    "optim.schedule": _one_of("step", "cosine", "constant"),
    "optim.step_fractions": (
        lambda fractions: all(0 < fraction < 1 for fraction in fractions),
        "fractions of the run, each in (0, 1)",
    ),
    "optim.final_fraction": (lambda part: 0 <= part <= 1, "in [0, 1]"),
    "optim.warmup_steps": _at_least(0),
    "optim.warmup_limit": (lambda part: 0 <= part <= 1, "in [0, 1]; 1 shortens nothing"),
    "optim.weight_decay": _NOT_NEGATIVE,
    "optim.layer_decay": (lambda factor: 0 < factor <= 1, "in (0, 1]; 1 is off"),
    "optim.clip_norm": (lambda norm: 0 <= norm < math.inf, "0 (off) or more"),
    "train.epochs": _at_least(0),
    "train.global_batch": _at_least(1),
    "train.accumulate": _at_least(1),
    "train.loss": _one_of("softmax", "bce"),
    "train.label_smoothing": _PART,
    "train.ema": _PART,
    "train.early_stop": _at_least(0),
    "train.freeze_epochs": _at_least(0),
    "train.head": _one_of("fresh", "probe"),
    "train.save_steps": _at_least(0),
    "train.precision": _one_of("float32", "bfloat16", "float16"),
    "train.strategy": _one_of("one", "mirrored", "multi_worker", "tpu"),
    "train.devices": _at_least(0),
    "distill.mode": _one_of("soft", "hard", "token"),
    "distill.weight": (lambda weight: 0 <= weight <= 1, "in [0, 1]"),
    "distill.temperature": _POSITIVE,
    "compress.sparsity": (_PART[0], "in [0, 1); 80 % is written 0.8"),
    "compress.prune_epochs": _at_least(1),
    "compress.qat_epochs": _at_least(1),
    "compress.rate_fraction": (lambda part: 0 < part <= 1, "in (0, 1]"),
    "compress.learning_rate": (
        _NOT_NEGATIVE[0],
        "positive, or 0 for compress.rate_fraction of the peak",
    ),
    "compress.calibration_images": _at_least(1),
    "export.top_k": _at_least(1),
    "export.warmup_requests": _at_least(0),
    "eval.batch": _at_least(1),
}
