"""Loading and unloading of the versions of models, without a gap in service.

A version is AVAILABLE before the one it replaces is unloaded. When a version fails to load, the old
one stays, the status holds the error, and the load is tried again. When a folder cannot be read,
the versions that were loaded from it and all other models stay.
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
from serving.server.models.background import Background
from serving.server.models.config import ServedModel, check_names
from serving.server.models.engines import (
    DEFAULT_OPTIONS,
    Engine,
    EngineOptions,
    load_engine,
    version_dirs,
)
from serving.server.models.servable import Servable, State, VersionRecord, VersionStatus, loaded
from serving.server.scheduling.batching import BatchingOptions

_LOG = logging.getLogger(__name__)


Prepare = Callable[[str, Path, Engine], None]
#: Model -> version -> its state.
_Table = dict[str, dict[int, VersionRecord]]


@dataclass(frozen=True)
class _Scan:
    """The versions to serve from a model's folder, or why it cannot be read."""

    wanted: Sequence[int] = ()
    problem: str = ""


#: Exempts the lines of each model from the log's rate limit.
_ALWAYS = {"lifecycle": True}


class ModelManager:
    """The loaded models, which only `sync` and `switch` change, one at a time."""

    def __init__(
        self,
        source: Callable[[], Sequence[ServedModel]],
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
        """Creates a manager without loading anything.

        Args:
          source: returns the models to serve, at every `sync`.
          engines: how versions are loaded.
          batching: version folder -> how its requests share runs; the load fails if it raises.
            None runs every request by itself.
          prepare: called with (name, version folder, engine) before a version is AVAILABLE, such
            as for its warm-up; the load fails if it raises.
          on_event: called with a model's name and `loaded`, `failed` or `unloaded`.
          background: loads and frees the models, and is closed with this manager.
          load_threads: models that load at a time; the versions of one model load in sequence.
          max_retries: of a version that failed to load.
          retry_seconds: between two attempts.
          versions_always_present: keep the loaded versions when the last one leaves the disk.
          labels_for_unavailable: let a new label name a version that is not loaded; an existing
            label cannot move to such a version.
        """
        self._source = source
        self._engines = engines
        self._batching = batching
        self._prepare = prepare
        self._on_event = on_event or (lambda name, event: None)
        self._background = background or Background()
        self._load_threads = max(1, load_threads)
        self._max_retries = max_retries
        self._retry_seconds = retry_seconds
        self._versions_always_present = versions_always_present
        self._labels_for_unavailable = labels_for_unavailable
        self._configs: dict[str, ServedModel] = {}
        self._records: _Table = {}
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()

    def sync(self) -> None:
        """Loads new versions from the disk, then unloads those that are no longer wanted.

        Raises:
          ServingError: the source names a model twice, or labels a version that is not served.
          OSError: the source cannot be read; the loaded versions stay.
        """
        with self._sync_lock:
            configs = self._source()
            check_names(configs)
            scans = self._load_all(configs, self._records)
            self._check_labels(configs, scans, self._records)
            self._commit(configs, scans, self._records)

    def switch(self, configs: Sequence[ServedModel]) -> None:
        """Serves other models, if each of them can be served.

        The source must return the same models from then on. Versions that failed to load before
        are tried again.

        Raises:
          ServingError: as `sync`, or a model would have no version; nothing changes then.
        """
        with self._sync_lock:
            check_names(configs)
            table = {
                name: {v: replace(record, failures=0) for v, record in records.items()}
                for name, records in self._records.items()
            }
            try:
                scans = self._load_all(configs, table)
                self._check_served(configs, scans, table)
                self._check_labels(configs, scans, table)
            except BaseException:
                self._drop(table)
                raise
            self._commit(configs, scans, table)

    def _load_all(self, configs: Sequence[ServedModel], table: _Table) -> list[_Scan]:
        """The versions that each model needs; `table` receives those that load."""
        if self._load_threads == 1 or len(configs) == 1:
            return [self._load_wanted(config, table) for config in configs]
        with ThreadPoolExecutor(self._load_threads, "load") as pool:
            return list(pool.map(lambda config: self._load_wanted(config, table), configs))

    def _load_wanted(self, config: ServedModel, table: _Table) -> _Scan:
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
            return _Scan(problem=problem)
        wanted = config.policy.choose(on_disk)
        for version in wanted:
            if self._is_due(records.get(version)):
                self._load(config.name, version, on_disk[version], records)
        return _Scan(wanted)

    def _commit(
        self, configs: Sequence[ServedModel], scans: Sequence[_Scan], table: _Table
    ) -> None:
        """Serves `configs` from `table`, and unloads all other versions."""
        with self._lock:
            self._records = table
            self._configs = {config.name: config for config in configs}
            named = zip(self._configs, scans, strict=True)
            self._problems = {name: scan.problem for name, scan in named if scan.problem}
        # After the swap, as until then the labels name the old versions.
        for config, scan in zip(configs, scans, strict=True):
            self._unload_except(config.name, self._kept(table[config.name], scan))
        for name in set(table) - set(self._configs):
            self._unload_except(name, [])

    def _drop(self, table: _Table) -> None:
        """Frees versions that were loaded for `table` alone."""
        for name, records in table.items():
            before = self._records.get(name, {})
            for version in loaded(records):
                servable = records[version].servable
                kept = before[version].servable if version in before else None
                if servable is not None and servable is not kept:
                    servable.retire()

    def _kept(self, records: Mapping[int, VersionRecord], scan: _Scan) -> list[int]:
        """The loaded versions that stay: the wanted ones, or all if none of those is loaded."""
        present = loaded(records)
        if scan.problem:
            return present
        wanted = [version for version in scan.wanted if version in present]
        if wanted or not (scan.wanted or self._versions_always_present):
            return wanted
        return present

    def _is_due(self, record: VersionRecord | None) -> bool:
        if record is None:
            return True
        if record.servable is not None:
            return False
        tries_left = record.failures <= self._max_retries
        return record.failures == 0 or (tries_left and time.monotonic() >= record.retry_at)

    def _load(self, name: str, version: int, path: Path, records: dict[int, VersionRecord]) -> None:
        began = time.monotonic()
        failures = records[version].failures if version in records else 0
        self._put(records, VersionRecord(VersionStatus(version, State.LOADING)))
        try:
            batching = self._batching(path) if self._batching else None
            with self._background.loading():
                engine = self._load_and_prepare(name, path)
        except Exception as error:
            # A version that fails to load must not affect the others.
            code = error.code if isinstance(error, (EngineError, ServingError)) else "UNKNOWN"
            _LOG.error("model %s version %d does not load: %s", name, version, error, extra=_ALWAYS)
            self._on_event(name, "failed")
            status = VersionStatus(version, State.END, code, str(error))
            retry_at = time.monotonic() + self._retry_seconds
            self._put(records, VersionRecord(status, None, failures + 1, retry_at))
            return
        status = VersionStatus(version, State.AVAILABLE)
        servable = Servable(name, version, engine, batching, background=self._background)
        self._put(records, VersionRecord(status, servable))
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
                self._put(records, VersionRecord(VersionStatus(version, State.UNLOADING)))
                servable.retire()
                self._put(records, VersionRecord(VersionStatus(version, State.END)))
                _LOG.info("model %s version %d is unloaded", name, version, extra=_ALWAYS)
                self._on_event(name, "unloaded")

    def _check_served(
        self, configs: Sequence[ServedModel], scans: Sequence[_Scan], table: _Table
    ) -> None:
        for config, scan in zip(configs, scans, strict=True):
            records = table[config.name]
            if scan.problem or not self._kept(records, scan):
                failed = {version: records[version] for version in scan.wanted}
                reason = _why_not_served(config, failed, scan.problem)
                raise ServingError("FAILED_PRECONDITION", reason)

    def _check_labels(
        self, configs: Sequence[ServedModel], scans: Sequence[_Scan], table: _Table
    ) -> None:
        """Checks new and moved labels; an unchanged one may outlive its version."""
        for config, scan in zip(configs, scans, strict=True):
            before = self._configs[config.name].labels if config.name in self._configs else {}
            served = self._kept(table[config.name], scan)
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

    def _put(self, records: dict[int, VersionRecord], record: VersionRecord) -> None:
        with self._lock:
            records[record.status.version] = record

    @contextlib.contextmanager
    def use(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[Servable]:
        """The version for a request, kept loaded for the duration of the context.

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
        """The statuses of a model's versions, newest first.

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
        """Configured model -> its loaded versions, ascending."""
        with self._lock:
            return {name: loaded(self._records.get(name, {})) for name in self._configs}

    def not_served(self) -> list[str]:
        """One line per model without a loaded version, with the reason."""
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


def _why_not_served(config: ServedModel, records: Mapping[int, VersionRecord], problem: str) -> str:
    failed = [r.status for r in records.values() if r.status.error_message]
    if problem or not failed:
        return f"model {config.name}: {problem or f'{config.base_path} holds no version'}"
    newest = max(failed, key=lambda status: status.version)
    return f"model {config.name} version {newest.version}: {newest.error_message}"
