"""What a pipeline is, and where a run keeps its files. Standard library only."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainers.config import Config, ConfigError, from_dict, override, to_dict
from trainers.registry import Registry, recipes

# Code whose change makes a node run again: its own room and what that room imports.
_TRAINING = ("trainers", "serving/bundle.py")
_NOT_TRAINING = ("trainers/build.py", "trainers/export.py", "trainers/compress")
_ALL = ("trainers", "components", "serving")
_VALIDATION = (
    *("components/anomaly.py", "components/image_anomalies.py", "components/record_facts.py"),
    *("components/object_anomalies.py", "components/near_duplicates.py", "components/gallery.py"),
    *("components/drawing.py", "components/image_validator.py"),
    *("components/statistics_validator.py", "serving/image_header.py"),
    *("trainers/data/decode.py", "trainers/data/features.py"),
)
_PLANS = ("best", "others")


@dataclass(frozen=True)
class Plan:
    """Compression of one architecture: registered methods, and post-training dtypes."""

    methods: tuple[str, ...] = ()
    ptq: tuple[str, ...] = ("dynamic",)


@dataclass(frozen=True)
class Tuning:
    """A search before training, see `trainers.tuner`.

    Attributes:
      space: configuration key -> where its values come from, e.g. `log(1e-4, 1e-1)`.
      trials: how many runs of the search.
      epochs: of a trial; 0 is as many as the recipe has.
    """

    space: dict[str, str]
    trials: int = 5
    epochs: int = 0


@dataclass(frozen=True)
class PipelineConfig:
    """One pipeline.

    Attributes:
      name: the registered name; also the folder under `runs/`.
      experiments: recipe names; each becomes a bundle if its gates pass.
      slices: feature keys that evaluation slices by, besides the class.
      gates: fields of `components.gates.GateSettings`.
      images: fields of `components.anomaly.ValidatorSettings`: limits of the image validator.
      statistics: fields of `components.statistics_validator.StatisticsSettings`: drift and skew.
      best: compression of the best architecture by validation.
      others: compression of the rest.
      benchmark_runs: timed calls of each variant.
      serving_requests: images sent to the server before a model may ship.
      tune: model name -> the search whose best values it is trained with; most have none.
    """

    name: str
    experiments: tuple[str, ...]
    slices: tuple[str, ...] = ("slice/brightness", "slice/contrast")
    gates: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    best: Plan = Plan()
    others: Plan = Plan()
    benchmark_runs: int = 200
    serving_requests: int = 8
    tune: dict[str, Tuning] = field(default_factory=dict)


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
    """

    run: str
    pipeline: PipelineConfig
    experiments: dict[str, Config]
    data: str
    root: str
    start: str = ""
    force: bool = False

    @property
    def layout(self) -> Layout:
        """Where this run keeps its files."""
        return Layout(Path(self.root), self.pipeline.name)

    def key(self, fingerprint: str, stack: dict[str, str]) -> str:
        """What decides the result: configuration, data, code and stack, as one sha256."""
        parts = {
            "pipeline": asdict(self.pipeline),
            "experiments": {name: to_dict(config) for name, config in self.experiments.items()},
            "data": fingerprint,
            "code": code_digest(*_ALL, "tfx_pipeline"),
            "stack": stack,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def make_experiments(
    pipeline: PipelineConfig, data: Path, overrides: tuple[str, ...] = ()
) -> dict[str, Config]:
    """Model name -> configuration of every experiment, reading `data`.

    Args:
      pipeline: names the recipes.
      data: folder of the records.
      overrides: `key=value` for all, or `recipe:key=value` for one.

    Raises:
      ConfigError, UnknownNameError: a recipe or a key that does not exist; the nearest are named.
    """
    found: dict[str, Config] = {}
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
        config = override(recipes.get(name)(), mine)
        found[config.name] = config
    for name in pipeline.tune:
        if name not in found:
            raise ConfigError(
                f"{pipeline.name} tunes {name!r}, which it has not; {', '.join(found)}"
            )
    return found


def code_digest(*rooms: str, without: tuple[str, ...] = ()) -> str:
    """First 16 hex digits of the sha256 over the Python sources of `rooms`.

    TFX's cache knows our components by name only; this is how it learns that their code changed.

    Args:
      rooms: files or folders below the checkout.
      without: files or folders that do not count.
    """
    top = Path(__file__).resolve().parent.parent
    skipped = tuple(str(top / name) for name in without)
    digest = hashlib.sha256()
    for room in rooms:
        path = top / room
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if not str(file).startswith(skipped) or not skipped:
                digest.update(f"{file.relative_to(top)}{os.sep}".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def training_digest() -> str:
    """Digest of the code that decides a trained model."""
    return code_digest(*_TRAINING, without=_NOT_TRAINING)


def validation_digest() -> str:
    """Digest of the code that decides what is wrong with the data."""
    return code_digest(*_VALIDATION)


def component_digest() -> str:
    """Digest of the code that decides everything after training."""
    return code_digest(*_ALL)


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
            **{key: Plan(**{k: tuple(v) for k, v in shape[key].items()}) for key in _PLANS},
        }
    )
    experiments = {name: from_dict(config) for name, config in raw["experiments"].items()}
    return RunRequest(**{**raw, "pipeline": pipeline, "experiments": experiments})


def data_state(data: Path, fingerprint: str) -> str:
    """The data set's fingerprint with the sizes of its shards, so that a cut file is noticed."""
    files = sorted(data.glob("Split-*/*"))
    sizes = ",".join(f"{file.parent.name}/{file.name}:{file.stat().st_size}" for file in files)
    return f"{fingerprint}-{hashlib.sha256(sizes.encode()).hexdigest()[:8]}"
