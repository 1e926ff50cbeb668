"""The criteria of a soak test on invented runs, and one short soak test of the real server."""

import collections
import io
import json
import os
import shutil
import types

import numpy as np
import pytest
from rich.console import Console

from serving.benchmark.loadtest import (
    LoadError,
    LoadPlan,
    LoadResult,
    LoadTarget,
    soak,
    soak_report,
)
from serving.benchmark.loadtest.malformed import MalformedSender, Refusals
from serving.benchmark.loadtest.soak_report import SoakResult, Swap


def made(
    *,
    swap_ms=2.0,
    failed=0,
    resident=(103.0, 104.0, 102.0),
    done=True,
    refused="400",
    resends=0,
    answers_only=False,
):
    """100 s of load from second 1000 of the clock; swaps of a second at 1020, 1030 and 1040."""
    swaps = tuple(Swap(1020.0 + 10 * i, 1021.0 + 10 * i, mb, done) for i, mb in enumerate(resident))
    scheduled = np.arange(0, 100, 0.01)
    latency = np.full(len(scheduled), 2.0)
    for swap in swaps:
        inside = (scheduled >= swap.began - 1000) & (scheduled < swap.ended - 1000)
        latency[inside] = swap_ms
    codes = np.full(len(scheduled), "OK", dtype="<U20")
    codes[:failed] = "503"
    plan = LoadPlan(rate=100, seconds=90, warm_up_s=10)
    load = LoadResult(
        LoadTarget("http://h", "m"),
        plan,
        "",
        scheduled,
        latency * 0,
        latency,
        codes,
        started=1000.0,
        resends=resends,
    )
    wrong = [] if refused == "400" else ["200: {}"]
    refusals = Refusals(collections.Counter({refused: 3}), wrong)
    return SoakResult((load, load), swaps, refusals, 100.0, 103.0, answers_only)


def broken(result):
    return [criterion.name for criterion in result.criteria if not criterion.passed]


def test_a_good_soak_passes():
    result = made()
    assert result.passed, broken(result)
    assert [found.value for found in result.p99_ms] == [2.0, 2.0]
    assert result.growth == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        # Of the warm-up, too.
        ({"failed": 1}, ["failed good requests"]),
        ({"resends": 1}, ["resent requests"]),
        ({"swap_ms": 3.1}, ["p99 during swaps"]),
        ({"resident": (101.0, 106.0, 107.0)}, ["resident memory"]),
        ({"done": False}, ["version swaps"]),
        ({"refused": "200"}, ["malformed requests"]),
        ({"resident": ()}, ["version swaps", "p99 during swaps", "resident memory"]),
    ],
)
def test_each_criterion_can_break(options, names):
    assert broken(made(**options)) == names


@pytest.mark.parametrize(
    ("options", "passed"),
    [({"swap_ms": 9.0, "resident": (200.0,)}, True), ({"failed": 1}, False)],
)
def test_only_responses_may_be_judged(options, passed):
    result = made(**options, answers_only=True)
    assert result.passed == passed
    shown = [criterion.name for criterion in result.criteria if not criterion.judged]
    assert shown == ["p99 during swaps", "resident memory"]
    console = Console(width=200, file=io.StringIO())
    console.print(soak_report.table(result))
    assert console.file.getvalue().count("shown") == 2


def test_figures_as_json():
    values = json.loads(json.dumps(soak_report.document(made(), {"seed": 0}), allow_nan=False))
    assert values["malformed"] == {"codes": {"400": 3}, "wrong": []}
    # Three swaps of a second, and half a second after each, at a hundred a second from two halves.
    assert "2.00 ms of 900, steady 2.00 ms of 17100" in values["criteria"][4]["found"]


def test_memory_of_this_process():
    assert 10 < soak._resident_mib(os.getpid()) < 10_000


def test_a_folder_without_versions(tmp_path, capsys):
    with pytest.raises(LoadError, match="has no version"):
        soak.run_soak(soak.SoakOptions(tmp_path))
    with pytest.raises(LoadError, match="`rate`"):
        soak.SoakOptions(tmp_path, rate=0)
    assert soak.main([str(tmp_path)]) == 1
    assert "has no version" in capsys.readouterr().err


def test_malformed_requests_are_sent_to_the_targets_round_robin(rest_stub, grpc_stub):
    import grpc

    async def predict(request, context):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no image")

    stub, url = rest_stub(lambda number: (0.0, 400, b'{"error": "no"}', ""))
    sender = MalformedSender([LoadTarget(url, "m"), LoadTarget(grpc_stub(predict), "m")])
    responses = [sender.send() for _ in range(10)]
    assert [code for code, _ in responses] == ["400", "INVALID_ARGUMENT"] * 5
    assert len({body for _, body in stub.requests}) == 5


class Versions:
    """Raises an error on the second push: a full disk, or Ctrl-C."""

    model = "m"

    def __init__(self, error):
        self.newest = 1
        self.error = error

    def push(self):
        raise self.error


@pytest.fixture
def server(rest_stub, grpc_stub):
    """A stub with the attributes of a server; `stub` receives the REST half of the load."""

    async def predict(request, context):
        return b""

    stub, url = rest_stub()
    return types.SimpleNamespace(
        pid=os.getpid(),
        rest_url=url,
        grpc_target=grpc_stub(predict).removeprefix("grpc://"),
        stub=stub,
    )


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_an_error_also_ends_the_load(server, tmp_path, error):
    options = soak.SoakOptions(tmp_path, seconds=20, warm_up_s=0.1, rate=40)
    with pytest.raises(type(error)):
        soak._drive(options, Versions(error), server, None)
    # Twenty a second for twenty seconds would be four hundred.
    assert 0 < len(server.stub.requests) < 300


def test_a_half_that_fails_ends_the_other(server, tmp_path, monkeypatch):
    options = soak.SoakOptions(tmp_path, seconds=20, warm_up_s=0.1, rate=40)
    server.stub.response = lambda number: (0.0, 404, b"{}", "")
    ended = []

    def run_load(target, *arguments, **keywords):
        try:
            return real(target, *arguments, **keywords)
        except LoadError as error:
            ended.append((target.scheme, str(error)))
            raise

    real = soak.run_load
    monkeypatch.setattr(soak, "run_load", run_load)
    monkeypatch.setattr(soak, "_swaps", lambda *arguments: iter(()))
    with pytest.raises(LoadError, match="does not serve the model 'm'"):
        soak._drive(options, Versions(None), server, None)
    assert [scheme for scheme, _ in ended] == ["http", "grpc"]
    assert "stopped before its end" in ended[1][1]


def test_ctrl_c_is_reported(tmp_path, monkeypatch, capsys):
    def interrupted(options, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(soak, "run_soak", interrupted)
    assert soak.main([str(tmp_path)]) == 130
    assert "stopped" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_soak_of_the_real_server(bundles_dir, tmp_path, capsys):
    # Two alternating versions of one model.
    folder = tmp_path / "colors"
    for version in (1, 2):
        shutil.copytree(bundles_dir / "colors" / "1", folder / str(version))
    out = tmp_path / "soak.json"
    often = ["--seconds=60", "--warm-up=5", "--swap=6", "--malformed=2"]
    status = soak.main([str(folder), *often, "--answers-only", f"--out={out}"])
    values = json.loads(out.read_text())
    shown = capsys.readouterr().out
    assert values["failed"] == {}, shown
    assert values["swap_seconds"]
    assert values["malformed"]["wrong"] == []
    assert set(values["malformed"]["codes"]) == {"400", "INVALID_ARGUMENT"}
    assert values["resident_mb"]["start"] > 50
    assert (status, values["passed"]) == (0, True), shown
    assert "failed good requests" in shown
    print(shown)
