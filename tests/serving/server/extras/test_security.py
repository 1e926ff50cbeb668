"""TLS: an `SSLConfig` on a real gRPC server, and the files for REST."""

import threading
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from serving.server.errors import ServerError
from serving.server.lifecycle.tls import GrpcTls, read_ssl_config, rest_tls


def ssl_config(folder: Path, certificates, **changes):
    fields = {
        "server_key": certificates["server"][1].decode(),
        "server_cert": certificates["server"][0].decode(),
        **changes,
    }
    lines = []
    for name, value in fields.items():
        text = str(value).lower() if isinstance(value, bool) else f'"{escaped(value)}"'
        lines.append(f"{name}: {text}")
    file = folder / "ssl.config"
    file.write_text("\n".join(lines))
    return file


def escaped(text):
    return text.replace("\n", "\\n")


class Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


def call(tls: GrpcTls, credentials):
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Echo()])
    port = server.add_secure_port("127.0.0.1:0", tls.credentials())
    server.start()
    try:
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            return channel.unary_unary("/a/b")(b"hello", timeout=20)
    finally:
        stopped: threading.Event = server.stop(0)
        stopped.wait(20)


def test_tls_of_an_ssl_config(certificates, make_certificate, tmp_path):
    tls = read_ssl_config(ssl_config(tmp_path, certificates))
    trusting = grpc.ssl_channel_credentials(certificates["authority"][0])
    assert call(tls, trusting) == b"hello"
    with pytest.raises(grpc.RpcError):
        call(tls, grpc.ssl_channel_credentials(make_certificate("stranger")[0]))


def test_clients_must_show_a_certificate_when_they_are_verified(certificates, tmp_path):
    ca = certificates["authority"][0].decode()
    tls = read_ssl_config(ssl_config(tmp_path, certificates, custom_ca=ca, client_verify=True))
    root, (chain, key) = certificates["authority"][0], certificates["client"]
    assert call(tls, grpc.ssl_channel_credentials(root, key, chain)) == b"hello"
    with pytest.raises(grpc.RpcError):
        call(tls, grpc.ssl_channel_credentials(root))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"server_key": "server.key"}, "server_key must hold PEM text"),
        ({"server_cert": ""}, "server_cert must hold PEM text"),
        ({"client_verify": True}, "custom_ca must hold PEM text"),
        ({"unknown": True}, "not an SSLConfig"),
    ],
)
def test_invalid_ssl_config(certificates, tmp_path, changes, words):
    with pytest.raises(ServerError, match=words):
        read_ssl_config(ssl_config(tmp_path, certificates, **changes))


def test_an_ssl_config_with_undecodable_bytes(tmp_path):
    (tmp_path / "ssl.config").write_bytes(b"\xff")
    with pytest.raises(ServerError, match="not an SSLConfig"):
        read_ssl_config(tmp_path / "ssl.config")


def test_rest_certificate(certificates, tmp_path):
    chain, key, other = (tmp_path / name for name in ("chain.pem", "key.pem", "other.pem"))
    chain.write_bytes(certificates["server"][0])
    key.write_bytes(certificates["server"][1])
    other.write_bytes(certificates["client"][1])
    assert rest_tls(None, None) is None
    tls = rest_tls(chain, key)
    assert (tls.certificate, tls.key) == (chain, key)
    for wrong in ((chain, other), (chain, tmp_path / "none"), (key, key)):
        with pytest.raises(ServerError, match="cannot be used"):
            rest_tls(*wrong)


def test_a_key_with_a_password_does_not_ask_on_the_terminal(certificates, tmp_path):
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = serialization.load_pem_private_key(certificates["server"][1], None)
    chain, locked = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(certificates["server"][0])
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ServerError, match="without a password"):
        rest_tls(chain, locked)
