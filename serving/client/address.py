"""Server addresses and TLS settings."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from serving.client.errors import ClientError

#: TF Serving's default gRPC port.
_GRPC_PORT = 8500


@dataclass(frozen=True)
class Tls:
    """Certificates for encrypted connections (https, grpcs).

    Attributes:
      roots: PEM file of the trusted authorities; None is the library's default.
      certificate: PEM file of the client's certificate, for servers that require one.
      key: PEM file of that certificate's private key.
    """

    roots: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give both `certificate` and `key`, or neither")

    def check(self, address: "Address") -> None:
        """Validates the files now rather than at the first call.

        Raises:
          FileNotFoundError: a file does not exist.
          ValueError: a file is not PEM of its kind, or the address is not encrypted.
        """
        files = [file for file in (self.roots, self.certificate, self.key) if file is not None]
        if files and not address.secure:
            raise ValueError(
                f"`tls` has no effect on {address.url}, which is not encrypted; "
                "use https:// or grpcs://"
            )
        for file in files:
            # Python's TLS errors do not name the missing file.
            Path(file).open("rb").close()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.roots is not None:
                context.load_verify_locations(self.roots)
            if self.certificate is not None:
                # Without a password, OpenSSL would prompt for it on the terminal.
                context.load_cert_chain(self.certificate, self.key, password="")
        except ssl.SSLError as error:
            raise ValueError(
                "expected PEM files of certificates and of a key without a password, got "
                f"{', '.join(map(str, files))} ({error})"
            ) from error


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine, which no proxy can reach."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def grpc_proxy_options(target: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel that bypass `http_proxy` for a loopback target."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(target) else []


@dataclass(frozen=True)
class Address:
    """A parsed server address.

    Attributes:
      url: as shown in errors, without a trailing slash.
      transport: `rest` or `grpc`.
      secure: https or grpcs.
      target: `host:port` for gRPC; for REST the host, and the port if the URL has one.
    """

    url: str
    transport: str
    secure: bool
    target: str


def parse_address(url: str) -> Address:
    """The address in a URL.

    Args:
      url: `http://host:8501`, `https://host/prefix`, `grpc://host:8500` or `grpcs://host:8500`.

    Raises:
      ClientError: any other text.
    """
    problem = f"{url!r} is not a server address; write http://host:8501 or grpc://host:8500"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ClientError(f"{problem} ({error})") from error
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
        raise ClientError(f"{problem}, or https:// and grpcs:// for TLS")
    if "@" in parts.netloc:
        raise ClientError("write no password in the address; use `headers` with Authorization")
    if parts.query or parts.fragment:
        raise ClientError(f"{problem}, without ? and #")
    secure = parts.scheme.endswith("s")
    if parts.scheme.startswith("http"):
        return Address(url.rstrip("/"), "rest", secure, parts.netloc)
    if parts.path.strip("/"):
        raise ClientError(f"{problem}: a gRPC address has no path, got {parts.path!r}")
    target = parts.netloc if port else f"{parts.netloc.rstrip(':')}:{_GRPC_PORT}"
    return Address(f"{parts.scheme}://{target}", "grpc", secure, target)
