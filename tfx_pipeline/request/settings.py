"""Overrides of the settings of a pipeline, e.g. `gates.min_top1=0.9`, without TensorFlow or TFX."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from components.data_validation.anomaly import ValidatorSettings, make_settings
from components.data_validation.statistics_settings import StatisticsSettings
from components.gates import GateSettings
from components.gates.settings import ACCEPT
from tfx_pipeline.config import CompressionPlan, PipelineConfig, Tuning
from trainers.config import Config, ConfigError, build_settings, override
from trainers.data.features import DatasetInfo
from trainers.registry import nearest

_TUNE = "tune"
_TUNE_KEY = re.compile(r"tune\.(?P<model>.+?)\.(?:space\.(?P<key>.+)|(?P<field>trials|epochs))")
_PTQ = ("dynamic", "int8")


@dataclass(frozen=True)
class _Settings:
    """The settings of a pipeline, without experiments and searches."""

    gates: GateSettings
    images: ValidatorSettings
    statistics: StatisticsSettings
    slices: tuple[str, ...]
    best: CompressionPlan
    others: CompressionPlan
    benchmark_runs: int
    serving_requests: int


_SECTIONS = (*(one.name for one in fields(_Settings)), _TUNE)


def with_settings(
    pipeline: PipelineConfig, overrides: Iterable[str], *, accept: Iterable[str] = ()
) -> tuple[PipelineConfig, tuple[str, ...]]:
    """`pipeline` with its overrides applied, and the overrides of experiments.

    Args:
      pipeline: the registered pipeline.
      overrides: `key=value`; the keys of a pipeline are `gates.<field>` of `GateSettings`,
        `images.<field>` of `ValidatorSettings`, `statistics.<field>` of `StatisticsSettings`,
        `slices`, `best.methods`, `best.ptq`, `others.*`, `benchmark_runs`, `serving_requests`,
        `tune.<model>.trials`, `tune.<model>.epochs` and `tune.<model>.space.<key>`.
      accept: fields of `GateSettings` to set to `accept`.

    Raises:
      ConfigError: an unknown key (names the nearest ones), or a value of a wrong type or range.
    """
    mine, searches, others = [], [], []
    for assignment in overrides:
        section = assignment.partition("=")[0].partition(".")[0].strip()
        _check_section(section, assignment)
        chosen = others if section not in _SECTIONS else searches if section == _TUNE else mine
        chosen.append(assignment)
    mine += [f"gates.{field}={ACCEPT}" for field in accept]
    registered = settings_of(pipeline)
    try:
        changed = _replaced(pipeline, _checked(override(registered, mine)))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return _tuned(_for_all(changed, mine), searches), tuple(others)


def check_fairness(pipeline: PipelineConfig, info: DatasetInfo) -> None:
    """Checks the fairness gates of all models against the data set, before anything is trained.

    Raises:
      ConfigError: the data set lacks a slice or class (names the nearest ones), or a setting is
        missing or has no effect.
    """
    for model in ("", *pipeline.model_gates):
        GateSettings(**pipeline.gates_of(model)).check_fairness(info.slices, info.classes)


def settings_of(pipeline: PipelineConfig) -> _Settings:
    """The settings of `pipeline`, checked.

    Raises:
      ConfigError: an unknown key (names the nearest ones), or a value of a wrong type or range.
    """
    raw = {one.name: getattr(pipeline, one.name) for one in fields(_Settings)}
    for key in ("best", "others"):
        if not isinstance(raw[key], CompressionPlan):
            raise ConfigError(
                f"{key} takes a CompressionPlan, e.g. CompressionPlan(ptq=('int8',)), "
                f"got {raw[key]!r}"
            )
        raw[key] = asdict(raw[key])
    for model, search in pipeline.tune.items():
        if not isinstance(search, Tuning):
            raise ConfigError(f"tune takes a Tuning for each model, got {search!r} for {model!r}")
        _check_tuning(model, search)
    try:
        for model, gates in pipeline.model_gates.items():
            build_settings(GateSettings, gates, f"model_gates.{model}.")
        return _checked(build_settings(_Settings, raw, ""))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _checked(found: _Settings) -> _Settings:
    """`found`, if its values are in range.

    Raises:
      ConfigError: names the key.
    """
    make_settings(asdict(found.images))
    for key in ("benchmark_runs", "serving_requests"):
        if getattr(found, key) < 1:
            raise ConfigError(f"{key} must be at least 1, got {getattr(found, key)}")
    for key, plan in (("best", found.best), ("others", found.others)):
        wrong = [one for one in plan.ptq if one not in _PTQ]
        if wrong:
            raise ConfigError(
                f"{key}.ptq: unknown dtype {wrong[0]!r}; {nearest(wrong[0], list(_PTQ))}"
            )
    return found


def _replaced(pipeline: PipelineConfig, found: _Settings) -> PipelineConfig:
    sections = ("gates", "images", "statistics")
    # A request is stored as JSON, which has no tuples.
    plain: dict[str, Any] = {
        key: {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(getattr(found, key)).items()
        }
        for key in sections
    }
    rest = {one.name: getattr(found, one.name) for one in fields(found)}
    return replace(pipeline, **{**rest, **plain})


def _for_all(pipeline: PipelineConfig, assignments: list[str]) -> PipelineConfig:
    """`pipeline` without the gates of single models that `assignments` set for all models."""
    keys = [assignment.partition("=")[0].strip() for assignment in assignments]
    given = {key.partition(".")[2] for key in keys if key.startswith("gates.")}
    own = {
        model: {field: value for field, value in gates.items() if field not in given}
        for model, gates in pipeline.model_gates.items()
    }
    return replace(pipeline, model_gates=own)


def _check_section(section: str, assignment: str) -> None:
    """Raises ConfigError unless an assignment is for a known section or for one experiment."""
    known = [*_SECTIONS, *(one.name for one in fields(Config))]
    key = assignment.partition("=")[0].strip()
    if "=" in assignment and ":" not in key and section not in known:
        raise ConfigError(
            f"unknown config key {key!r}: no section {section!r}; {nearest(section, known)}"
        )


def _tuned(pipeline: PipelineConfig, assignments: list[str]) -> PipelineConfig:
    """`pipeline` with `tune.*` assignments applied."""
    tune = dict(pipeline.tune)
    for assignment in assignments:
        key, separator, value = (part.strip() for part in assignment.partition("="))
        found = _TUNE_KEY.fullmatch(key)
        if not (found and separator):
            raise ConfigError(
                f"{assignment!r}: the keys of a search are tune.<model>.trials=5, "
                "tune.<model>.epochs=3 and tune.<model>.space.<key>=log(1e-4, 1e-1)"
            )
        search = tune.get(found["model"], Tuning(space={}))
        if found["key"]:
            search = replace(search, space={**search.space, found["key"]: value})
        else:
            search = override(search, [f"{found['field']}={value}"])
        tune[found["model"]] = search
    for model, search in tune.items():
        _check_tuning(model, search)
    return replace(pipeline, tune=tune)


def _check_tuning(model: str, search: Tuning) -> None:
    if not search.space:
        raise ConfigError(
            f"tune.{model} has no space; set one, e.g. "
            f"tune.{model}.space.optim.learning_rate=log(1e-4, 1e-1)"
        )
    if search.trials < 1 or search.epochs < 0:
        raise ConfigError(
            f"tune.{model} needs at least 1 trial and 0 (the recipe's epochs) or more epochs, got "
            f"{search.trials} and {search.epochs}"
        )
