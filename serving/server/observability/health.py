"""Health of the server: `/healthz/live`, `/healthz/ready`, and whoever watches over gRPC.

Ready means that every model that is to be served is, that there is one, and that the server is not
about to stop.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from serving.server.http.web import Page, Response, json_response

LIVE = "/healthz/live"
READY = "/healthz/ready"


class Availability(Protocol):
    """What is asked of `ModelManager`."""

    def available(self) -> dict[str, list[int]]:
        """Name of a model that is to be served -> its versions that are."""
        ...


def missing_models(models: Availability) -> list[str]:
    """Models that are to be served and of which no version is, sorted."""
    return sorted(name for name, versions in models.available().items() if not versions)


class Readiness:
    """Whether the server is ready, and who is notified when that changes; from any thread."""

    def __init__(self, models: Availability) -> None:
        """Takes the models; nobody watches yet."""
        self._models = models
        self._lock = threading.Lock()
        self._watchers: dict[Callable[[bool], None], bool] = {}
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop."""
        return self._draining

    def is_ready(self) -> bool:
        """Whether requests for every model can be sent here."""
        return not self._draining and self.models_are_ready()

    def models_are_ready(self) -> bool:
        """The same, whether or not the server is about to stop."""
        available = self._models.available()
        return bool(available) and all(available.values())

    def missing(self) -> list[str]:
        """Models that are to be served and are not, sorted."""
        return missing_models(self._models)

    def drain(self) -> None:
        """The server is not ready from now on."""
        self._draining = True
        self.notify()

    def watch(self, watcher: Callable[[bool], None], *, most: int) -> bool:
        """Adds a watcher, which is called at once and at every change; False beyond `most`."""
        with self._lock:
            if len(self._watchers) >= most:
                return False
            ready = self._watchers[watcher] = self.is_ready()
            watcher(ready)
        return True

    def unwatch(self, watcher: Callable[[bool], None]) -> None:
        """Forgets a watcher, known or not."""
        with self._lock:
            self._watchers.pop(watcher, None)

    def notify(self) -> None:
        """Looks whether there is a change, and calls the watchers."""
        with self._lock:
            ready = self.is_ready()
            for watcher, before in list(self._watchers.items()):
                if ready != before:
                    self._watchers[watcher] = ready
                    watcher(ready)


def health_page(readiness: Readiness) -> Page:
    """The two URLs, for GET and HEAD; see `Readiness`."""

    async def page(
        method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Response | None:
        if path not in (LIVE, READY):
            return None
        if method not in ("GET", "HEAD"):
            return Response(405, headers={"Allow": "GET, HEAD"})
        if path == LIVE:
            return json_response(200, {"live": True})
        return ready_response(readiness)

    return page


def ready_response(readiness: Readiness) -> Response:
    """200 or 503, with the models that are not served."""
    ready = readiness.is_ready()
    answer = {"ready": ready, "not_served": readiness.missing()}
    if readiness.draining:
        answer["draining"] = True
    return json_response(200 if ready else 503, answer)
