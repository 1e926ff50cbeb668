"""Cross-origin requests of web pages, as TF Serving's `--rest_api_enable_cors_support` has them."""

import re
from collections.abc import Mapping

from serving.server.http.web import Handler, Response

#: What every answer of the API carries when CORS is on.
_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "*",
}
_WEB_ORIGIN = re.compile(r"https?://")
#: A page must not read what is not the API: the metrics, for one.
_API = re.compile(r"/(v1|v2)(/|$)", re.IGNORECASE)


def preflight(headers: Mapping[str, str]) -> Response:
    """The answer to `OPTIONS`: 200 to a web page, 400 to anyone else; both without a body.

    Without the headers of `with_cors` a browser takes the 200 for a no, as TF Serving means it.
    """
    return Response(200 if _WEB_ORIGIN.search(headers.get("origin", "")) else 400)


def with_cors(inner: Handler) -> Handler:
    """`inner` with the headers by which a browser lets a page of any origin read the answers."""

    async def handle(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        if not _API.match(path):
            return await inner(method, path, headers, body)
        if method == "OPTIONS":
            response = preflight(headers)
        else:
            response = await inner(method, path, headers, body)
        return Response(response.status, response.body, {**response.headers, **_HEADERS})

    return handle
