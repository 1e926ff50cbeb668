"""Hyperparameter search with KerasTuner; a trial is a training run, scored on validation images.

A space maps configuration keys to the source of their values:

    {"optim.learning_rate": "log(1e-4, 1e-1)", "model.dropout": "uniform(0, 0.5)",
     "train.ema": "choice(0, 0.99)", "model.options.depth": "int(2, 6)"}

Values are drawn at random (Bergstra & Bengio 2012, s2). A trial that diverges has failed and the
search continues; any other error of a trial ends the search. A search in which no trial has a score
is an error. TFX's Tuner calls `tuner_fn` and passes the best values to the Trainer.
"""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import keras_tuner
import tensorflow as tf

from trainers.config import Config, ConfigError, from_dict, override
from trainers.config_rules import validate
from trainers.data.features import DatasetInfo
from trainers.identity.file_index import INDEX_FILE, FileIndex
from trainers.keras import keras
from trainers.loop import Report, TrainingError, fit
from trainers.search.search_state import Search
from trainers.training.progress import RESUME_ANYWAY, reporter
from trainers.training.progress import announce as announce_line

#: The score of a trial; never a figure of the test split.
OBJECTIVE = "val_top1"

_KINDS = ("log", "uniform", "int", "choice")


class TuningError(RuntimeError):
    """A search without a result; the message has the error of each trial."""


class TunerFnResult(NamedTuple):
    """The result of a `tuner_fn` as TFX expects it, without importing TFX."""

    tuner: keras_tuner.Tuner
    fit_kwargs: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One row of a search.

    Attributes:
      values: configuration key -> value.
      top1: on the validation split at the trial's best epoch; None if it failed.
    """

    values: dict[str, Any]
    top1: float | None


def make_space(config: Config, space: Mapping[str, str]) -> keras_tuner.HyperParameters:
    """The parameters of a search, checked against `config`.

    Args:
      config: the configuration that the values are set in.
      space: configuration key -> `log(LOW, HIGH)`, `uniform(LOW, HIGH)`, `int(LOW, HIGH)` (both
        ends included) or `choice(A, B, ...)`.

    Raises:
      ConfigError: an unknown key, a malformed range, or values that the key does not take.
    """
    if not space:
        raise ConfigError("nothing to tune; name a key, e.g. optim.learning_rate=log(1e-4, 1e-1)")
    found = keras_tuner.HyperParameters()
    for key, text in space.items():
        kind, values = _parsed(key, text)
        for value in values:
            validate(override(config, [_assignment(key, value)]))
        if kind == "choice":
            found.Choice(key, values, ordered=False)
        elif kind == "int":
            found.Int(key, *values)
        else:
            found.Float(key, *values, sampling="log" if kind == "log" else "linear")
    return found


def _parsed(key: str, text: str) -> tuple[str, list[Any]]:
    match = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", text)
    if match is None or match[1] not in _KINDS:
        raise ConfigError(
            f"{key}: {text!r} is not a range; write log(1e-4, 1e-1), uniform(0, 0.5), int(2, 8) or "
            "choice(sgd, adamw)"
        )
    kind, values = match[1], [_value(part.strip()) for part in match[2].split(",")]
    if kind == "choice":
        if len({type(value) for value in values}) != 1 or values == [""]:
            raise ConfigError(f"{key}: {text!r} mixes numbers and words, or names nothing")
        return kind, values
    wanted = int if kind == "int" else (int, float)
    fine = len(values) == 2 and all(isinstance(value, wanted) for value in values)
    if not fine or values[0] >= values[1] or (kind == "log" and values[0] <= 0):
        low = "above 0 " if kind == "log" else ""
        raise ConfigError(f"{key}: {text!r} needs two numbers, the lower {low}first")
    return kind, [value if kind == "int" else float(value) for value in values]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _assignment(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}"


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with a trial's values set.

    Raises:
      ConfigError: a value is out of range.
    """
    return validate(override(config, [_assignment(key, value) for key, value in values.items()]))


class ConfigTuner(keras_tuner.Tuner):
    """Trains `config` with values of a space, trial after trial.

    A search that was killed resumes in the trial that was running.

    Args:
      config: common to all trials.
      space: see `make_space`.
      work_dir: checkpoints, as of `trainers.loop.fit`, and the state of the search.
      trials: number of trials.
      epochs: of a trial; 0 uses the number in `config`, so that the best trial need not be trained
        again in the same `work_dir`.
      report: called with the progress of each trial.
      announce: called with lines for the user, e.g. that a search starts over.
      resume_anyway: resumes a search, and its trials, even if other code started it; otherwise both
        start over, and `announce` gets a line about it.
      index: as for `trainers.loop.fit`.
    """

    def __init__(
        self,
        config: Config,
        space: Mapping[str, str],
        *,
        work_dir: Path,
        trials: int,
        epochs: int = 0,
        report: Report | None = None,
        announce: Callable[[str], None] | None = None,
        resume_anyway: bool = False,
        index: Path | None = None,
    ) -> None:
        if trials < 1:
            raise ConfigError(f"a search needs at least 1 trial, got {trials}")
        if epochs:
            config = replace(config, train=replace(config.train, epochs=epochs))
        self._config, self._work_dir, self._report = config, Path(work_dir), report
        self._resume_anyway, self._announce, self._index = resume_anyway, announce, index
        oracle = keras_tuner.oracles.RandomSearchOracle(
            objective=keras_tuner.Objective(OBJECTIVE, "max"),
            max_trials=trials,
            seed=config.train.seed,
            hyperparameters=make_space(config, space),
            tune_new_entries=False,
            # Failed trials are checked in `on_search_end`.
            max_consecutive_failed_trials=trials + 1,
        )
        folder = self._work_dir / "search"
        with FileIndex(index or self._work_dir / INDEX_FILE).open() as files:
            search = Search.of(config, space, trials, files)
        search.begin(folder, announce or (lambda line: None), anyway=resume_anyway)
        super().__init__(oracle, directory=str(folder), project_name=search.name)

    def run_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> dict[str, float]:
        """Trains once and returns the figures of the best epoch.

        Raises:
          keras_tuner.errors.FailedTrialError: the trial diverged, or did not fit into memory.
          keras_tuner.errors.FatalError: any other error, which the next trial would have as well.
        """
        keras.backend.clear_session()
        try:
            config = with_values(self._config, trial.hyperparameters.values)
            trained = fit(
                config,
                self._work_dir,
                report=self._report,
                announce=self._announce,
                resume_anyway=self._resume_anyway,
                index=self._index,
            )
        except (TrainingError, tf.errors.ResourceExhaustedError) as error:
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        except Exception as error:
            raise keras_tuner.errors.FatalError(f"{type(error).__name__}: {error}") from error
        best = trained.chosen
        return {name: float(best[name]) for name in (OBJECTIVE, "val_loss")}

    def on_search_end(self) -> None:
        """Raises an error for a search without a result.

        Raises:
          TuningError: no trial has a score.
        """
        super().on_search_end()
        if not any(trial.top1 is not None for trial in self.results()):
            why = [
                f"{trial.hyperparameters.values}: {_last_line(trial.message)}"
                for trial in self.oracle.trials.values()
            ]
            raise TuningError(
                f"none of {len(why)} trials has a score:\n  " + "\n  ".join(why or ["none ran"])
            )

    def results(self) -> list[Trial]:
        """The trials so far, the best first and failed ones last."""
        rows = [
            Trial(dict(trial.hyperparameters.values), _score(trial))
            for trial in self.oracle.trials.values()
        ]
        return sorted(rows, key=lambda row: -math.inf if row.top1 is None else row.top1)[::-1]


def tune(
    config: Config,
    space: Mapping[str, str],
    *,
    work_dir: Path,
    trials: int,
    epochs: int = 0,
    report: Report | None = None,
    announce: Callable[[str], None] | None = None,
    resume_anyway: bool = False,
) -> list[Trial]:
    """Searches and returns the trials, the best first; takes the arguments of `ConfigTuner`.

    Raises:
      ConfigError: the space does not fit the configuration.
      TuningError: no trial has a score.
    """
    DatasetInfo.load(Path(config.data.dir))  # Reports missing data before the first trial.
    tuner = ConfigTuner(
        config,
        space,
        work_dir=work_dir,
        trials=trials,
        epochs=epochs,
        report=report,
        announce=announce,
        resume_anyway=resume_anyway,
    )
    tuner.search(verbose=0)
    return tuner.results()


def tuner_fn(fn_args: Any) -> TunerFnResult:
    """The tuner for `tfx.components.Tuner(tuner_fn="trainers.search.tuner.tuner_fn")`.

    Args:
      fn_args: TFX's `FnArgs`; `custom_config` holds `config`, `work_dir`, `index` and `code_digest`
        as for `trainers.run_fn`, and `space`, `trials` and `epochs` as for `ConfigTuner`.

    Raises:
      ConfigError: the space does not fit the configuration.
    """
    custom = fn_args.custom_config
    tuner = ConfigTuner(
        from_dict(custom["config"]),
        custom["space"],
        work_dir=Path(custom["work_dir"]),
        trials=custom["trials"],
        epochs=custom["epochs"],
        report=reporter(),
        announce=announce_line,
        resume_anyway=bool(os.environ.get(RESUME_ANYWAY)),
        index=Path(custom["index"]) if custom.get("index") else None,
    )
    return TunerFnResult(tuner, {})


def _score(trial: Any) -> float | None:
    if trial.status != "COMPLETED" or trial.score is None:
        return None
    return float(trial.score) if math.isfinite(trial.score) else None


def _last_line(message: str | None) -> str:
    return (message or "no message").strip().splitlines()[-1]
