"""Readiness of the server, for `/healthz/ready` and gRPC's health service.

A server is ready when it has at least one model, every configured model is loaded, and it is not
shutting down.
"""

import threading
from collections.abc import Callable
from typing import Protocol


class Availability(Protocol):
    """The part of `ModelManager` that readiness needs."""

    def available(self) -> dict[str, list[int]]:
        """Configured model -> its loaded versions."""
        ...


class Readiness:
    """Whether the server is ready, and the watchers of changes; every method is thread-safe."""

    def __init__(self, models: Availability) -> None:
        """Takes the models."""
        self._models = models
        self._lock = threading.Lock()
        self._watchers: dict[Callable[[bool], None], bool] = {}
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether the server is shutting down."""
        return self._draining

    def is_ready(self) -> bool:
        """Whether the server accepts requests for every model."""
        return not self._draining and self.models_are_ready()

    def models_are_ready(self) -> bool:
        """The same, regardless of a shutdown."""
        available = self._models.available()
        return bool(available) and all(available.values())

    def missing(self) -> list[str]:
        """The configured models without a loaded version, sorted."""
        return sorted(name for name, versions in self._models.available().items() if not versions)

    def drain(self) -> None:
        """Makes the server not ready from now on."""
        self._draining = True
        self.notify()

    def watch(self, watcher: Callable[[bool], None], *, most: int) -> bool:
        """Adds a watcher and calls it now and at every change; False beyond `most` watchers."""
        with self._lock:
            if len(self._watchers) >= most:
                return False
            ready = self._watchers[watcher] = self.is_ready()
            watcher(ready)
        return True

    def unwatch(self, watcher: Callable[[bool], None]) -> None:
        """Removes a watcher, if it is registered."""
        with self._lock:
            self._watchers.pop(watcher, None)

    def notify(self) -> None:
        """Calls the watchers if the readiness has changed."""
        with self._lock:
            ready = self.is_ready()
            for watcher, before in list(self._watchers.items()):
                if ready != before:
                    self._watchers[watcher] = ready
                    watcher(ready)
