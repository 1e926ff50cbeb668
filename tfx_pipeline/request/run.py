"""One run: its configuration, its folders, and the digest of everything that decides its result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfx_pipeline.config import CompressionPlan, PipelineConfig, SmokeSize, Tuning
from trainers.config import Config, from_dict, to_dict
from trainers.data.digest import data_digest
from trainers.data.features import DatasetInfo
from trainers.identity.code_digest import code_digest
from trainers.identity.file_index import INDEX_FILE, FileIndex
from trainers.identity.stack import stack

# The module that a run executes; a change in it or its imports makes a new run necessary.
_RUNNER = "tfx_pipeline.runners.local"
_PLANS = ("best", "others")


@dataclass(frozen=True)
class Layout:
    """The folders and files of a pipeline's runs, under one root."""

    root: Path
    pipeline: str

    @property
    def home(self) -> Path:
        """The folder of the pipeline's runs, without the bundles."""
        return self.root / "runs" / self.pipeline

    @property
    def metadata(self) -> Path:
        """The ML Metadata store."""
        return self.home / "mlmd.sqlite"

    @property
    def artifacts(self) -> Path:
        """The pipeline root of TFX."""
        return self.home / "artifacts"

    @property
    def checkpoints(self) -> Path:
        """Training state, outside the artifacts, so that a killed training can resume."""
        return self.home / "checkpoints"

    @property
    def bundles(self) -> Path:
        """The folder that models are pushed to."""
        return self.root / "bundles"

    @property
    def index(self) -> Path:
        """The cache of digests of data and code files."""
        return self.home / INDEX_FILE

    @property
    def lock(self) -> Path:
        """The lock of the run in progress."""
        return self.home / "lock"

    def logs(self, run: str) -> Path:
        """Full logs of one run."""
        return self.home / "logs" / run

    def report(self, run: str) -> Path:
        """Summary and report of one run; `latest` links to the newest."""
        return self.home / "reports" / run


@dataclass(frozen=True)
class RunRequest:
    """One run; the command line passes it to the runner as JSON.

    Attributes:
      run: the run's name, a time stamp.
      pipeline: what to run.
      experiments: model name -> its whole configuration.
      data: folder of the records.
      root: root of the `Layout`.
      start: id prefix of the first node that ignores the cache, as do all nodes after it; empty
        for none.
      force: ignore the cache.
      resume_anyway: resume training from a state that other code saved.
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
        """The folders of this run."""
        return Layout(Path(self.root), self.pipeline.name)

    def key(self, state: Mapping[str, Any]) -> str:
        """sha256 hex of everything that decides the result: the request and `run_state`."""
        parts = {
            # `state` has the digest of the data, whatever folder they are in.
            "pipeline": {**asdict(self.pipeline), "data": ""},
            "experiments": {name: to_dict(config) for name, config in self.experiments.items()},
            **state,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run_state(request: RunRequest, info: DatasetInfo) -> dict[str, Any]:
    """Digests of what decides a run's result besides the request: data, code, installed versions.

    Call it before a run begins, so that the next run notices what changes during this one.

    Raises:
      OSError: a record file cannot be read.
    """
    with FileIndex(request.layout.index).open() as index:
        return {
            "data": data_digest(Path(request.data), info, index),
            "code": code_digest(_RUNNER, index=index),
            "stack": stack(),
        }


def request_to_json(request: RunRequest) -> str:
    """`request` as JSON for the process of the runner."""
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


def _plans_from(raw: dict[str, Any]) -> dict[str, CompressionPlan]:
    return {key: CompressionPlan(**{k: tuple(v) for k, v in raw[key].items()}) for key in _PLANS}
