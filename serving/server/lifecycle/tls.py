"""TLS: TF Serving's `--ssl_config_file` for gRPC, `--rest_ssl_cert` and its key for REST."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.protocol import config_messages
from serving.server.errors import ServerError


@dataclass(frozen=True)
class GrpcTls:
    """The key and certificate chain of a server, and whether clients need certificates.

    Attributes:
      key: PEM.
      certificate: PEM.
      client_ca: PEM of the authority that signs the clients' certificates; None requires none.
    """

    key: bytes
    certificate: bytes
    client_ca: bytes | None = None

    def credentials(self) -> Any:
        """The credentials for `grpc.Server.add_secure_port`."""
        import grpc

        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.client_ca,
            require_client_auth=self.client_ca is not None,
        )


@dataclass(frozen=True)
class RestTls:
    """The files of a PEM certificate chain and its key."""

    certificate: Path
    key: Path


def read_ssl_config(file: Path) -> GrpcTls:
    """TF Serving's `SSLConfig` in text form; the PEM texts are inside it, not paths to them.

    Raises:
      ServerError: no such file, not an SSLConfig, or a PEM text is missing.
    """
    try:
        config = config_messages.parse("SSLConfig", config_messages.decode(file.read_bytes()))
    except (OSError, ValueError) as error:  # undecodable bytes are a ValueError
        raise ServerError(f"{file} is not an SSLConfig: {error}") from error
    for name in ("server_key", "server_cert", *(["custom_ca"] if config.client_verify else [])):
        if "-----BEGIN " not in getattr(config, name):
            raise ServerError(
                f"{file}: {name} must hold PEM text (-----BEGIN ...), with \\n for line ends; got "
                f"{getattr(config, name)[:40]!r}"
            )
    return GrpcTls(
        key=config.server_key.encode(),
        certificate=config.server_cert.encode(),
        client_ca=config.custom_ca.encode() if config.client_verify else None,
    )


def rest_tls(certificate: Path | None, key: Path | None) -> RestTls | None:
    """The pair of files, None when neither is given.

    Raises:
      ServerError: one without the other, or they cannot be loaded.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ServerError("give both --rest_ssl_cert and --rest_ssl_key, or neither")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ServerError(
            f"TLS on REST: {certificate} and {key} cannot be used: {error}; they must be a PEM "
            "certificate chain and its key, without a password"
        ) from error
    return RestTls(certificate, key)


def _no_password() -> str:
    # Without this OpenSSL would prompt on the terminal, and a service would hang.
    raise ValueError("the key has a password")
