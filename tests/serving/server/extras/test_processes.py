"""Two real servers on one port, under Vertex AI's contract."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from serving.server.lifecycle.worker_processes import can_share_ports

pytestmark = pytest.mark.skipif(not can_share_ports(), reason="the system has no SO_REUSEPORT")

WAIT = 200


@pytest.fixture(scope="module")
def vertex(half_plus_two, tmp_path_factory):
    """(the parent, (REST, gRPC) ports, pids of the two, the folder for temporary files).

    What they serve is a bare SavedModel, as Vertex copies it.
    """
    folder = tmp_path_factory.mktemp("vertex")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TMPDIR": str(folder),
        "AIP_HTTP_PORT": str(port),
        "AIP_HEALTH_ROUTE": "/ping",
        "AIP_PREDICT_ROUTE": "/answer",
        "AIP_STORAGE_URI": str(half_plus_two / "123"),
    }
    command = [sys.executable, "-m", "serving.server", "--vertex", "--port=auto", "--processes=2"]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
        )
        stack.callback(process.kill)
        pids = re.fullmatch(r"2 processes: (\d+) (\d+)\n", process.stdout.readline())
        ready = process.stdout.readline()
        assert f"http://0.0.0.0:{port} and grpc://127.0.0.1:" in ready
        grpc_port = int(ready.rpartition(":")[2])
        yield process, (port, grpc_port), [int(pid) for pid in pids.groups()], folder


def send(port, method, path, value=None):
    connection = HTTPConnection("127.0.0.1", port, timeout=WAIT)
    connection.request(method, path, None if value is None else json.dumps(value))
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_vertex_responses(vertex):
    _, (port, _), *_ = vertex
    assert send(port, "GET", "/ping")[0] == 200
    status, body = send(port, "POST", "/answer", {"instances": [1.0, 2.0]})
    assert (status, json.loads(body)) == (200, {"predictions": [2.5, 3.0]})
    body = {"instances": [1.0], "parameters": {"signature_name": "nothing"}}
    assert send(port, "POST", "/answer", body)[0] == 400


def test_grpc_shares_its_port_too(vertex):
    import grpc
    from tensorflow_serving.apis import get_model_status_pb2

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "default"
    method = "/tensorflow.serving.ModelService/GetModelStatus"
    for _ in range(6):
        with grpc.insecure_channel(f"127.0.0.1:{vertex[1][1]}") as channel:
            answer = channel.unary_unary(method)(request.SerializeToString(), timeout=WAIT)
        status = get_model_status_pb2.GetModelStatusResponse.FromString(answer)
        assert [entry.version for entry in status.model_version_status] == [1]


def test_a_reload_request_is_refused(vertex):
    import grpc
    from tensorflow_serving.apis import model_management_pb2

    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    method = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    with grpc.insecure_channel(f"127.0.0.1:{vertex[1][1]}") as channel:
        call = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as caught:
            call(request.SerializeToString(), timeout=WAIT)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_metrics_are_those_of_both(vertex):
    _, (port, _), *_ = vertex
    # Until each process has the counts of the earlier tests' requests to the other.
    counts = []
    while len(counts) < 5 or len(set(counts[-5:])) > 1:
        counts.append(max(count(port) for _ in range(20)))
        time.sleep(0.5)
    before = counts[-1]
    for _ in range(40):
        assert send(port, "POST", "/answer", {"instances": [1.0]})[0] == 200
    deadline = time.monotonic() + WAIT
    # Each process knows the other's numbers a second late at most, on a machine that is not busy.
    while (seen := {count(port) for _ in range(20)}) != {before + 40}:
        assert max(seen) <= before + 40
        assert time.monotonic() < deadline
        time.sleep(0.2)


def count(port):
    text = send(port, "GET", "/monitoring/prometheus/metrics")[1].decode()
    found = re.search(r'request_count\{model_name="default",status="OK"\} (\d+)', text)
    return int(found[1]) if found else 0


def test_a_dead_process_is_not_missed_for_long(vertex):
    process, (port, _), pids, folder = vertex
    os.kill(pids[0], signal.SIGKILL)
    failed = 0
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            assert send(port, "GET", "/ping")[0] == 200
        except (ConnectionError, OSError):
            failed += 1
    # Connections that the kernel had given to the dead process; new ones go to the other.
    assert failed <= 2
    process.terminate()
    assert process.wait(WAIT) == 0
    assert not Path(f"/proc/{pids[1]}").exists()
    assert not list(folder.rglob("sightline-vertex-*"))
