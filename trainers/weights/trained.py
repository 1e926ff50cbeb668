"""Weights of a model from `sightline train`."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainers import plugins
from trainers.config import Config, ConfigError, from_dict
from trainers.data.features import DatasetInfo
from trainers.keras import keras
from trainers.models import HEADS
from trainers.registry import models, tasks
from trainers.weights.report import WeightsError
from trainers.weights.rules import TensorPiece, Translation, WeightsFacts
from trainers.weights.slots import Slot, slots, values

# Options that affect only training, not the meaning of weights.
_TRAINING_ONLY = {"dropout", "drop_path", "zero_init", "layer_scale"}


def weights_path(directory: Path) -> str:
    """The checkpoint prefix of a trained model's weights."""
    return str(Path(directory) / "weights" / "best")


def read_config(directory: Path) -> Config:
    """The configuration in a folder of `sightline train`.

    Raises:
      WeightsError: no such folder, or an unknown field, which is named.
      PluginError: a plugin of the model is missing.
    """
    if not (directory / "trained.json").is_file():
        raise WeightsError(
            f"{directory} has no trained model; train one with `sightline train RECIPE --out "
            f"{directory}`, or use a weights file"
        )
    plugins.require_of(directory)
    try:
        return from_dict(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    except (ConfigError, ValueError) as error:
        raise WeightsError(
            f"{directory / 'config.json'} is from another version of Sightline: {error}; correct "
            "this field, or train the model again"
        ) from error


def translate_trained(directory: Path, model: keras.Model, config: Config) -> Translation:
    """The weights of a trained model for `model`.

    Args:
      directory: a folder written by `trainers.training.trained.save_trained`.
      model: the model to fill.
      config: configuration of the run; the classes of `data.dir` decide whether the classifier is
        kept.

    Raises:
      WeightsError: as for `read_config`, or the weights do not match the configuration.
    """
    old, info = read_config(directory), DatasetInfo.load(directory)
    network = _restored(directory, old, info)
    found = _paired(network, model)
    order, notes = _class_order(info.classes, config)
    pieces = []
    for slot, value in found.items():
        if slot[0] in HEADS and order is not None:
            value = value[..., order] if len(order) else _without_classes(value)
        pieces.append(TensorPiece("/".join(slot), *slot, np.ascontiguousarray(value)))
    facts = WeightsFacts(
        family=old.model.name,
        naming="Sightline",
        architecture=f"{old.model.name} for {len(info.classes)} classes",
        mean=old.data.mean,
        std=old.data.std,
        notes=tuple(notes),
    )
    return Translation(facts, pieces, problems=_other_fields(old, config))


def _restored(directory: Path, config: Config, info: DatasetInfo) -> keras.Model:
    network = tasks.get(config.task).build(config, info)
    status = tf.train.Checkpoint(model=network).read(weights_path(directory))
    try:
        # The file may contain more than the network.
        status.assert_existing_objects_matched().expect_partial()
    except AssertionError as error:
        raise WeightsError(f"{weights_path(directory)} lacks weights: {error}") from error
    return network


def _paired(network: keras.Model, model: keras.Model) -> dict[Slot, np.ndarray]:
    """Slot of `model` -> value: by name, or in order if Keras numbered the names."""
    theirs, ours = values(network), slots(model)
    same = [value.shape for value in theirs.values()] == [tuple(v.shape) for v in ours.values()]
    if set(theirs) != set(ours) and same:
        return dict(zip(ours, theirs.values(), strict=True))
    return theirs


def _class_order(classes: tuple[str, ...], config: Config) -> tuple[list[int] | None, list[str]]:
    """Index of each new class in the old classifier; None if equal, empty for random weights."""
    try:
        new = DatasetInfo.load(Path(config.data.dir)).classes
    except (OSError, ValueError):
        return None, []  # Without data, only the number of classes decides.
    if new == classes:
        return None, []
    fresh = sorted(set(new) - set(classes))
    if fresh:
        note = f"other classes (no {fresh[0]!r} in the file), so the classifier has random weights"
        return [], [note]
    note = f"its classes are {len(new)} of {len(classes)}" if len(new) < len(classes) else ""
    note = note or "the classes are in another order"
    return [classes.index(name) for name in new], [f"{note}: the classifier is matched by name"]


def _without_classes(value: np.ndarray) -> np.ndarray:
    """A value without classes, whose shape does not fit any classifier."""
    return value[..., :0]


def _other_fields(old: Config, new: Config) -> tuple[str, ...]:
    """Differences in fields that decide the meaning of weights."""
    if old.model.name != new.model.name and _network(old) != _network(new):
        return (f"model.name is {old.model.name} in the file and {new.model.name} here",)
    there, here = _options(old), _options(new)
    return tuple(
        f"model.options.{key} is {there.get(key)!r} in the file and {here.get(key)!r} here"
        for key in sorted(set(there) | set(here))
        if there.get(key) != here.get(key) and key not in _TRAINING_ONLY
    )


def _network(config: Config) -> tuple[Any, Any]:
    builder = models.get(config.model.name)
    return getattr(builder, "func", builder), getattr(builder, "args", ())


def _options(config: Config) -> dict[str, Any]:
    """The keyword arguments of the builder, updated by the configuration."""
    known = inspect.signature(models.get(config.model.name)).parameters.values()
    defaults = {p.name: p.default for p in known if p.kind is inspect.Parameter.KEYWORD_ONLY}
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.model.options.items()
    }
    return {**defaults, **given}
