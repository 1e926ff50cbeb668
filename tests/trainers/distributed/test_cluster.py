"""TF_CONFIG of Kubernetes and Vertex AI, and the rendezvous of workers."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.config import ConfigError, TrainConfig
from trainers.distributed.cluster import (
    Cluster,
    ClusterError,
    check_batch,
    meet,
    read_cluster,
    unreachable,
    worker_timeout,
)

ROOT = Path(__file__).resolve().parents[3]

# As the Kubeflow training operator sets it for a TFJob; `environment` is Kubeflow's and Vertex's.
KUBEFLOW = {
    "cluster": {
        "chief": ["job-chief-0.ml.svc:2222"],
        "worker": ["job-worker-0.ml.svc:2222", "job-worker-1.ml.svc:2222"],
        "ps": ["job-ps-0.ml.svc:2222"],
    },
    "task": {"type": "worker", "index": 1},
    "environment": "cloud",
}
# As Vertex AI sets CLUSTER_SPEC for a custom training job.
VERTEX = {
    "cluster": {"workerpool0": ["a:2222"], "workerpool1": ["b:2222", "c:2222"]},
    "environment": "cloud",
    "task": {"type": "workerpool1", "index": 0},
}


def with_task(kind, index):
    return {"TF_CONFIG": json.dumps({**KUBEFLOW, "task": {"type": kind, "index": index}})}


@pytest.fixture
def ports():
    """Three free ports of this machine."""
    held = [socket.socket() for _ in range(3)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return found


def local(ports, index):
    return Cluster((), tuple(f"127.0.0.1:{port}" for port in ports), "worker", index)


@pytest.mark.parametrize(("kind", "index", "rank"), [("chief", 0, 0), ("worker", 1, 2)])
def test_a_kubeflow_job_without_its_parameter_server(kind, index, rank):
    cluster = read_cluster(with_task(kind, index))
    assert cluster.rank == rank
    assert cluster.addresses == tuple(
        f"job-{name}.ml.svc:2222" for name in ("chief-0", "worker-0", "worker-1")
    )
    assert cluster.own == f"job-{kind}-{index}.ml.svc:2222"


def test_vertex_pools_are_chief_and_workers():
    cluster = read_cluster({"CLUSTER_SPEC": json.dumps(VERTEX)})
    assert cluster.jobs == {"chief": ("a:2222",), "worker": ("b:2222", "c:2222")}
    assert (cluster.kind, cluster.index, cluster.rank) == ("worker", 0, 1)


def test_tf_config_takes_precedence_over_cluster_spec():
    both = {"CLUSTER_SPEC": json.dumps(VERTEX), **with_task("chief", 0)}
    assert read_cluster(both).own == "job-chief-0.ml.svc:2222"


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": '{"job": 3}'}])
def test_no_cluster_is_none(environment):
    assert read_cluster(environment) is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("{", r"TF_CONFIG is not JSON \(.*example: \{\"cluster\""),
        ({"cluster": ["a:1"], "task": {}}, r"has the `cluster` \['a:1'\], which is not a mapping"),
        ({"cluster": {"boss": ["a:1"]}}, "the unknown job 'boss'; known: chief, worker"),
        ({"cluster": {"worker": "a:1"}}, "needs a list of addresses for 'worker', got 'a:1'"),
        ({"cluster": {"worker": ["a"]}}, "the address 'a', which is not host:port"),
        ({"cluster": {"worker": ["a:70000"]}}, "the address 'a:70000'"),
        ({"cluster": {"worker": ["a:1", "a:1"]}}, "has the address a:1 for 2 workers"),
        ({"cluster": {"worker": ["a:1"]}}, "needs a `task` with type and index, got None"),
        (
            {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "x"}},
            "the task index 'x'",
        ),
        (
            {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}},
            r"says that this is worker 2, but the cluster has worker 0\.\.1",
        ),
        (
            {"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}},
            r"says that this is chief 0, but the cluster has worker 0\.\.0",
        ),
    ],
)
def test_the_error_names_the_malformed_part_of_a_cluster(raw, message):
    text = raw if isinstance(raw, str) else json.dumps(raw)
    with pytest.raises(ClusterError, match=message):
        read_cluster({"TF_CONFIG": text})


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_nonsense_is_rejected_with_an_example(anything):
    text = json.dumps({"cluster": {"worker": anything}, "task": anything})
    with pytest.raises(ClusterError, match="example:"):
        read_cluster({"TF_CONFIG": text})


@pytest.mark.parametrize(("kind", "why"), [("ps", "synchronous"), ("evaluator", "every epoch")])
def test_processes_that_do_not_train_are_rejected(kind, why):
    with pytest.raises(ClusterError, match=f"task 0 of `{kind}`, but .*{why}.*leave `{kind}` out"):
        read_cluster(with_task(kind, 0))


def test_workers_find_each_other_in_any_order(ports):
    done = []

    def come(index, delay):
        time.sleep(delay)
        meet(local(ports, index), timeout_s=20)
        done.append(index)

    threads = [threading.Thread(target=come, args=(index, 0.3 * index)) for index in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    assert not done
    # A worker that found the others closes its port; TensorFlow's server, here this one, opens it.
    deadline = time.monotonic() + 20
    while len(done) < 3 and time.monotonic() < deadline:
        for index in list(done):
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind(("127.0.0.1", ports[index]))
                server.listen()
                time.sleep(0.5)
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2]


def test_the_error_names_the_missing_worker(ports):
    with socket.socket() as there:
        there.bind(("127.0.0.1", ports[1]))
        there.listen()
        with pytest.raises(ClusterError) as caught:
            meet(local(ports, 0), timeout_s=0.5)
    message = str(caught.value)
    assert message.startswith("1 of 3 workers were not reachable within 0.5 s: 127.0.0.1:")
    assert f"127.0.0.1:{ports[2]} (Connection refused)" in message
    assert str(ports[1]) not in message
    assert "SIGHTLINE_WORKER_TIMEOUT=seconds" in message


def test_the_error_names_a_port_in_use(ports):
    with socket.socket() as other:
        other.bind(("", ports[0]))
        other.listen()
        with pytest.raises(
            ClusterError, match=f"cannot listen on port {ports[0]} .*stop the process"
        ):
            meet(local(ports, 0), timeout_s=5)


def test_no_address_is_unreachable_among_none():
    assert unreachable([]) == {}


def test_a_block_that_takes_too_long_ends_the_process(tmp_path):
    """Files of the user in the current folder, named as Python's modules, are not imported."""
    for name in ("select", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported a file of the user')\n")
    # A loop in C that never lets another thread of Python run, as TensorFlow's waiting does.
    code = (
        "from trainers.distributed.cluster import ended_after\n"
        "with ended_after(30, 'never'): pass\n"
        "print('first', flush=True)\n"
        "with ended_after(0.5, 'too late: a:1'): sum(iter(int, 1))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert (done.stdout, done.stderr) == ("first\n", "too late: a:1\n")


@pytest.mark.parametrize(("text", "seconds"), [("", 300.0), ("7.5", 7.5)])
def test_the_timeout(text, seconds):
    assert worker_timeout({"SIGHTLINE_WORKER_TIMEOUT": text}) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan"])
def test_an_invalid_timeout_is_an_error(text):
    with pytest.raises(ClusterError, match="must be a positive number of seconds, got"):
        worker_timeout({"SIGHTLINE_WORKER_TIMEOUT": text})


@pytest.mark.parametrize(
    ("batch", "accumulate", "replicas", "advice"),
    [
        (33, 1, 2, "does not divide by 2 replicas; use 32 or 34"),
        (1, 1, 4, "does not divide by 4 replicas; use 4"),
        (36, 4, 2, r"does not divide by 2 replicas x 4 parts \(train.accumulate\); use 32 or 40"),
        (9, 2, 1, r"does not divide by 1 replica x 2 parts \(train.accumulate\); use 8 or 10"),
    ],
)
def test_a_batch_that_does_not_divide_names_the_nearest(batch, accumulate, replicas, advice):
    with pytest.raises(ConfigError, match=f"train.global_batch={batch} {advice}"):
        check_batch(TrainConfig(global_batch=batch, accumulate=accumulate), replicas)


def test_a_batch_that_divides_is_fine():
    check_batch(TrainConfig(global_batch=32, accumulate=4), 8)
