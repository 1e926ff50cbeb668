"""HTTP responses and handlers, and what wraps a handler: gzip and CORS.

    handle = with_cors(first_of([health, open_inference], rest.handle))

No TensorFlow and no sockets; the ASGI application is in `serving.server.http.asgi`.
"""

import asyncio
import gzip
import json
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from serving.server.errors import OverloadedError, ServingError, invalid
from serving.server.http.json_encode import encode_error

JSON = "application/json"
#: Bodies up to this size are processed in the event loop, larger ones in a thread.
INLINE_BYTES = 32 * 1024
#: The fastest level: it shrinks digits in JSON to about a third, higher levels little more.
_GZIP_LEVEL = 1
#: Of one gzip body, RFC 1952, 2.2: each costs a copy of the rest of the body.
_MOST_MEMBERS = 16
_CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "*",
}
_WEB_ORIGIN = re.compile(r"https?://")
#: Web pages must not read other paths, such as the metrics.
_CORS_PATH = re.compile(r"/(v1|v2)(/|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


#: (method in upper case, encoded path without the query, headers by lower-case name, body).
Handler: TypeAlias = Callable[[str, str, Mapping[str, str], bytes], Awaitable[Response]]
#: The same; None for a path that the page does not serve.
Page: TypeAlias = Callable[[str, str, Mapping[str, str], bytes], Awaitable[Response | None]]


def first_of(pages: Sequence[Page], otherwise: Handler) -> Handler:
    """A handler that uses the first page that serves the path, or else `otherwise`."""

    async def handle(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        for page in pages:
            response = await page(method, path, headers, body)
            if response is not None:
                return response
        return await otherwise(method, path, headers, body)

    return handle if pages else otherwise


def error_response(error: ServingError) -> Response:
    """The response to a request that failed: status, message, and when to retry."""
    headers = {"Content-Type": JSON}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(error.retry_after_s)
    return Response(error.http_status, encode_error(error.message), headers)


def json_response(status: int, value: Any) -> Response:
    """A response with a value as JSON."""
    return Response(status, json.dumps(value).encode(), {"Content-Type": JSON})


def preflight(headers: Mapping[str, str]) -> Response:
    """The response to `OPTIONS`: 200 to a web page, otherwise 400; both without a body.

    Without the headers of `with_cors` a browser takes the 200 as a refusal, as TF Serving intends.
    """
    return Response(200 if _WEB_ORIGIN.search(headers.get("origin", "")) else 400)


def with_cors(inner: Handler) -> Handler:
    """`inner` with the CORS headers of TF Serving's `--rest_api_enable_cors_support`."""

    async def handle(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        if not _CORS_PATH.match(path):
            return await inner(method, path, headers, body)
        if method == "OPTIONS":
            response = preflight(headers)
        else:
            response = await inner(method, path, headers, body)
        return Response(response.status, response.body, {**response.headers, **_CORS_HEADERS})

    return handle


def with_gzip(inner: Handler, min_bytes: int) -> Handler:
    """`inner`, whose responses are compressed where the client's `Accept-Encoding` allows gzip.

    Args:
      inner: returns uncompressed responses.
      min_bytes: a smaller body is not compressed.
    """

    async def handle(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        response = await inner(method, path, headers, body)
        if len(response.body) < min_bytes or "Content-Encoding" in response.headers:
            return response
        # Sent with uncompressed responses too, as caches must not reuse them for other clients.
        vary = {**response.headers, "Vary": "Accept-Encoding"}
        if not accepts_gzip(headers.get("accept-encoding", "")):
            return Response(response.status, response.body, vary)
        packed = await _compress(response.body)
        return Response(response.status, packed, {**vary, "Content-Encoding": "gzip"})

    return handle


def accepts_gzip(header: str) -> bool:
    """Whether an `Accept-Encoding` header allows gzip, e.g. `gzip;q=0.5, br`; RFC 9110, 12.5.3."""
    weights: dict[str, float] = {}
    for entry in header.lower().split(","):
        name, _, parameter = entry.partition(";")
        key, _, value = parameter.partition("=")
        weights[name.strip()] = _weight(value) if key.strip() == "q" else 1.0
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


async def _compress(body: bytes) -> bytes:
    if len(body) <= INLINE_BYTES:
        return gzip.compress(body, _GZIP_LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, body, _GZIP_LEVEL, mtime=0)


def inflate(headers: Mapping[str, str], body: bytes, limit: int) -> bytes | None:
    """The decompressed body; None when it is damaged or truncated.

    Raises:
      ServingError: it is larger than `limit` bytes, or has too many members.
    """
    if headers.get("content-encoding", "").lower() != "gzip":
        return body
    pieces: list[bytes] = []
    left, rest = limit, body
    for _ in range(_MOST_MEMBERS):
        decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            # A length of 0 would set no limit.
            piece = decoder.decompress(rest, left + 1)
        except zlib.error:
            return None
        left -= len(piece)
        if left < 0:
            raise invalid(
                f"the gzip body inflates to more than {limit} bytes (--max_inflated_bytes); send "
                "fewer images at a time"
            )
        if not decoder.eof:
            return None
        pieces.append(piece)
        rest = decoder.unused_data.lstrip(b"\0")  # Padding, as on tapes.
        if not rest:
            return b"".join(pieces)
    raise invalid(f"the gzip body has more than {_MOST_MEMBERS} members; send one")


def inflated(headers: Mapping[str, str], body: bytes, limit: int) -> bytes:
    """The decompressed body.

    Raises:
      ServingError: it is damaged, or larger than `limit` bytes.
    """
    plain = inflate(headers, body, limit)
    if plain is None:
        raise invalid("the gzip body is damaged or cut off")
    return plain
