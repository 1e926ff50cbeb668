import socket
import sys
import urllib.request

import pytest

SERVER = """
import http.server, json, signal, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"model_version_status": [{"state": "AVAILABLE"}]}).encode())

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
port = int(sys.argv[sys.argv.index("--rest_api_port") + 1])
print("stand-in for the server", flush=True)
try:
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
except KeyboardInterrupt:
    print("stopped by a signal", flush=True)
"""


@pytest.fixture
def demo(tool, tmp_path, monkeypatch):
    module = tool("demo")
    monkeypatch.setattr(module, "HOME", tmp_path)
    monkeypatch.setattr(module, "BUNDLES", tmp_path / "bundles")
    return module


def test_the_server_is_waited_for_and_stopped(demo, script, tmp_path, monkeypatch):
    (tmp_path / "server.py").write_text(SERVER)
    program = script("sightline", f'exec "{sys.executable}" "{tmp_path}/server.py" "$@"')
    monkeypatch.setattr(demo, "SIGHTLINE", str(program))
    with demo.server("digits_cnn") as url:
        assert urllib.request.urlopen(f"{url}/v1/models/digits_cnn", timeout=5).status == 200
    assert "stopped by a signal" in (tmp_path / "serve.log").read_text()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)


def test_the_error_has_the_output_of_a_server_that_ends_at_once(demo, script, monkeypatch):
    program = script("sightline", "echo no version of any model; exit 7")
    monkeypatch.setattr(demo, "SIGHTLINE", str(program))
    said = pytest.raises(demo.DemoError, match=r"ended with 7:\nno version of any model")
    with said, demo.server("digits_cnn"):
        pytest.fail("it was never ready")


def test_a_failed_step_names_the_command_and_its_status(demo, script, monkeypatch):
    monkeypatch.setattr(demo, "SIGHTLINE", str(script("sightline", "echo why >&2; exit 3")))
    assert demo.step("", "run", "smoke", allowed=(0, 3)) == 3
    with pytest.raises(demo.DemoError, match=r"`sightline run smoke` ended with 3\nwhy"):
        demo.step("", "run", "smoke", quiet=True)


def test_another_model_is_used_when_the_preferred_one_was_refused(demo):
    with pytest.raises(demo.DemoError, match="every model was refused"):
        demo.pushed_model()
    (demo.BUNDLES / "digits_vit").mkdir(parents=True)
    assert demo.pushed_model() == "digits_vit"
    (demo.BUNDLES / "digits_cnn").mkdir()
    assert demo.pushed_model() == "digits_cnn"


def test_a_free_port_can_be_listened_on(demo):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", demo.free_port()))
        listener.listen()


def test_the_peak_is_that_of_the_largest_child(demo, script, monkeypatch):
    grow = f"exec '{sys.executable}' -c 'bytearray(300 << 20)'"
    monkeypatch.setattr(demo, "SIGHTLINE", str(script("sightline", grow)))
    demo.step("")
    assert 300 < demo.peak_memory_mb() < 100_000
