"""gzip over REST: large answers for clients that ask for it, and requests that came in it."""

import asyncio
import gzip
import zlib
from collections.abc import Mapping

from serving.server.errors import invalid
from serving.server.http.web import Handler, Response

#: The fastest level: digits in JSON shrink to about a third with it, and little more with others.
_LEVEL = 1
#: Beyond it, work on a body takes a thread: the event loop has other requests.
INLINE_BYTES = 32 * 1024
#: Of one gzip body, RFC 1952, 2.2: each costs a copy of what follows it.
_MOST_MEMBERS = 16


def with_gzip(inner: Handler, min_bytes: int) -> Handler:
    """`inner`, its answers compressed where the client's `Accept-Encoding` allows gzip.

    Args:
      inner: answers uncompressed.
      min_bytes: of a body; a smaller one is sent as it is.
    """

    async def handle(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        response = await inner(method, path, headers, body)
        if len(response.body) < min_bytes or "Content-Encoding" in response.headers:
            return response
        # Told even when this client gets it plain, or a cache would hand it to the others.
        vary = {**response.headers, "Vary": "Accept-Encoding"}
        if not accepts_gzip(headers.get("accept-encoding", "")):
            return Response(response.status, response.body, vary)
        packed = await _compress(response.body)
        return Response(response.status, packed, {**vary, "Content-Encoding": "gzip"})

    return handle


def inflate(headers: Mapping[str, str], body: bytes, limit: int) -> bytes | None:
    """The body without its gzip; None when it is damaged or cut off.

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
            # A length of 0 would be none.
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
        rest = decoder.unused_data.lstrip(b"\0")  # Padding, as of tapes.
        if not rest:
            return b"".join(pieces)
    raise invalid(f"the gzip body has more than {_MOST_MEMBERS} members; send one")


def inflated(headers: Mapping[str, str], body: bytes, limit: int) -> bytes:
    """The body without its gzip.

    Raises:
      ServingError: it is damaged, or larger than `limit` bytes.
    """
    plain = inflate(headers, body, limit)
    if plain is None:
        raise invalid("the gzip body is damaged or cut off")
    return plain


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
        return gzip.compress(body, _LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
