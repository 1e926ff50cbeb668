"""The processes that train together according to TF_CONFIG, and a rendezvous with a timeout.

TensorFlow waits up to an hour for a missing worker, cannot be interrupted meanwhile, and does not
name the worker. So workers first check over TCP that all of them are reachable.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from trainers.config import ConfigError, TrainConfig

#: The environment variable with the seconds that workers wait for each other.
TIMEOUT = "SIGHTLINE_WORKER_TIMEOUT"
EXAMPLE = '{"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}'

_DEFAULT_TIMEOUT_S = 300.0
_PROBE_S = 2.0
_PAUSE_S = 0.2
# Vertex AI's CLUSTER_SPEC has numbered pools; `master` is an old name of the chief.
_KINDS = {
    "master": "chief",
    "workerpool0": "chief",
    "workerpool1": "worker",
    "workerpool2": "ps",
    "workerpool3": "evaluator",
}
_IDLE = {
    "ps": "synchronous training uses no parameter servers",
    "evaluator": "the workers evaluate the model after every epoch",
}
# Kills process argv[1] unless stdin is closed within argv[2] seconds. SIGTERM is not enough, as
# TensorFlow handles it.
_WATCH = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[2]))[0]:
    sys.stderr.write(sys.argv[3] + "\\n")
    sys.stderr.flush()
    os.kill(int(sys.argv[1]), signal.SIGKILL)
"""


class ClusterError(RuntimeError):
    """A malformed cluster or unreachable workers; the message names their addresses."""


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Attributes:
      chief: address of the chief, `host:port`; empty where worker 0 is the chief.
      workers: addresses of the workers.
      kind: of this process, `chief` or `worker`.
      index: of this process within its kind, from 0.
    """

    chief: tuple[str, ...]
    workers: tuple[str, ...]
    kind: str
    index: int

    @property
    def jobs(self) -> dict[str, tuple[str, ...]]:
        """`chief` and `worker` -> their addresses, without empty entries."""
        both = {"chief": self.chief, "worker": self.workers}
        return {kind: found for kind, found in both.items() if found}

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses, the chief's first."""
        return (*self.chief, *self.workers)

    @property
    def own(self) -> str:
        """The address on which this process listens."""
        return self.jobs[self.kind][self.index]

    @property
    def rank(self) -> int:
        """The rank of this process; 0 is the chief."""
        return self.addresses.index(self.own)


def read_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster of TF_CONFIG, or else of Vertex AI's CLUSTER_SPEC; None without either.

    Leaves out the job's parameter servers and evaluators.

    Raises:
      ClusterError: the variable is malformed, or this process does not take part in training.
    """
    name = "TF_CONFIG" if environment.get("TF_CONFIG") else "CLUSTER_SPEC"
    text = environment.get(name)
    if not text:
        return None
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise _malformed(name, f"is not JSON ({error})") from None
    if not isinstance(raw, dict) or not raw.get("cluster"):
        return None
    jobs = _jobs(name, raw["cluster"])
    kind, index = _task(name, raw.get("task"))
    if kind in _IDLE:
        raise ClusterError(
            f"{name} makes this process task {index} of `{kind}`, but {_IDLE[kind]}; "
            f"leave `{kind}` out of the job"
        )
    if kind not in jobs or not 0 <= index < len(jobs[kind]):
        known = ", ".join(f"{one} 0..{len(found) - 1}" for one, found in jobs.items())
        raise _malformed(name, f"says that this is {kind} {index}, but the cluster has {known}")
    return Cluster(jobs.get("chief", ()), jobs.get("worker", ()), kind, index)


def worker_timeout(environment: Mapping[str, str]) -> float:
    """Seconds that workers wait for each other: SIGHTLINE_WORKER_TIMEOUT, or 300.

    Raises:
      ClusterError: it is not a positive number.
    """
    text = environment.get(TIMEOUT, "")
    if not text:
        return _DEFAULT_TIMEOUT_S
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise ClusterError(f"{TIMEOUT} must be a positive number of seconds, got {text!r}")


def meet(cluster: Cluster, *, timeout_s: float) -> None:
    """Waits until every other worker accepts connections; this process listens meanwhile.

    Raises:
      ClusterError: workers are unreachable after `timeout_s` seconds (names them), or the port of
        this process is in use.
    """
    deadline = time.monotonic() + timeout_s
    missing = [address for address in cluster.addresses if address != cluster.own]
    reasons: dict[str, str] = {}
    with _listening(cluster):
        while missing:
            reasons = unreachable(missing)
            missing = list(reasons)
            if missing and time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_S if missing else 0)
    if missing:
        which = "; ".join(f"{address} ({reason})" for address, reason in reasons.items())
        raise ClusterError(
            f"{len(missing)} of {len(cluster.addresses)} workers were not reachable within "
            f"{timeout_s:g} s: {which}; start them, open the port between the machines, or wait "
            f"longer with {TIMEOUT}=seconds"
        )


def unreachable(addresses: Sequence[str]) -> dict[str, str]:
    """The addresses that accept no TCP connection now -> reason."""
    with ThreadPoolExecutor(min(len(addresses), 32) or 1) as pool:
        reasons = pool.map(_reason, addresses)
        return {one: why for one, why in zip(addresses, reasons, strict=True) if why}


def check_batch(config: TrainConfig, replicas: int) -> None:
    """Checks that the replicas and parts of a step get equal numbers of images.

    Raises:
      ConfigError: they do not; names the nearest global batches that fit.
    """
    unit = replicas * config.accumulate
    if config.global_batch % unit == 0:
        return
    lower = config.global_batch // unit * unit
    parts = f" x {config.accumulate} parts (train.accumulate)" if config.accumulate > 1 else ""
    either = f"{lower} or {lower + unit}" if lower else f"{unit}"
    raise ConfigError(
        f"train.global_batch={config.global_batch} does not divide by {replicas} "
        f"replica{'s' * (replicas > 1)}{parts}; use {either}"
    )


@contextlib.contextmanager
def ended_after(seconds: float, message: str) -> Iterator[None]:
    """Kills this process, with `message` on stderr, if the block takes longer than `seconds`.

    For calls that hold the interpreter lock while they wait: no thread or signal handler can
    interrupt them.
    """
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(os.getpid()), str(seconds), message]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as watch:
        try:
            yield
        finally:
            assert watch.stdin is not None
            watch.stdin.close()


def _jobs(name: str, raw: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(raw, dict):
        raise _malformed(name, f"has the `cluster` {raw!r}, which is not a mapping")
    jobs: dict[str, tuple[str, ...]] = {}
    for kind, addresses in raw.items():
        kind = _KINDS.get(kind, kind)
        if kind in _IDLE:
            continue
        if kind not in ("chief", "worker"):
            raise _malformed(name, f"has the unknown job {kind!r}; known: chief, worker")
        if not isinstance(addresses, list) or not addresses:
            raise _malformed(name, f"needs a list of addresses for {kind!r}, got {addresses!r}")
        for address in addresses:
            host, _, port = str(address).rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise _malformed(name, f"has the address {address!r}, which is not host:port")
        jobs[kind] = tuple(addresses)
    every = [address for found in jobs.values() for address in found]
    for address in every:
        if every.count(address) > 1:
            raise _malformed(name, f"has the address {address} for {every.count(address)} workers")
    return jobs


def _task(name: str, raw: Any) -> tuple[str, int]:
    if not isinstance(raw, dict) or not {"type", "index"} <= set(raw):
        raise _malformed(name, f"needs a `task` with type and index, got {raw!r}")
    kind, index = str(raw["type"]), str(raw["index"])
    if not index.isdigit():
        raise _malformed(name, f"has the task index {raw['index']!r}")
    return _KINDS.get(kind, kind), int(index)


def _malformed(name: str, what: str) -> ClusterError:
    return ClusterError(f"{name} {what}; example: {EXAMPLE}")


@contextlib.contextmanager
def _listening(cluster: Cluster) -> Iterator[None]:
    """Listens on the port of this process on all interfaces, as TensorFlow's server does."""
    port = int(cluster.own.rpartition(":")[2])
    with socket.socket() as server:
        # The port may have connections of an earlier run that are still closing.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
            server.listen(max(128, len(cluster.addresses)))
        except OSError as error:
            raise ClusterError(
                f"this worker cannot listen on port {port} for {cluster.own} ({error.strerror}); "
                "stop the process that uses the port, or choose another one"
            ) from None
        yield


def _reason(address: str) -> str:
    """Why `address` accepts no connection; empty where it does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""
