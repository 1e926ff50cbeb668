"""`sightline loadtest` against a server of the standard library."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from core.renamed import RenamedWarning
from serving.benchmark.loadtest import LoadError
from tfx_pipeline.cli import app, main
from tfx_pipeline.cli.loadtest import public_arguments

SHORT = ["--seconds", "0.5", "--warm-up", "0.1"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        known = self.path == "/v1/models/cats:predict"
        body = b'{"predictions": []}' if known else b'{"error": "Servable not found"}'
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def loadtest(*arguments):
    return CliRunner().invoke(app, ["loadtest", *map(str, arguments)], catch_exceptions=True)


def test_rates_make_a_table_a_page_and_json(url, tmp_path):
    out, html = tmp_path / "o.json", tmp_path / "o.html"
    result = loadtest(
        url, "--model", "cats", "--rates", "10,20", *SHORT, "--out", out, "--html", html
    )
    # 3: on a machine with other things to do the generator may have been late, and says so.
    assert result.exit_code in (0, 3), result.output
    values = json.loads(out.read_text())
    assert [run["plan"]["rate"] for run in values["runs"]] == [10, 20]
    assert all(run["errors"] == {} for run in values["runs"])
    assert (result.exit_code == 0) == all(run["valid"] for run in values["runs"])
    assert "10/s" in result.output
    assert "20/s" in result.output
    assert html.read_text().count("<svg") == 3


def test_closed_loop_with_a_request_file(url, tmp_path):
    (tmp_path / "a.json").write_text('{"instances": [1]}')
    result = loadtest(url, "--model", "cats", "--closed", 2, *SHORT, "--input", tmp_path / "a.json")
    assert result.exit_code in (0, 3), result.output
    assert "2 clients" in result.output
    assert "a.json" in result.output


def test_a_report_does_not_show_header_values():
    given = ["--header", "Authorization: Bearer 7", "--rate", "5", "--header=X-Key: secret"]
    shown = ["--header", "Authorization: ...", "--rate", "5", "--header=X-Key: ..."]
    assert public_arguments(given) == shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "dogs"], 'does not serve the model \'dogs\': {"error": "Servable not found'),
        (["--model", "cats", "--find-max"], "needs --p99 MS"),
        (["--model", "cats", "--p99", "5"], "needs --p99 MS"),
        (["--model", "cats", "--rate", "5", "--closed", "2"], "one of --rate, --rates, --closed"),
        (["--model", "cats", "--rates", "5,x"], "numbers with commas"),
        (["--model", "cats", "--header", "colonless"], "takes 'Name: value', got 'colonless'"),
        (["--model", "cats", "--rate", "-5"], "`rate` must be above 0"),
        (["--model", "cats", "--images", "a", "--input", "b"], "either --images or --input"),
        (["--model", "cats", "--images", "nowhere"], "nowhere does not exist"),
        (["--model", "cats", "--input", "nowhere.json"], "nowhere.json does not exist"),
    ],
)
def test_errors_say_what_to_do(url, arguments, words):
    result = loadtest(url, *arguments, *SHORT)
    assert isinstance(result.exception, LoadError)
    assert words in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "flag", "said"),
    [
        (["loadtest", "http://h", "--model", "m", "--pictures", "nowhere"], "--images", "nowhere"),
        (["benchmark", "serving", "absent", "--picture", "a.jpg"], "--image", "absent"),
    ],
)
def test_former_flags_reach_the_verb_with_a_warning(arguments, flag, said, capsys):
    with pytest.warns(RenamedWarning, match=f"is now {flag};"), pytest.raises(SystemExit):
        main(arguments)
    error = capsys.readouterr().err
    assert said in error
    assert "No such option" not in error


def test_an_invalid_address_is_an_error():
    result = loadtest("localhost:8501", "--model", "cats")
    assert "write http://host:8501" in str(result.exception)
