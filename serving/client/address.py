"""Where a server is, and how to trust it."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serving.client.errors import ClientError

#: TF Serving's own gRPC port, for addresses that name none.
_GRPC_PORT = 8500


@dataclass(frozen=True)
class Tls:
    """What an encrypted connection (https, grpcs) is checked against.

    Attributes:
      roots: PEM file of the authorities to trust; None is those that the library comes with.
      certificate: PEM file with which the client shows who it is, where the server asks for it.
      key: PEM file of that certificate's private key.
    """

    roots: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` go together; give both or neither")

    def check(self, address: "Address") -> None:
        """Looks at the files, which the libraries would do at the first call.

        Raises:
          FileNotFoundError: one that is not there.
          ValueError: one that is not what it is given for, or an address without encryption.
        """
        files = [file for file in (self.roots, self.certificate, self.key) if file is not None]
        if files and not address.secure:
            raise ValueError(
                f"`tls` is given, and {address.url} is not encrypted; write https:// or grpcs://"
            )
        for file in files:
            # Python's TLS does not say which file it misses.
            Path(file).open("rb").close()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.roots is not None:
                context.load_verify_locations(self.roots)
            if self.certificate is not None:
                # An empty password: without one OpenSSL asks for it on the terminal.
                context.load_cert_chain(self.certificate, self.key, password="")
        except ssl.SSLError as error:
            raise ValueError(
                f"not PEM files of certificates and of the one's key without a password: "
                f"{', '.join(map(str, files))} ({error})"
            ) from error


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine: no proxy can reach it for us."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def grpc_proxy_options(target: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel that keep a loopback target from going through `http_proxy`."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(target) else []


@dataclass(frozen=True)
class Address:
    """A server's address, understood.

    Attributes:
      url: as errors show it, without a trailing slash.
      transport: `rest` or `grpc`.
      secure: https or grpcs.
      target: `host:port`, as gRPC takes it; for REST the host, and the port if it was given.
    """

    url: str
    transport: str
    secure: bool
    target: str


def parse_address(url: str) -> Address:
    """The server that a URL names.

    Args:
      url: `http://host:8501`, `https://host/prefix`, `grpc://host:8500` or `grpcs://host:8500`.

    Raises:
      ClientError: anything else.
    """
    words = f"{url!r} is no address; write http://host:8501 or grpc://host:8500"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ClientError(f"{words} ({error})") from error
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
        raise ClientError(f"{words}, or https:// and grpcs:// for TLS")
    if "@" in parts.netloc:
        raise ClientError("put no password into the address; give `headers` with Authorization")
    if parts.query or parts.fragment:
        raise ClientError(f"{words}, without ? and #")
    secure = parts.scheme.endswith("s")
    if parts.scheme.startswith("http"):
        return Address(url.rstrip("/"), "rest", secure, parts.netloc)
    if parts.path.strip("/"):
        raise ClientError(f"{words}: gRPC has no path, got {parts.path!r}")
    target = parts.netloc if port else f"{parts.netloc.rstrip(':')}:{_GRPC_PORT}"
    return Address(f"{parts.scheme}://{target}", "grpc", secure, target)


def import_grpc(url: str) -> Any:
    """The gRPC half of the client, which REST works without.

    Raises:
      ClientError: grpcio or protobuf is not installed.
    """
    try:
        from serving.client import grpc_transport
    except ModuleNotFoundError as error:
        raise ClientError(
            f"{url} needs grpcio and protobuf ({error}); pip install grpcio protobuf, or use "
            "the server's http:// address"
        ) from error
    return grpc_transport
