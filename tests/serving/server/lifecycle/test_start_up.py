"""Flags in any position, configuration files of any encoding, and proxies of the environment."""

import codecs
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serving.client.address import is_loopback
from serving.server.errors import ServerError
from serving.server.flags import make_parser, parse_flags
from serving.server.models.protos import read_model_config_file
from serving.server.options import read_monitoring_path

CONFIG = 'model_config_list { config { name: "ä" base_path: "/models/ä" } }'
MONITORING = 'prometheus_config { enable: true path: "/m" }'
ENCODINGS = {
    "utf-8": CONFIG.encode(),
    "utf-8-bom": codecs.BOM_UTF8 + CONFIG.encode(),
    "utf-16-le": codecs.BOM_UTF16_LE + CONFIG.encode("utf-16-le"),
    "utf-16-be": codecs.BOM_UTF16_BE + CONFIG.encode("utf-16-be"),
    "utf-32-le": codecs.BOM_UTF32_LE + CONFIG.encode("utf-32-le"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_config_file_of_any_encoding(tmp_path, encoding):
    file = tmp_path / "models.config"
    file.write_bytes(ENCODINGS[encoding])
    (config,) = read_model_config_file(file)
    assert (config.name, str(config.base_path)) == ("ä", "/models/ä")
    file.write_bytes(codecs.BOM_UTF8 + MONITORING.encode())
    assert read_monitoring_path(file) == "/m"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (CONFIG.encode("utf-16-le"), "null bytes, like UTF-16 without a byte order mark"),
        (CONFIG.encode("latin-1"), "is not UTF-8; save the file as UTF-8"),
        (codecs.BOM_UTF16_LE + b"x", "truncated data"),
    ],
)
def test_what_cannot_be_read_is_refused_clearly(tmp_path, data, words):
    file = tmp_path / "models.config"
    file.write_bytes(data)
    with pytest.raises(ServerError, match=words):
        read_model_config_file(file)


@pytest.mark.parametrize(
    "line",
    [
        "bundles --enable_batching --max_queue 5 --port 0",
        "--enable_batching bundles --max_queue 5 --port 0",
        "--enable_batching --max_queue 5 --port 0 bundles",
        "--max_queue 5 bundles --enable_batching true --port 0",
        "--max_queue=5 --port=0 --enable_batching=1 bundles",
    ],
)
def test_the_folder_of_bundles_in_any_position(line):
    flags = parse_flags(make_parser(), line.split())
    assert (str(flags.bundles), flags.enable_batching, flags.max_queue) == ("bundles", True, 5)
    # Off, on every command line.
    assert flags.port is None


@pytest.mark.parametrize("flag", ["--model_config_file=F", "--host=127.0.0.2"])
def test_sightline_serve_takes_the_servers_flags(monkeypatch, flag):
    from tfx_pipeline.cli import main

    given = []
    monkeypatch.setattr("serving.server.__main__.main", lambda flags: given.append(flags) or 1)
    for line in ([flag], ["bundles", flag], [flag, "--port", "0", "bundles"]):
        with pytest.raises(SystemExit) as caught:
            main(["serve", *line])
        assert caught.value.code == 1
    assert given == [[flag], ["bundles", flag], [flag, "--port", "0", "bundles"]]


def test_two_sources_of_models_are_refused(tmp_path, capsys):
    from serving.server.__main__ import main

    assert main([str(tmp_path), f"--bundles_dir={tmp_path}"]) == 1
    assert "give one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1:8501", True),
        ("127.9.9.9", True),
        ("localhost:1", True),
        ("[::1]:8500", True),
        ("10.0.0.1", False),
        ("example.com:8501", False),
        ("localhost.example.com", False),
    ],
)
def test_loopback_addresses(host, local):
    assert is_loopback(host) is local


class Served(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b'{"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def http_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_the_loopback_address_needs_no_proxy(http_server, monkeypatch):
    """A proxy that is not there would fail every request that went to it."""
    import grpc
    import requests

    from serving.client import connect
    from serving.client.connections import Session

    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with connect(f"http://127.0.0.1:{http_server}", retries=0) as client:
        assert [entry.version for entry in client.status("m")] == [1]
    with Session() as session:
        assert session.get(f"http://localhost:{http_server}", timeout=20).ok
    plain = requests.Session()
    with plain, pytest.raises(requests.exceptions.ProxyError):
        plain.get(f"http://127.0.0.1:{http_server}", timeout=20)
    seen = []

    def handle(request, context):
        seen.append(request)
        return b""

    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"GetModelStatus": grpc.unary_unary_rpc_method_handler(handle)}
    service = grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", handlers)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with connect(f"grpc://127.0.0.1:{port}", retries=0) as client:
        assert client.status("m") == []
    assert seen
    server.stop(None)
