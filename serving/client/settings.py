"""What a client was made with, looked at once: the same for `Client` and `AsyncClient`."""

from serving.client.address import Tls, parse_address
from serving.client.images import Pictures
from serving.client.retry import Deadline, Tries


class Settings:
    """Address, trust, time and tries.

    Attributes:
      address: of the server.
      tls: its files are there.
      retries: further tries of a request.
      images: loads what is sent; close it.
    """

    def __init__(
        self, url: str, *, timeout_s: float, retries: int, tls: Tls | None, max_download_bytes: int
    ) -> None:
        """For the arguments see `Client`.

        Raises:
          ClientError: an address of another kind.
          FileNotFoundError: a file of `tls` that is not there.
          ValueError: a number out of range, or a `tls` that is of no use.
        """
        self.address = parse_address(url)
        self.tls = tls or Tls()
        self.tls.check(self.address)
        self.retries = retries
        self._timeout_s = timeout_s
        Tries(Deadline(timeout_s), retries)  # Raises now, and not at the first call.
        self.images = Pictures(max_download_bytes=max_download_bytes, retries=retries)

    def deadline(self, timeout_s: float | None) -> Deadline:
        """Of a call that begins now; None is what calls have that name no time."""
        return Deadline(self._timeout_s if timeout_s is None else timeout_s)
