"""Which versions of which models are loaded: policies, states, hot load, no gap in service.

A version is AVAILABLE before the one it replaces is unloaded. A version that fails to load leaves
the old one serving, is tried again, and its error is what the status says.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from serving.saved_model import EngineError
from serving.server.batching import BatchingOptions
from serving.server.engines import DEFAULT_OPTIONS, Engine, EngineOptions, load_engine, version_dirs
from serving.server.errors import ServingError, invalid

_LOG = logging.getLogger(__name__)


class State(IntEnum):
    """Of a version, numbered as in `tensorflow.serving.ModelVersionStatus`."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are served.

    Attributes:
      kind: `latest`, `all` or `specific`.
      num_versions: how many of the newest, for `latest`.
      versions: which, for `specific`.
    """

    kind: str = "latest"
    num_versions: int = 1
    versions: tuple[int, ...] = ()

    def choose(self, on_disk: Collection[int]) -> list[int]:
        """The versions to serve, ascending."""
        if self.kind == "all":
            return sorted(on_disk)
        if self.kind == "specific":
            return sorted(set(self.versions) & set(on_disk))
        return sorted(on_disk)[-self.num_versions :]


@dataclass(frozen=True)
class ModelConfig:
    """A model to serve.

    Attributes:
      base_path: the folder that holds its numbered versions.
      labels: label -> version, e.g. `{"stable": 3}`.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class VersionStatus:
    """What `GetModelStatus` says of a version; `error_code` is a gRPC status name."""

    version: int
    state: State
    error_code: str = "OK"
    error_message: str = ""


class Servable:
    """A loaded version. It is freed when it is retired and the last request has left it.

    Attributes:
      batching: how its requests share runs; None when each runs by itself.
    """

    def __init__(
        self, name: str, version: int, engine: Engine, batching: BatchingOptions | None = None
    ) -> None:
        self.name = name
        self.version = version
        self.engine = engine
        self.batching = batching
        self._users = 0
        self._retired = False
        self._lock = threading.Lock()

    def retire(self) -> None:
        """Frees the model, now or after its last request."""
        with self._lock:
            self._retired = True
            idle = self._users == 0
        if idle:
            self.engine.close()

    def enter(self) -> bool:
        """Counts a request in; False when the version is gone."""
        with self._lock:
            if self._retired:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        """Counts a request out."""
        with self._lock:
            self._users -= 1
            last = self._retired and self._users == 0
        if last:
            self.engine.close()


@dataclass
class _Record:
    status: VersionStatus
    servable: Servable | None = None
    failures: int = 0
    retry_at: float = 0.0


Prepare = Callable[[str, Path, Engine], None]


class ModelManager:
    """The loaded models. `sync` is the only writer and runs in one thread at a time."""

    def __init__(
        self,
        source: Callable[[], Sequence[ModelConfig]],
        *,
        engines: EngineOptions = DEFAULT_OPTIONS,
        batching: Callable[[Path], BatchingOptions | None] | None = None,
        prepare: Prepare | None = None,
        load_threads: int = 1,
        max_retries: int = 5,
        retry_seconds: float = 60.0,
        versions_always_present: bool = False,
        labels_for_unavailable: bool = False,
    ) -> None:
        """Nothing is loaded before `sync`.

        Args:
          source: says what to serve, asked at every `sync`.
          engines: how versions are loaded.
          batching: version folder -> how its requests share runs; what it raises makes the load
            fail. None runs every request by itself.
          prepare: runs on (name, version folder, engine) before a version is AVAILABLE, e.g. its
            warm-up; what it raises makes the load fail.
          load_threads: models that load at a time; the versions of one load one after the other.
          max_retries: of a version that failed to load.
          retry_seconds: between two tries.
          versions_always_present: keep what is loaded when the last version leaves the disk.
          labels_for_unavailable: let a new label name a version that is not loaded; moving one
            that exists to such a version is refused all the same.
        """
        self._source = source
        self._engines = engines
        self._batching = batching
        self._prepare = prepare
        self._load_threads = max(1, load_threads)
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        self._versions_always_present = versions_always_present
        self._labels_for_unavailable = labels_for_unavailable
        self._configs: dict[str, ModelConfig] = {}
        self._records: dict[str, dict[int, _Record]] = {}
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()

    def sync(self) -> None:
        """One look at the disk: loads what is new, then unloads what is no longer wanted.

        Raises:
          ServingError: the source names a model twice, or labels a version that is not served.
        """
        with self._sync_lock:
            configs = self._source()
            names = [config.name for config in configs]
            for name in names:
                if names.count(name) > 1:
                    raise invalid(f"Illegal to list model {name} multiple times in config list")
            wanted = self._load_all(configs)
            for config in configs:
                self._check_labels(config)
            with self._lock:
                self._configs = {config.name: config for config in configs}
            # Only now: until then the labels named the old versions.
            for name, versions in zip(names, wanted, strict=True):
                self._unload_replaced(name, versions)
            for name in list(self._records):
                if name not in names:
                    self._unload_except(name, [])

    def _load_all(self, configs: Sequence[ModelConfig]) -> list[Sequence[int]]:
        """The versions that each model is to have, of which those that could be were loaded."""
        if self._load_threads == 1 or len(configs) == 1:
            return [self._load_wanted(config) for config in configs]
        with ThreadPoolExecutor(self._load_threads, "load") as pool:
            return list(pool.map(self._load_wanted, configs))

    def _load_wanted(self, config: ModelConfig) -> Sequence[int]:
        on_disk = version_dirs(config.base_path, self._engines)
        wanted = config.policy.choose(on_disk)
        records = self._records.setdefault(config.name, {})
        for version in wanted:
            if self._is_due(records.get(version)):
                self._load(config.name, version, on_disk[version])
        return wanted

    def _unload_replaced(self, name: str, wanted: Sequence[int]) -> None:
        """Unloads all versions but `wanted`, unless none of those is there to take their place."""
        records = self._records[name]
        available = [v for v in wanted if records[v].servable is not None]
        if available or not (wanted or self._versions_always_present):
            self._unload_except(name, wanted)

    def _is_due(self, record: _Record | None) -> bool:
        if record is None:
            return True
        if record.servable is not None:
            return False
        tries_left = record.failures <= self._max_retries
        return record.failures == 0 or (tries_left and time.monotonic() >= record.retry_at)

    def _load(self, name: str, version: int, path: Path) -> None:
        records = self._records[name]
        failures = records[version].failures if version in records else 0
        self._put(name, version, _Record(VersionStatus(version, State.LOADING)))
        try:
            batching = self._batching(path) if self._batching else None
            engine = load_engine(name, path, self._engines)
            try:
                if self._prepare is not None:
                    self._prepare(name, path, engine)
            except BaseException:
                engine.close()
                raise
        except Exception as error:
            # Whatever is wrong with this version, the others are still to be served.
            code = error.code if isinstance(error, (EngineError, ServingError)) else "UNKNOWN"
            _LOG.error("model %s version %d does not load: %s", name, version, error)
            status = VersionStatus(version, State.END, code, str(error))
            retry_at = time.monotonic() + self._retry_seconds
            self._put(name, version, _Record(status, None, failures + 1, retry_at))
            return
        status = VersionStatus(version, State.AVAILABLE)
        self._put(name, version, _Record(status, Servable(name, version, engine, batching)))
        _LOG.info("model %s version %d is available", name, version)

    def _unload_except(self, name: str, wanted: Sequence[int]) -> None:
        for version, record in list(self._records[name].items()):
            if version not in wanted and record.servable is not None:
                self._put(name, version, _Record(VersionStatus(version, State.END)))
                record.servable.retire()
                _LOG.info("model %s version %d is unloaded", name, version)

    def _check_labels(self, config: ModelConfig) -> None:
        records = self._records[config.name]
        before = self._configs[config.name].labels if config.name in self._configs else {}
        for label, version in config.labels.items():
            if self._labels_for_unavailable and label not in before:
                continue
            if version not in records or records[version].servable is None:
                raise ServingError(
                    "FAILED_PRECONDITION",
                    f"Request to assign label to version {version} of model {config.name}, which "
                    "is not currently available for inference",
                )

    def _put(self, name: str, version: int, record: _Record) -> None:
        with self._lock:
            self._records[name][version] = record

    @contextlib.contextmanager
    def use(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[Servable]:
        """The version that a request means, kept loaded for as long as the context lasts.

        Raises:
          ServingError: no such model, version or label.
        """
        while True:
            servable = self._find(name, version, label)
            if servable.enter():
                break
        try:
            yield servable
        finally:
            servable.leave()

    def _find(self, name: str, version: int | None, label: str | None) -> Servable:
        with self._lock:
            if label:
                labels = self._configs[name].labels if name in self._configs else {}
                if label not in labels:
                    raise invalid(f"Unrecognized servable version label: {label}")
                version = labels[label]
            records = self._records.get(name, {})
            loaded = [v for v, record in records.items() if record.servable is not None]
            wanted = max(loaded, default=None) if version is None else version
            servable = records[wanted].servable if wanted in loaded else None
        if servable is None:
            spec = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServingError("NOT_FOUND", f"Servable not found for request: {spec}")
        return servable

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """What is known of a model's versions, newest first.

        Raises:
          ServingError: no such model or version.
        """
        with self._lock:
            records = dict(self._records.get(name, {}))
        if not records:
            raise ServingError("NOT_FOUND", f"Could not find any versions of model {name}")
        if version is not None:
            if version not in records:
                raise ServingError("NOT_FOUND", f"Could not find version {version} of model {name}")
            return [records[version].status]
        return [records[v].status for v in sorted(records, reverse=True)]

    def knows(self, name: str) -> bool:
        """Whether a model of that name is, or was, served."""
        return name in self._records

    def available(self) -> dict[str, list[int]]:
        """Model name -> versions being served, ascending."""
        with self._lock:
            return {
                name: sorted(v for v, record in records.items() if record.servable is not None)
                for name, records in self._records.items()
            }

    def close(self) -> None:
        """Unloads everything."""
        with self._sync_lock:
            for name in list(self._records):
                self._unload_except(name, [])
