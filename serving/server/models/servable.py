"""A loaded version of a model, and the state of a version."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from serving.server.models.background import Background
from serving.server.models.engines import Engine
from serving.server.scheduling.batching import BatchingOptions


class State(IntEnum):
    """The state of a version, as in `tensorflow.serving.ModelVersionStatus`."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """The status of a version for `GetModelStatus`; `error_code` is a gRPC status name."""

    version: int
    state: State
    error_code: str = "OK"
    error_message: str = ""


class Servable:
    """A loaded version, which is freed when it is retired and its last request has ended.

    Attributes:
      batching: how its requests share runs; None when each runs by itself.
    """

    def __init__(
        self,
        name: str,
        version: int,
        engine: Engine,
        batching: BatchingOptions | None = None,
        *,
        background: Background | None = None,
    ) -> None:
        """Takes ownership of the engine, which `background` frees."""
        self.name = name
        self.version = version
        self.engine = engine
        self.batching = batching
        self._background = background or Background()
        self._users = 0
        self._retired = False
        self._lock = threading.Lock()

    def retire(self) -> None:
        """Frees the model now, or after its last request."""
        with self._lock:
            self._retired = True
            idle = self._users == 0
        if idle:
            self._background.free(self.engine.close, wait=True)

    def enter(self) -> bool:
        """Registers a request; False when the version is retired."""
        with self._lock:
            if self._retired:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        """Unregisters a request."""
        with self._lock:
            self._users -= 1
            last = self._retired and self._users == 0
        if last:
            self._background.free(self.engine.close, wait=False)


@dataclass(frozen=True)
class VersionRecord:
    """The state of a version, with its loaded model.

    Attributes:
      status: for `GetModelStatus`.
      servable: None while it is not loaded.
      failures: consecutive failed attempts to load it.
      retry_at: `time.monotonic()` of the next attempt.
    """

    status: VersionStatus
    servable: Servable | None = None
    failures: int = 0
    retry_at: float = 0.0


def loaded(records: Mapping[int, VersionRecord]) -> list[int]:
    """The loaded versions, ascending."""
    return sorted(v for v, record in records.items() if record.servable is not None)
