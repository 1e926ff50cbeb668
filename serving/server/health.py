"""Static health URLs for probes: `/healthz/live` and `/healthz/ready`."""

from collections.abc import Mapping
from typing import Protocol

from serving.server.web import Page, Response, json_response

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


def is_ready(models: Availability) -> bool:
    """Whether any model can be served.

    One of several that does not load must not take its neighbours off the network.
    """
    return any(models.available().values())


def health_page(models: Availability) -> Page:
    """The two URLs, for GET and HEAD; ready is 503 until a model can be served."""

    async def page(
        method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Response | None:
        if path not in (LIVE, READY):
            return None
        if method not in ("GET", "HEAD"):
            return Response(405, headers={"Allow": "GET, HEAD"})
        if path == LIVE:
            return json_response(200, {"live": True})
        ready = is_ready(models)
        answer = {"ready": ready, "not_served": missing_models(models)}
        return json_response(200 if ready else 503, answer)

    return page
