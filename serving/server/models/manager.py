"""Which versions of which models are loaded: policies, states, hot load, no gap in service.

A version is AVAILABLE before the one it replaces is unloaded. A version that fails to load leaves
the old one serving, is tried again, and its error is what the status says. A folder that cannot be
read leaves what was loaded from it, and all other models, as they are.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from serving.engines.saved_model import EngineError
from serving.server.errors import ServingError, invalid
from serving.server.lifecycle.background import Background
from serving.server.models.config import ModelConfig, VersionPolicy, check_names
from serving.server.models.engines import (
    DEFAULT_OPTIONS,
    Engine,
    EngineOptions,
    load_engine,
    version_dirs,
)
from serving.server.models.servable import Record, Servable, State, VersionStatus, loaded
from serving.server.scheduling.batching import BatchingOptions

__all__ = ["ModelConfig", "ModelManager", "Servable", "State", "VersionPolicy", "VersionStatus"]

_LOG = logging.getLogger(__name__)


Prepare = Callable[[str, Path, Engine], None]
#: Model -> version -> what is known of it.
_Table = dict[str, dict[int, Record]]


@dataclass(frozen=True)
class _Look:
    """What a look at a model's folder says: the versions to have, or why it cannot be read."""

    wanted: Sequence[int] = ()
    problem: str = ""


#: No matter how many models there are, each has its lines.
_ALWAYS = {"lifecycle": True}


def _ignore(name: str, event: str) -> None:
    """Nobody counts."""


class ModelManager:
    """The loaded models. `sync` and `switch` alone change them, one at a time."""

    def __init__(
        self,
        source: Callable[[], Sequence[ModelConfig]],
        *,
        engines: EngineOptions = DEFAULT_OPTIONS,
        batching: Callable[[Path], BatchingOptions | None] | None = None,
        prepare: Prepare | None = None,
        on_event: Callable[[str, str], None] | None = None,
        background: Background | None = None,
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
          on_event: is called with a model's name and `loaded`, `failed` or `unloaded`.
          background: loads and frees them, and is closed with them; None does it all at once.
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
        self._on_event = on_event or _ignore
        self._background = background or Background()
        self._load_threads = max(1, load_threads)
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        self._versions_always_present = versions_always_present
        self._labels_for_unavailable = labels_for_unavailable
        self._configs: dict[str, ModelConfig] = {}
        self._records: _Table = {}
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()

    def sync(self) -> None:
        """One look at the disk: loads what is new, then unloads what is no longer wanted.

        Raises:
          ServingError: the source names a model twice, or labels a version that is not served.
          OSError: the source cannot say what to serve; what is loaded stays.
        """
        with self._sync_lock:
            configs = self._source()
            check_names(configs)
            looks = self._load_all(configs, self._records)
            self._check_labels(configs, looks, self._records)
            self._commit(configs, looks, self._records)

    def switch(self, configs: Sequence[ModelConfig]) -> None:
        """Serves other models if each of them can be; requests notice nothing until that is known.

        The source has to say the same from then on. What failed to load before is tried again:
        whoever asks may have mended it.

        Raises:
          ServingError: as `sync`, or no version of a model would be served; all stays as it was.
        """
        with self._sync_lock:
            check_names(configs)
            table = {
                name: {v: replace(record, failures=0) for v, record in records.items()}
                for name, records in self._records.items()
            }
            try:
                looks = self._load_all(configs, table)
                self._check_served(configs, looks, table)
                self._check_labels(configs, looks, table)
            except BaseException:
                self._drop(table)
                raise
            self._commit(configs, looks, table)

    def _load_all(self, configs: Sequence[ModelConfig], table: _Table) -> list[_Look]:
        """What the models are to have; of that, what could be loaded is in `table`."""
        if self._load_threads == 1 or len(configs) == 1:
            return [self._load_wanted(config, table) for config in configs]
        with ThreadPoolExecutor(self._load_threads, "load") as pool:
            return list(pool.map(lambda config: self._load_wanted(config, table), configs))

    def _load_wanted(self, config: ModelConfig, table: _Table) -> _Look:
        with self._lock:
            records = table.setdefault(config.name, {})
        problem, on_disk = "", {}
        try:
            on_disk = version_dirs(config.base_path, self._engines)
            if not config.base_path.is_dir():
                problem = f"{config.base_path} holds no version: there is no such folder"
        except OSError as error:
            problem = f"{config.base_path} cannot be read: {error.strerror or error}"
        if problem:
            if self._problems.get(config.name) != problem:
                _LOG.error("model %s: %s", config.name, problem)
            return _Look(problem=problem)
        wanted = config.policy.choose(on_disk)
        for version in wanted:
            if self._is_due(records.get(version)):
                self._load(config.name, version, on_disk[version], records)
        return _Look(wanted)

    def _commit(
        self, configs: Sequence[ModelConfig], looks: Sequence[_Look], table: _Table
    ) -> None:
        """From here on `configs` are served, from `table`; unloads the rest."""
        with self._lock:
            self._records = table
            self._configs = {config.name: config for config in configs}
            named = zip(self._configs, looks, strict=True)
            self._problems = {name: look.problem for name, look in named if look.problem}
        # Only now: until then the labels named the old versions.
        for config, look in zip(configs, looks, strict=True):
            self._unload_except(config.name, self._kept(table[config.name], look))
        for name in set(table) - set(self._configs):
            self._unload_except(name, [])

    def _drop(self, table: _Table) -> None:
        """Frees what was loaded for `table` alone."""
        for name, records in table.items():
            before = self._records.get(name, {})
            for version in loaded(records):
                servable = records[version].servable
                kept = before[version].servable if version in before else None
                if servable is not None and servable is not kept:
                    servable.retire()

    def _kept(self, records: Mapping[int, Record], look: _Look) -> list[int]:
        """The loaded versions that stay: the wanted, or all while none can take their place."""
        there = loaded(records)
        if look.problem:
            return there
        wanted = [version for version in look.wanted if version in there]
        if wanted or not (look.wanted or self._versions_always_present):
            return wanted
        return there

    def _is_due(self, record: Record | None) -> bool:
        if record is None:
            return True
        if record.servable is not None:
            return False
        tries_left = record.failures <= self._max_retries
        return record.failures == 0 or (tries_left and time.monotonic() >= record.retry_at)

    def _load(self, name: str, version: int, path: Path, records: dict[int, Record]) -> None:
        began = time.monotonic()
        failures = records[version].failures if version in records else 0
        self._put(records, Record(VersionStatus(version, State.LOADING)))
        try:
            batching = self._batching(path) if self._batching else None
            with self._background.loading():
                engine = self._load_and_prepare(name, path)
        except Exception as error:
            # Whatever is wrong with this version, the others are still to be served.
            code = error.code if isinstance(error, (EngineError, ServingError)) else "UNKNOWN"
            _LOG.error("model %s version %d does not load: %s", name, version, error, extra=_ALWAYS)
            self._on_event(name, "failed")
            status = VersionStatus(version, State.END, code, str(error))
            retry_at = time.monotonic() + self._retry_seconds
            self._put(records, Record(status, None, failures + 1, retry_at))
            return
        status = VersionStatus(version, State.AVAILABLE)
        servable = Servable(name, version, engine, batching, background=self._background)
        self._put(records, Record(status, servable))
        seconds = time.monotonic() - began
        _LOG.info(
            "model %s version %d is available (%.1f s)", name, version, seconds, extra=_ALWAYS
        )
        self._on_event(name, "loaded")

    def _load_and_prepare(self, name: str, path: Path) -> Engine:
        engine = load_engine(name, path, self._engines, build=self._background.build)
        try:
            if self._prepare is not None:
                self._prepare(name, path, engine)
        except BaseException:
            engine.close()
            raise
        return engine

    def _unload_except(self, name: str, wanted: Sequence[int]) -> None:
        records = self._records[name]
        for version in loaded(records):
            servable = records[version].servable
            if version not in wanted and servable is not None:
                self._put(records, Record(VersionStatus(version, State.UNLOADING)))
                servable.retire()
                self._put(records, Record(VersionStatus(version, State.END)))
                _LOG.info("model %s version %d is unloaded", name, version, extra=_ALWAYS)
                self._on_event(name, "unloaded")

    def _check_served(
        self, configs: Sequence[ModelConfig], looks: Sequence[_Look], table: _Table
    ) -> None:
        for config, look in zip(configs, looks, strict=True):
            records = table[config.name]
            if look.problem or not self._kept(records, look):
                failed = {version: records[version] for version in look.wanted}
                reason = _why_not_served(config, failed, look.problem)
                raise ServingError("FAILED_PRECONDITION", reason)

    def _check_labels(
        self, configs: Sequence[ModelConfig], looks: Sequence[_Look], table: _Table
    ) -> None:
        """A label that stays as it is may outlive its version, or no sync would ever end again."""
        for config, look in zip(configs, looks, strict=True):
            before = self._configs[config.name].labels if config.name in self._configs else {}
            served = self._kept(table[config.name], look)
            for label, version in config.labels.items():
                is_new = label not in before
                if before.get(label) == version or (self._labels_for_unavailable and is_new):
                    continue
                if version not in served:
                    raise ServingError(
                        "FAILED_PRECONDITION",
                        f"Request to assign label to version {version} of model {config.name}, "
                        "which is not currently available for inference",
                    )

    def _put(self, records: dict[int, Record], record: Record) -> None:
        with self._lock:
            records[record.status.version] = record

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
            wanted = max(loaded(records), default=None) if version is None else version
            servable = records[wanted].servable if wanted in records else None
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
            problem = self._problems.get(name)
        if not records:
            why = f": {problem}" if problem else ""
            raise ServingError("NOT_FOUND", f"Could not find any versions of model {name}{why}")
        if version is not None:
            if version not in records:
                raise ServingError("NOT_FOUND", f"Could not find version {version} of model {name}")
            return [records[version].status]
        return [records[v].status for v in sorted(records, reverse=True)]

    def knows(self, name: str) -> bool:
        """Whether a model of that name is, or was, served."""
        with self._lock:
            return name in self._records

    def available(self) -> dict[str, list[int]]:
        """Name of a model that is to be served -> its versions that are, ascending."""
        with self._lock:
            return {name: loaded(self._records.get(name, {})) for name in self._configs}

    def not_served(self) -> list[str]:
        """Why none of its versions is served, of each model for which that is so; one line each."""
        with self._lock:
            found = {name: self._records.get(name, {}) for name in self._configs}
            return [
                _why_not_served(self._configs[name], records, self._problems.get(name, ""))
                for name, records in found.items()
                if not loaded(records)
            ]

    def close(self) -> None:
        """Unloads everything."""
        with self._sync_lock:
            for name in list(self._records):
                self._unload_except(name, [])
        self._background.close()


def _why_not_served(config: ModelConfig, records: Mapping[int, Record], problem: str) -> str:
    failed = [r.status for r in records.values() if r.status.error_message]
    if problem or not failed:
        return f"model {config.name}: {problem or f'{config.base_path} holds no version'}"
    newest = max(failed, key=lambda status: status.version)
    return f"model {config.name} version {newest.version}: {newest.error_message}"
