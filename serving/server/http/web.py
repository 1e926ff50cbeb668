"""What answers HTTP requests: the response, and how handlers are put together.

    handle = with_cors(first_of([health, open_inference], rest.handle))

No TensorFlow, no sockets; the ASGI application around it is in `serving.server.http.rest`.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from serving.server.errors import OverloadedError, ServingError
from serving.server.http.json_encode import encode_error

JSON = "application/json"


@dataclass(frozen=True)
class Response:
    """What goes back over HTTP."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


#: (method in upper case, path as sent and without the query, headers by lower-case name, body).
Handler: TypeAlias = Callable[[str, str, Mapping[str, str], bytes], Awaitable[Response]]
#: The same; None for a path that is somebody else's.
Page: TypeAlias = Callable[[str, str, Mapping[str, str], bytes], Awaitable[Response | None]]


def first_of(pages: Sequence[Page], otherwise: Handler) -> Handler:
    """A handler that asks each page in turn, and `otherwise` when none knows the path."""

    async def handle(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        for page in pages:
            response = await page(method, path, headers, body)
            if response is not None:
                return response
        return await otherwise(method, path, headers, body)

    return handle if pages else otherwise


def refusal(error: ServingError) -> Response:
    """The answer to a request that failed: its status and message, and when to try again."""
    headers = {"Content-Type": JSON}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(error.retry_after_s)
    return Response(error.http_status, encode_error(error.message), headers)


def json_response(status: int, value: Any) -> Response:
    """A value as JSON."""
    return Response(status, json.dumps(value).encode(), {"Content-Type": JSON})
