"""What a pipeline is, and where a run keeps its files. Standard library only."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainers.config import Config, ConfigError, from_dict, override, to_dict
from trainers.config_rules import validate
from trainers.data.features import DatasetInfo
from trainers.identity.code_digest import code_digest
from trainers.identity.data import data_digest
from trainers.identity.file_index import INDEX_FILE, FileIndex
from trainers.identity.stack import stack
from trainers.registry import Registry, recipes

# What a run executes, down to the summary; a change anywhere in it makes a run necessary.
_RUNNER = "tfx_pipeline.runners.local"
_PLANS = ("best", "others")


@dataclass(frozen=True)
class Plan:
    """Compression of one architecture: registered methods, and post-training dtypes."""

    methods: tuple[str, ...] = ()
    ptq: tuple[str, ...] = ("dynamic",)


@dataclass(frozen=True)
class Tuning:
    """A search before training, see `trainers.search.tuner`.

    Attributes:
      space: configuration key -> where its values come from, e.g. `log(1e-4, 1e-1)`.
      trials: how many runs of the search.
      epochs: of a trial; 0 is as many as the recipe has.
    """

    space: dict[str, str]
    trials: int = 5
    epochs: int = 0


@dataclass(frozen=True)
class SmokeSize:
    """A size at which two cores run a pipeline in a few minutes; see `tfx_pipeline.smoke_size`.

    Attributes:
      overrides: `key=value` for all experiments or `recipe:key=value` for one, applied before those
        of the command line.
      images: split -> how many of its images a run takes; a split that is not named is taken whole.
      classes: a run takes this many classes, the first by label, where they have enough images; 0
        takes all.
      gates: in place of the pipeline's.
      validator: in place of the pipeline's `images`.
      statistics: in place of the pipeline's.
      best: in place of the pipeline's.
      others: likewise.
      benchmark_runs: likewise.
      serving_requests: likewise.
    """

    overrides: tuple[str, ...] = ()
    images: dict[str, int] = field(default_factory=dict)
    classes: int = 0
    gates: dict[str, Any] = field(default_factory=dict)
    validator: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    best: Plan = Plan()
    others: Plan = Plan()
    benchmark_runs: int = 20
    serving_requests: int = 4


@dataclass(frozen=True)
class PipelineConfig:
    """One pipeline.

    Attributes:
      name: the registered name; also the folder under `runs/`.
      experiments: recipe names; each becomes a bundle if its gates pass.
      data: the folder of the records, relative to the pipeline's file, that `--data` overrides.
      slices: feature keys that the records must have to slice evaluation by. It is also sliced by
        the class and by every other key that the data set declares.
      gates: fields of `components.gates.GateSettings`.
      model_gates: model name -> fields of `gates` that are different for it.
      images: fields of `components.data_validation.anomaly.ValidatorSettings`: limits of the image
      validator.
      statistics: fields of `components.data_validation.statistics_settings.StatisticsSettings`:
      drift and skew.
      best: compression of the best architecture by validation.
      others: compression of the rest.
      benchmark_runs: timed calls of each variant.
      serving_requests: images sent to the server before a model may ship.
      tune: model name -> the search whose best values it is trained with; most have none.
      smoke: the size of `sightline run --smoke`; None where the pipeline has none.
    """

    name: str
    experiments: tuple[str, ...]
    data: str = ""
    slices: tuple[str, ...] = ("slice/brightness", "slice/contrast")
    gates: dict[str, Any] = field(default_factory=dict)
    model_gates: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    best: Plan = Plan()
    others: Plan = Plan()
    benchmark_runs: int = 200
    serving_requests: int = 8
    tune: dict[str, Tuning] = field(default_factory=dict)
    smoke: SmokeSize | None = None

    def gates_of(self, model: str) -> dict[str, Any]:
        """The gate settings of one model."""
        return {**self.gates, **self.model_gates.get(model, {})}


#: Functions without arguments that return a `PipelineConfig`, one file each.
pipelines: Registry[Callable[[], PipelineConfig]] = Registry("pipeline", "tfx_pipeline.pipelines")


@dataclass(frozen=True)
class Layout:
    """Where a pipeline's runs live, under one root."""

    root: Path
    pipeline: str

    @property
    def home(self) -> Path:
        """Everything but the bundles."""
        return self.root / "runs" / self.pipeline

    @property
    def metadata(self) -> Path:
        """The ML Metadata store."""
        return self.home / "mlmd.sqlite"

    @property
    def artifacts(self) -> Path:
        """TFX's pipeline root."""
        return self.home / "artifacts"

    @property
    def checkpoints(self) -> Path:
        """Training state, outside the artifacts, so that a killed training goes on."""
        return self.home / "checkpoints"

    @property
    def bundles(self) -> Path:
        """Where models are pushed."""
        return self.root / "bundles"

    @property
    def index(self) -> Path:
        """Digests of data and code files, which are read again only when they change."""
        return self.home / INDEX_FILE

    @property
    def lock(self) -> Path:
        """Held by the run that is under way."""
        return self.home / "lock"

    def logs(self, run: str) -> Path:
        """Full logs of one run."""
        return self.home / "logs" / run

    def report(self, run: str) -> Path:
        """Summary and report of one run; `latest` links to the newest."""
        return self.home / "reports" / run


@dataclass(frozen=True)
class RunRequest:
    """What one run is asked to do; travels as JSON from the command line to the runner.

    Attributes:
      run: the run's name, a time stamp.
      pipeline: what to run.
      experiments: model name -> the whole configuration.
      data: folder of the records.
      root: of the `Layout`.
      start: id prefix of the node from which on nothing is taken from the cache; empty is none.
      force: take nothing from the cache.
      resume_anyway: training resumes a state that other code made; decides no result by itself.
    """

    run: str
    pipeline: PipelineConfig
    experiments: dict[str, Config]
    data: str
    root: str
    start: str = ""
    force: bool = False
    resume_anyway: bool = False

    @property
    def layout(self) -> Layout:
        """Where this run keeps its files."""
        return Layout(Path(self.root), self.pipeline.name)

    def key(self, state: Mapping[str, Any]) -> str:
        """What decides the result, as one sha256: the request and `run_state`."""
        parts = {
            # Data count by their content, in `state`.
            "pipeline": {**asdict(self.pipeline), "data": ""},
            "experiments": {name: to_dict(config) for name, config in self.experiments.items()},
            **state,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run_state(request: RunRequest, info: DatasetInfo) -> dict[str, Any]:
    """What decides a run's result besides the request: data, code and installed versions.

    Take it before a run begins: what changes while it runs is then seen by the next one.

    Raises:
      OSError: a record file cannot be read.
    """
    with FileIndex(request.layout.index).open() as index:
        return {
            "data": data_digest(Path(request.data), info, index),
            "code": code_digest(_RUNNER, index=index),
            "stack": stack(),
        }


def default_data(pipeline: PipelineConfig) -> str:
    """The folder of records that the pipeline's first recipe reads.

    Raises:
      ConfigError, UnknownNameError: no recipe, or one that does not exist; the nearest are named.
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
      ConfigError, UnknownNameError: a recipe or a key that does not exist (the nearest are named),
        a value of a wrong type or range, or two experiments of one name.
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
                raise ConfigError(f"{assignment!r}: {pipeline.name} has no {target!r}, but {known}")
        config = validate(override(checked_recipe(name), mine))
        if config.name in found:
            raise _same_name(pipeline, config.name, (made_by[config.name], name), overrides)
        found[config.name], made_by[config.name] = config, name
    for name in pipeline.tune:
        if name not in found:
            raise ConfigError(
                f"{pipeline.name} tunes {name!r}, which it has not; {', '.join(found)}"
            )
    return found


def _same_name(
    pipeline: PipelineConfig, name: str, made_by: tuple[str, str], overrides: tuple[str, ...]
) -> ConfigError:
    """Of two experiments with one name, whose second model would take the place of the first."""
    first, second = made_by
    shared = any(one.partition("=")[0].strip() == "name" for one in overrides)
    example = f"{first}:name={name}" if shared else f"{second}:name={name}_2"
    return ConfigError(
        f"{pipeline.name} has two experiments called {name!r}, of the recipes {first} and "
        f"{second}, and each becomes a bundle of its own name; name one of them, e.g. {example}"
    )


def checked_recipe(recipe: str) -> Config:
    """A recipe's configuration, with the types of its values checked: a user may have written it.

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


def request_to_json(request: RunRequest) -> str:
    """`request` as the runner's process reads it."""
    return json.dumps(
        {**asdict(request), "experiments": {k: to_dict(v) for k, v in request.experiments.items()}}
    )


def request_from_json(text: str) -> RunRequest:
    """The inverse of `request_to_json`."""
    raw = json.loads(text)
    shape = raw["pipeline"]
    pipeline = PipelineConfig(
        **{
            **shape,
            "experiments": tuple(shape["experiments"]),
            "slices": tuple(shape["slices"]),
            "tune": {name: Tuning(**search) for name, search in shape["tune"].items()},
            "smoke": _smoke_from(shape["smoke"]),
            **_plans_from(shape),
        }
    )
    experiments = {name: from_dict(config) for name, config in raw["experiments"].items()}
    return RunRequest(**{**raw, "pipeline": pipeline, "experiments": experiments})


def _smoke_from(raw: dict[str, Any] | None) -> SmokeSize | None:
    if raw is None:
        return None
    return SmokeSize(**{**raw, "overrides": tuple(raw["overrides"]), **_plans_from(raw)})


def _plans_from(raw: dict[str, Any]) -> dict[str, Plan]:
    return {key: Plan(**{k: tuple(v) for k, v in raw[key].items()}) for key in _PLANS}
