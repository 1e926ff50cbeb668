"""A trained model in memory and on disk: weights, configuration, data set facts, history."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow as tf

from trainers import plugins
from trainers.checkpoint import Row, best_epoch, weights_path, write_history, write_json
from trainers.complexity import complexity
from trainers.config import Config, ConfigError, from_dict, to_dict
from trainers.data.features import DatasetInfo
from trainers.keras import keras
from trainers.plugin_code import counted_files
from trainers.registry import tasks


@dataclass(frozen=True)
class Trained:
    """A trained model: the best epoch's weights, and one row of figures an epoch.

    Attributes:
      weights_origin: where the weights come from that it started from; see
        `trainers.weights.origin`. Empty for random ones.
    """

    model: keras.Model
    config: Config
    info: DatasetInfo
    history: list[Row]
    best_epoch: int
    weights_origin: dict[str, str] = field(default_factory=dict)


def save_trained(trained: Trained, directory: Path) -> None:
    """Writes what `load_trained` reads: weights, configuration, history, the chosen epoch."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "trained.json").unlink(missing_ok=True)
    tf.train.Checkpoint(model=trained.model).write(weights_path(directory))
    write_json(directory / "config.json", to_dict(trained.config))
    write_history(directory / "history.csv", trained.history)
    write_json(directory / "history.json", trained.history)
    (directory / "dataset.json").write_text(trained.info.to_json(), encoding="utf-8")
    chosen = trained.history[trained.best_epoch - 1]
    # Written last: its presence says that the folder is whole.
    cost = {
        "parameters": trained.model.count_params(),
        "multiply_adds": complexity(trained.model).multiply_adds,
    }
    facts = {
        "best_epoch": trained.best_epoch,
        "weights_origin": trained.weights_origin,
        plugins.RECORDED: [str(one) for one in counted_files()],
    }
    write_json(directory / "trained.json", {**facts, **cost, **chosen})


def load_trained(directory: Path) -> Trained:
    """Reads what `save_trained` wrote.

    Raises:
      FileNotFoundError: the folder is not a trained model; names the verb that makes one.
      ConfigError: its configuration has a key or value that this version does not take.
      PluginError: a plugin that it was made with is missing.
    """
    if not (directory / "trained.json").is_file():
        raise FileNotFoundError(
            f"{directory} holds no trained model; make one with `sightline train RECIPE --out "
            f"{directory}`"
        )
    plugins.require_of(directory)
    try:
        config = from_dict(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    except ConfigError as error:
        raise ConfigError(f"{directory / 'config.json'}: {error}") from None
    info = DatasetInfo.load(directory)
    model = tasks.get(config.task).build(config, info)
    tf.train.Checkpoint(model=model).read(weights_path(directory)).assert_existing_objects_matched()
    history = json.loads((directory / "history.json").read_text(encoding="utf-8"))
    facts = json.loads((directory / "trained.json").read_text(encoding="utf-8"))
    origin = facts.get("weights_origin", {})  # Folders of earlier versions have none.
    return Trained(model, config, info, history, best_epoch(history), origin)
