"""What a pipeline is: experiments, gates and compression. Loads the standard library only."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.config import Config, ConfigError, from_dict, override, to_dict
from trainers.config_rules import validate
from trainers.data.features import DatasetInfo
from trainers.registry import Registry, nearest, recipes


@dataclass(frozen=True)
class CompressionPlan:
    """Compression of one architecture.

    Attributes:
      methods: registered compression methods, e.g. `prune`.
      ptq: dtypes of post-training quantization, `dynamic` or `int8`.
    """

    methods: tuple[str, ...] = ()
    ptq: tuple[str, ...] = ("dynamic",)


@dataclass(frozen=True)
class Tuning:
    """A search before training, see `trainers.search.tuner`.

    Attributes:
      space: configuration key -> the distribution of its values, e.g. `log(1e-4, 1e-1)`.
      trials: number of trials.
      epochs: epochs of a trial; 0 means as many as the recipe has.
    """

    space: dict[str, str]
    trials: int = 5
    epochs: int = 0


@dataclass(frozen=True)
class SmokeSize:
    """A size at which two cores run a pipeline in a few minutes; see `tfx_pipeline.request.smoke`.

    Attributes:
      overrides: `key=value` for all experiments or `recipe:key=value` for one, applied before the
        overrides of the command line.
      images: split -> number of images that a run uses; other splits are used whole.
      classes: number of classes, the first ones by label, where they have enough images; 0 means
        all.
      gates: replaces `gates` of the pipeline.
      validator: replaces `images` of the pipeline.
      statistics: replaces `statistics`.
      best: replaces `best`.
      others: replaces `others`.
      benchmark_runs: replaces `benchmark_runs`.
      serving_requests: replaces `serving_requests`.
    """

    overrides: tuple[str, ...] = ()
    images: dict[str, int] = field(default_factory=dict)
    classes: int = 0
    gates: dict[str, Any] = field(default_factory=dict)
    validator: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    best: CompressionPlan = CompressionPlan()
    others: CompressionPlan = CompressionPlan()
    benchmark_runs: int = 20
    serving_requests: int = 4


@dataclass(frozen=True)
class PipelineConfig:
    """One pipeline.

    Attributes:
      name: the registered name; also the folder under `runs/`.
      experiments: recipe names; each becomes a bundle if it passes its gates.
      data: the folder of the records, relative to the pipeline's file; `--data` overrides it.
      slices: feature keys to slice the evaluation by, which the records must have. The class and
        all other slice keys of the data set are added.
      gates: fields of `components.gates.GateSettings`.
      model_gates: model name -> fields of `gates` that differ for this model.
      images: limits of the image validator, fields of
        `components.data_validation.anomaly.ValidatorSettings`.
      statistics: limits of drift and skew, fields of
        `components.data_validation.statistics_settings.StatisticsSettings`.
      best: compression of the architecture that is best on the validation split.
      others: compression of the other architectures.
      benchmark_runs: timed calls of each variant.
      serving_requests: images sent to the server before a model may be pushed.
      tune: model name -> a search whose best values the model is trained with.
      smoke: the size for `sightline run --smoke`; None if the pipeline has none.
    """

    name: str
    experiments: tuple[str, ...]
    data: str = ""
    slices: tuple[str, ...] = ("slice/brightness", "slice/contrast")
    gates: dict[str, Any] = field(default_factory=dict)
    model_gates: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    best: CompressionPlan = CompressionPlan()
    others: CompressionPlan = CompressionPlan()
    benchmark_runs: int = 200
    serving_requests: int = 8
    tune: dict[str, Tuning] = field(default_factory=dict)
    smoke: SmokeSize | None = None

    def gates_of(self, model: str) -> dict[str, Any]:
        """The gate settings of one model."""
        return {**self.gates, **self.model_gates.get(model, {})}


#: Functions without arguments that return a `PipelineConfig`, one file each.
pipelines: Registry[Callable[[], PipelineConfig]] = Registry("pipeline", "tfx_pipeline.pipelines")


def __getattr__(name: str) -> Any:
    """The former name of `CompressionPlan`, which projects of earlier versions import."""
    if name != "Plan":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "tfx_pipeline.config.Plan is called CompressionPlan now; the old name will be removed in "
        "the next release",
        FutureWarning,
        stacklevel=2,
    )
    return CompressionPlan


def slice_keys(pipeline: PipelineConfig, info: DatasetInfo) -> tuple[str, ...]:
    """The `slice/*` keys that TFMA slices by, one at a time: the pipeline's, then the data set's.

    Raises:
      ConfigError: the pipeline names a key that the records do not have.
    """
    for key in pipeline.slices:
        if key not in info.slices:
            raise ConfigError(
                f"the pipeline {pipeline.name} slices by {key!r}, which the data set {info.name!r} "
                f"does not have; {nearest(key, list(info.slices))}. `sightline ingest csv ... "
                "slices=COLUMN` records slice/COLUMN"
            )
    return tuple(dict.fromkeys((*pipeline.slices, *info.slices)))


def default_data(pipeline: PipelineConfig) -> str:
    """The folder of records that the pipeline's first recipe reads.

    Raises:
      ConfigError: the pipeline has no recipe.
      UnknownNameError: the recipe does not exist; names the nearest ones.
    """
    _check_experiments(pipeline)
    return checked_recipe(pipeline.experiments[0]).data.dir


def _check_experiments(pipeline: PipelineConfig) -> None:
    if not pipeline.experiments:
        raise ConfigError(f"the pipeline {pipeline.name!r} has no experiments; name a recipe")


def make_experiments(
    pipeline: PipelineConfig, data: Path, overrides: tuple[str, ...] = ()
) -> dict[str, Config]:
    """Model name -> configuration of every experiment, reading `data`.

    Args:
      pipeline: names the recipes.
      data: folder of the records.
      overrides: `key=value` for all, or `recipe:key=value` for one.

    Raises:
      UnknownNameError: a recipe does not exist; names the nearest ones.
      ConfigError: an unknown key, a value of a wrong type or range, or two experiments with one
        name.
    """
    _check_experiments(pipeline)
    found: dict[str, Config] = {}
    made_by: dict[str, str] = {}
    for name in pipeline.experiments:
        mine = [f"data.dir={data}"]
        for assignment in overrides:
            target, separator, rest = assignment.partition(":")
            if not separator or "=" in target:
                mine.append(assignment)
            elif target == name:
                mine.append(rest)
            elif target not in pipeline.experiments:
                known = ", ".join(pipeline.experiments)
                raise ConfigError(
                    f"{assignment!r}: {pipeline.name} has no experiment {target!r} (known: {known})"
                )
        config = validate(override(checked_recipe(name), mine))
        if config.name in found:
            raise _same_name(pipeline, config.name, (made_by[config.name], name), overrides)
        found[config.name], made_by[config.name] = config, name
    for name in pipeline.tune:
        if name not in found:
            raise ConfigError(
                f"{pipeline.name} tunes {name!r}, but has no such model (known: {', '.join(found)})"
            )
    return found


def _same_name(
    pipeline: PipelineConfig, name: str, made_by: tuple[str, str], overrides: tuple[str, ...]
) -> ConfigError:
    """The error about two experiments with one name: the second model would replace the first."""
    first, second = made_by
    shared = any(one.partition("=")[0].strip() == "name" for one in overrides)
    example = f"{first}:name={name}" if shared else f"{second}:name={name}_2"
    return ConfigError(
        f"{pipeline.name} has two experiments named {name!r}, from the recipes {first} and "
        f"{second}; each needs a different bundle name: rename one, e.g. {example}"
    )


def checked_recipe(recipe: str) -> Config:
    """The configuration of a recipe, with the types of its values checked.

    Raises:
      ConfigError: a wrong type; names the recipe and the key.
    """
    config = recipes.get(recipe)()
    if not isinstance(config, Config):
        raise ConfigError(f"the recipe {recipe!r} must return a Config, got {config!r}")
    try:
        return from_dict(to_dict(config))
    except ConfigError as error:
        raise ConfigError(f"the recipe {recipe!r}: {error}") from error
