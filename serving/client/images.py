"""Whatever a caller calls an image, to encoded bytes: `serving.protocol.images`, and URLs."""

import base64
import binascii
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from serving.client.connections import Hold, new_session
from serving.client.errors import ClientError, Failure
from serving.client.http import BUSY, Sessions, read_body, retry_after_s, send
from serving.client.retry import Deadline, Tries, call
from serving.protocol.images import Image, encoded_image

#: Largest image that is downloaded, in bytes; what a server takes of one is less as a rule.
MAX_DOWNLOAD_BYTES = 32 * 2**20

_WEB = ("http://", "https://")


class Pictures:
    """Loads images; any thread may use it.

    A string that begins with `http://`, `https://` or `data:` is a URL, and every other one a
    path. Downloads go to where the URL points, redirects included: do not hand over URLs of
    strangers from a machine that can reach what they cannot.
    """

    def __init__(self, *, max_download_bytes: int = MAX_DOWNLOAD_BYTES, retries: int = 3) -> None:
        self._max_bytes = max_download_bytes
        self._retries = retries
        # Apart from the server's: its password and its certificates are not for strangers.
        self._sessions = Sessions(new_session)

    def load(self, images: Sequence[Image], deadline: Deadline) -> list[bytes]:
        """The encoded images, in order.

        Raises:
          ClientError: a URL that gives no image, is too large or too slow.
          FileNotFoundError: a path to nothing.
          TypeError: not an image at all.
          ValueError: an array that is not (H, W, 3) uint8.
        """
        return [self._load(image, deadline) for image in images]

    def close(self) -> None:
        """Ends the connections."""
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
        # Three bytes of text for one of content is the worst case, percent-encoded.
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
        hold = Hold(Deadline(timeout_s))
        with (
            self._sessions.borrow() as session,
            hold.during(),
            send(session, "GET", url, hold.deadline, redirects=True) as answer,
        ):
            if not answer.ok:
                raise Failure(
                    f"{_short(url)}: HTTP {answer.status_code} {answer.reason}",
                    str(answer.status_code),
                    again=answer.status_code in BUSY,
                    wait_s=retry_after_s(answer.headers.get("Retry-After")),
                )
            kind = answer.headers.get("Content-Type", "")
            if kind.lower().startswith("text/"):
                raise Failure(f"{_short(url)} is {kind}, not an image")
            content = read_body(answer, hold.deadline, max_bytes=self._max_bytes)
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
