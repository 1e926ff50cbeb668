"""Pages besides the API: health, and the report of shadow traffic."""

from collections.abc import Mapping

from serving.server.extras.shadow import Shadow
from serving.server.http.web import Page, Response, json_response
from serving.server.observability.health import Readiness

LIVE = "/healthz/live"
READY = "/healthz/ready"
REPORT_PATH = "/shadow/report"


def health_page(readiness: Readiness) -> Page:
    """The page of `/healthz/live` and `/healthz/ready`, for GET and HEAD."""

    async def page(
        method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Response | None:
        if path not in (LIVE, READY):
            return None
        if method not in ("GET", "HEAD"):
            return Response(405, headers={"Allow": "GET, HEAD"})
        return json_response(200, {"live": True}) if path == LIVE else ready_response(readiness)

    return page


def ready_response(readiness: Readiness) -> Response:
    """200 or 503, with the names of the models that are not served."""
    ready = readiness.is_ready()
    state = {"ready": ready, "not_served": readiness.missing()}
    if readiness.draining:
        state["draining"] = True
    return json_response(200 if ready else 503, state)


def shadow_page(shadow: Shadow) -> Page:
    """The page of the reports as JSON, at `REPORT_PATH`."""

    async def page(
        method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Response | None:
        if path != REPORT_PATH or method != "GET":
            return None
        return json_response(200, shadow.reports())

    return page
