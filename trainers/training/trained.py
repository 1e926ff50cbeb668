"""A trained model in memory and on disk: weights, configuration, data set facts, history."""

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from core.files import write_json, write_text
from core.renamed import current_fields
from trainers import plugins
from trainers.config import Config, ConfigError, from_dict, to_dict
from trainers.data.features import DatasetInfo
from trainers.identity.plugin_code import counted_files
from trainers.keras import keras
from trainers.profiling.complexity import complexity
from trainers.registry import tasks
from trainers.training.checkpoint import Row, best_epoch, write_history
from trainers.training.probe_stage import Probe
from trainers.weights.trained import weights_path

_PROBE = "probe"


@dataclass(frozen=True)
class Trained:
    """A trained model: the best epoch's weights, and one row of figures an epoch.

    Attributes:
      weights_origin: source of the initial weights, see `trainers.weights.origin`; empty for random
        ones.
      probe: the linear probe of a run with initial weights, and whether it is the model.
      probe_weights: checkpoint prefix of the probe's weights; empty without a probe.
    """

    model: keras.Model
    config: Config
    info: DatasetInfo
    history: list[Row]
    best_epoch: int
    weights_origin: dict[str, str] = field(default_factory=dict)
    probe: Probe | None = None
    probe_weights: str = ""

    @property
    def chosen(self) -> Row:
        """The validation figures of the model: of the best epoch, or of the probe."""
        best = self.history[self.best_epoch - 1]
        return {**best, **self.probe.row} if self.probe and self.probe.shipped else best


def save_trained(trained: Trained, directory: Path) -> None:
    """Writes the folder that `load_trained` reads: weights, configuration, history, best epoch."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "trained.json").unlink(missing_ok=True)
    tf.train.Checkpoint(model=trained.model).write(weights_path(directory))
    write_json(directory / "config.json", to_dict(trained.config))
    write_history(directory / "history.csv", trained.history)
    write_json(directory / "history.json", trained.history)
    write_text(directory / "dataset.json", trained.info.to_json())
    _save_probe(trained, directory)
    # Written last: its presence means that the folder is complete.
    cost = {
        "parameters": trained.model.count_params(),
        "multiply_adds": complexity(trained.model).multiply_adds,
    }
    facts: dict[str, Any] = {
        "best_epoch": trained.best_epoch,
        "weights_origin": trained.weights_origin,
        plugins.RECORDED: [str(one) for one in counted_files()],
        "probe": asdict(replace(trained.probe, right="")) if trained.probe else None,
    }
    write_json(directory / "trained.json", {**facts, **cost, **trained.chosen})


def _save_probe(trained: Trained, directory: Path) -> None:
    for stale in directory.glob(f"{_PROBE}.*"):
        stale.unlink()
    # The weights of a probe that is the model are saved already.
    if trained.probe and not trained.probe.shipped:
        source = Path(trained.probe_weights)
        for file in source.parent.glob(f"{source.name}.*"):
            if file.suffix not in (".json", ".npz"):
                shutil.copyfile(file, directory / f"{_PROBE}{file.name[len(source.name) :]}")


def probe_model(trained: Trained) -> keras.Model | None:
    """The frozen backbone with the linear probe as its last layer; None without a probe."""
    if trained.probe is None or trained.probe.shipped:
        return trained.model if trained.probe else None
    model = tasks.get(trained.config.task).build(trained.config, trained.info)
    status = tf.train.Checkpoint(model=model).read(trained.probe_weights)
    status.assert_existing_objects_matched()
    return model


def load_trained(directory: Path) -> Trained:
    """Reads the folder that `save_trained` wrote.

    Raises:
      FileNotFoundError: the folder is not a trained model; names the command that makes one.
      ConfigError: its configuration has a key or value that this version does not take.
      PluginError: a plugin that it was trained with is missing.
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
    # Folders of earlier versions have none.
    origin = current_fields(facts.get("weights_origin", {}))
    probe = Probe.from_json(facts["probe"]) if facts.get("probe") else None
    weights = str(directory / _PROBE) if probe else ""
    return Trained(model, config, info, history, best_epoch(history), origin, probe, weights)
