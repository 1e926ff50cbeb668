"""Weights of a model that `sightline train` made."""

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
from trainers.training.checkpoint import weights_path
from trainers.weights.report import WeightsError
from trainers.weights.rules import Facts, Piece, Translation
from trainers.weights.slots import Slot, slots, values

# Options that change how a network learns, not what its weights mean.
_TRAINING_ONLY = {"dropout", "drop_path", "zero_init", "layer_scale"}


def read_config(directory: Path) -> Config:
    """The configuration in a folder of `sightline train`.

    Raises:
      WeightsError: no such folder, or a field that this version does not know; it is named.
      PluginError: a plugin that it was made with is missing.
    """
    if not (directory / "trained.json").is_file():
        raise WeightsError(
            f"{directory} holds no trained model; make one with `sightline train RECIPE --out "
            f"{directory}`, or give a weights file"
        )
    plugins.require_of(directory)
    try:
        return from_dict(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    except (ConfigError, ValueError) as error:
        raise WeightsError(
            f"{directory / 'config.json'} is of another version of Sightline: {error}; correct "
            "that field there, or train the model anew"
        ) from error


def translate_trained(directory: Path, model: keras.Model, config: Config) -> Translation:
    """A trained model's weights for `model`.

    Args:
      directory: as `trainers.training.trained.save_trained` writes it.
      model: what is to be filled.
      config: of the run; classes of `data.dir` decide whether the classifier is kept.

    Raises:
      WeightsError: as `read_config`, or weights that are not those of the configuration.
    """
    old, info = read_config(directory), DatasetInfo.load(directory)
    network = _restored(directory, old, info)
    found = _paired(network, model)
    order, notes = _class_order(info.classes, config)
    pieces = []
    for slot, value in found.items():
        if slot[0] in HEADS and order is not None:
            value = value[..., order] if len(order) else _nothing(value)
        pieces.append(Piece("/".join(slot), *slot, np.ascontiguousarray(value)))
    facts = Facts(
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
        # Only what is read back is asked for: the file may hold more than the network.
        status.assert_existing_objects_matched().expect_partial()
    except AssertionError as error:
        raise WeightsError(f"{weights_path(directory)} lacks weights: {error}") from error
    return network


def _paired(network: keras.Model, model: keras.Model) -> dict[Slot, np.ndarray]:
    """Values by the slots of `model`: by name, or in order where Keras counted the names."""
    theirs, ours = values(network), slots(model)
    same = [value.shape for value in theirs.values()] == [tuple(v.shape) for v in ours.values()]
    if set(theirs) != set(ours) and same:
        return dict(zip(ours, theirs.values(), strict=True))
    return theirs


def _class_order(classes: tuple[str, ...], config: Config) -> tuple[list[int] | None, list[str]]:
    """Where each new class is in the old classifier; None as it is, empty for a fresh one."""
    try:
        new = DatasetInfo.load(Path(config.data.dir)).classes
    except (OSError, ValueError):
        return None, []  # Without data only the count decides.
    if new == classes:
        return None, []
    fresh = sorted(set(new) - set(classes))
    if fresh:
        return [], [f"other classes (no {fresh[0]!r} there), so the classifier starts fresh"]
    note = f"its classes are {len(new)} of {len(classes)}" if len(new) < len(classes) else ""
    note = note or "the classes are in another order"
    return [classes.index(name) for name in new], [f"{note}: the classifier is paired by name"]


def _nothing(value: np.ndarray) -> np.ndarray:
    """No classes: a shape that fits no classifier."""
    return value[..., :0]


def _other_fields(old: Config, new: Config) -> tuple[str, ...]:
    """Fields of the configuration that decide what a weight means, and differ."""
    if old.model.name != new.model.name and _network(old) != _network(new):
        return (f"model.name is {old.model.name} there and {new.model.name} here",)
    there, here = _options(old), _options(new)
    return tuple(
        f"model.options.{key} is {there.get(key)!r} there and {here.get(key)!r} here"
        for key in sorted(set(there) | set(here))
        if there.get(key) != here.get(key) and key not in _TRAINING_ONLY
    )


def _network(config: Config) -> tuple[Any, Any]:
    builder = models.get(config.model.name)
    return getattr(builder, "func", builder), getattr(builder, "args", ())


def _options(config: Config) -> dict[str, Any]:
    """The builder's keyword arguments with those of the configuration."""
    known = inspect.signature(models.get(config.model.name)).parameters.values()
    defaults = {p.name: p.default for p in known if p.kind is inspect.Parameter.KEYWORD_ONLY}
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.model.options.items()
    }
    return {**defaults, **given}
