"""Encoded bytes of images given as paths, URLs, bytes or arrays."""

import base64
import binascii
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from serving.client.connections import ActiveRequest, new_session
from serving.client.errors import ClientError, Failure
from serving.client.http import BUSY, Sessions, read_body, retry_after_s, send
from serving.client.retry import Deadline, Tries, call
from serving.protocol.images import Image, encoded_image

#: Largest image that is downloaded, in bytes; servers usually have a lower limit.
MAX_DOWNLOAD_BYTES = 32 * 2**20

_WEB = ("http://", "https://")


class ImageLoader:
    """Loads images; safe to use from several threads.

    A string that starts with `http://`, `https://` or `data:` is a URL, and any other string a
    path. Downloads follow redirects: on a machine with access to internal services, do not pass
    URLs from untrusted sources.
    """

    def __init__(self, *, max_download_bytes: int = MAX_DOWNLOAD_BYTES, retries: int = 3) -> None:
        self._max_bytes = max_download_bytes
        self._retries = retries
        # Not the server's sessions, whose headers and certificates must not reach other hosts.
        self._sessions = Sessions(new_session)

    def load(self, images: Sequence[Image], deadline: Deadline) -> list[bytes]:
        """The encoded images, in order.

        Raises:
          ClientError: a URL does not return an image, or it is too large or too slow.
          FileNotFoundError: a path does not exist.
          TypeError: not an image.
          ValueError: an array that is not (H, W, 3) uint8.
        """
        return [self._load(image, deadline) for image in images]

    def close(self) -> None:
        """Closes the connections."""
        self._sessions.close()

    def _load(self, image: Image, deadline: Deadline) -> bytes:
        if not isinstance(image, str):
            return encoded_image(image)
        if image.lower().startswith("data:"):
            return self._from_data_url(image)
        if image.lower().startswith(_WEB):
            tries = Tries(deadline, self._retries)
            return call(lambda left: self._download(image, left), tries)
        return encoded_image(image)

    def _from_data_url(self, url: str) -> bytes:
        head, comma, text = url.partition(",")
        if not comma:
            raise ClientError(f"{_short(url)} has no comma; write data:image/png;base64,...")
        # Percent-encoding takes at most three bytes of text for one of content.
        if len(text) > 3 * self._max_bytes:
            raise self._too_large(url)
        content = unquote_to_bytes(text)
        if head.lower().endswith(";base64"):
            try:
                content = base64.b64decode(b"".join(content.split()), validate=True)
            except binascii.Error as error:
                raise ClientError(f"{_short(url)} is not base64: {error}") from error
        if len(content) > self._max_bytes:
            raise self._too_large(url)
        return content

    def _download(self, url: str, timeout_s: float) -> bytes:
        active = ActiveRequest(Deadline(timeout_s))
        with (
            self._sessions.borrow() as session,
            active.activate(),
            send(session, "GET", url, active.deadline, redirects=True) as response,
        ):
            if not response.ok:
                raise Failure(
                    f"{_short(url)}: HTTP {response.status_code} {response.reason}",
                    str(response.status_code),
                    again=response.status_code in BUSY,
                    wait_s=retry_after_s(response.headers.get("Retry-After")),
                )
            kind = response.headers.get("Content-Type", "")
            if kind.lower().startswith("text/"):
                raise Failure(f"{_short(url)} is {kind}, not an image")
            content = read_body(response, active.deadline, max_bytes=self._max_bytes)
        if content is None:
            raise self._too_large(url)
        return content

    def _too_large(self, url: str) -> ClientError:
        return ClientError(
            f"{_short(url)} is larger than {self._max_bytes} bytes; raise `max_download_bytes` or "
            "send a smaller image"
        )


def _short(url: str) -> str:
    return url if len(url) <= 100 else f"{url[:97]}..."
