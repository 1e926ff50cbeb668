"""Validated arguments of `Client` and `AsyncClient`."""

from types import ModuleType

from serving.client.address import Tls, parse_address
from serving.client.errors import ClientError
from serving.client.images import ImageLoader
from serving.client.retry import Deadline, Tries


class Settings:
    """Address, TLS, timeout and retries of a client.

    Attributes:
      address: of the server.
      tls: its files exist.
      retries: further attempts of a request.
      images: loads the images to send; close it.
    """

    def __init__(
        self, url: str, *, timeout_s: float, retries: int, tls: Tls | None, max_download_bytes: int
    ) -> None:
        """For the arguments see `Client`.

        Raises:
          ClientError: not a server address.
          FileNotFoundError: a file of `tls` does not exist.
          ValueError: a number is out of range, or `tls` is unusable.
        """
        self.address = parse_address(url)
        self.tls = tls or Tls()
        self.tls.check(self.address)
        self.retries = retries
        self._timeout_s = timeout_s
        Tries(Deadline(timeout_s), retries)  # Validates both now rather than at the first call.
        self.images = ImageLoader(max_download_bytes=max_download_bytes, retries=retries)

    def deadline(self, timeout_s: float | None) -> Deadline:
        """The deadline of a call that starts now; None is the client's default timeout."""
        return Deadline(self._timeout_s if timeout_s is None else timeout_s)


def import_grpc(url: str) -> ModuleType:
    """`serving.client.grpc_transport`, which REST does not need.

    Raises:
      ClientError: grpcio or protobuf is not installed.
    """
    try:
        from serving.client import grpc_transport
    except ModuleNotFoundError as error:
        raise ClientError(
            f"{url} needs grpcio and protobuf ({error}); run `pip install grpcio protobuf`, or use "
            "the server's http:// address"
        ) from error
    return grpc_transport
