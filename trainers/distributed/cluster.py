"""Which processes train together, as TF_CONFIG tells, and a meeting with a deadline.

TensorFlow waits up to an hour for a peer that never comes, cannot be interrupted meanwhile, and
does not say which one it was. So workers meet here first, by plain TCP. Standard library only.
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

#: Holds how many seconds workers wait for each other.
TIMEOUT = "SIGHTLINE_WORKER_TIMEOUT"
EXAMPLE = '{"cluster": {"worker": ["host:port"]}, "task": {"type": "worker", "index": 0}}'

_DEFAULT_TIMEOUT_S = 300.0
_PROBE_S = 2.0
_PAUSE_S = 0.2
# Vertex AI's CLUSTER_SPEC counts pools where TF_CONFIG has words; `master` is the chief's old name.
_KINDS = {
    "master": "chief",
    "workerpool0": "chief",
    "workerpool1": "worker",
    "workerpool2": "ps",
    "workerpool3": "evaluator",
}
_IDLE = {
    "ps": "parameter servers have no part in synchronous training",
    "evaluator": "the workers evaluate by themselves after every epoch",
}
# Ends process argv[1] unless stdin is closed within argv[2] seconds. SIGTERM would not do:
# TensorFlow takes it over.
_WATCH = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[2]))[0]:
    sys.stderr.write(sys.argv[3] + "\\n")
    sys.stderr.flush()
    os.kill(int(sys.argv[1]), signal.SIGKILL)
"""


class ClusterError(RuntimeError):
    """Workers that do not find each other; the message names their addresses."""


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Attributes:
      chief: its address, `host:port`; empty where worker 0 is the chief.
      workers: the others' addresses.
      kind: this process's, `chief` or `worker`.
      index: of this process among its kind, from 0.
    """

    chief: tuple[str, ...]
    workers: tuple[str, ...]
    kind: str
    index: int

    @property
    def jobs(self) -> dict[str, tuple[str, ...]]:
        """`chief` and `worker` to their addresses, without one that is empty."""
        both = {"chief": self.chief, "worker": self.workers}
        return {kind: found for kind, found in both.items() if found}

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of all of them, the chief's first."""
        return (*self.chief, *self.workers)

    @property
    def own(self) -> str:
        """The address that this process answers at."""
        return self.jobs[self.kind][self.index]

    @property
    def rank(self) -> int:
        """This process's number among all; 0 is the chief."""
        return self.addresses.index(self.own)


def read_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster that TF_CONFIG names, or else Vertex AI's CLUSTER_SPEC; None without one.

    Parameter servers and evaluators of the same job are left out.

    Raises:
      ClusterError: it is malformed, or this process is one of those that do not train.
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
        raise _malformed(name, f"says that this is {kind} {index}, and the cluster has {known}")
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
    """Returns once every other worker answers; meanwhile this one answers at its own port.

    Raises:
      ClusterError: some do not answer in time, which are named, or the own port is taken.
    """
    deadline = time.monotonic() + timeout_s
    missing = [address for address in cluster.addresses if address != cluster.own]
    reasons: dict[str, str] = {}
    with _answering(cluster):
        while missing:
            reasons = unanswered(missing)
            missing = list(reasons)
            if missing and time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_S if missing else 0)
    if missing:
        which = "; ".join(f"{address} ({reason})" for address, reason in reasons.items())
        raise ClusterError(
            f"{len(missing)} of {len(cluster.addresses)} workers did not answer within "
            f"{timeout_s:g} s: {which}; start them, open the port between the machines, or wait "
            f"longer with {TIMEOUT}=seconds"
        )


def unanswered(addresses: Sequence[str]) -> dict[str, str]:
    """Those of `addresses` that take no TCP connection now, each with the reason."""
    with ThreadPoolExecutor(min(len(addresses), 32) or 1) as pool:
        reasons = pool.map(_reason, addresses)
        return {one: why for one, why in zip(addresses, reasons, strict=True) if why}


def check_batch(config: TrainConfig, replicas: int) -> None:
    """Nothing, when every replica gets as many images of a step, in equal parts.

    Raises:
      ConfigError: names the nearest global batches that do.
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
    """Kills this process, with `message` on stderr, when the block takes longer than `seconds`.

    For calls that hold Python's lock while they wait, which no thread or signal handler of ours
    could interrupt.
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
        raise _malformed(name, f"has a `cluster` that is {raw!r}")
    jobs: dict[str, tuple[str, ...]] = {}
    for kind, addresses in raw.items():
        kind = _KINDS.get(kind, kind)
        if kind in _IDLE:
            continue
        if kind not in ("chief", "worker"):
            raise _malformed(name, f"has the unknown job {kind!r}; chief and worker train")
        if not isinstance(addresses, list) or not addresses:
            raise _malformed(name, f"has no list of addresses for {kind!r}, but {addresses!r}")
        for address in addresses:
            host, _, port = str(address).rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise _malformed(name, f"has the address {address!r}, which is not host:port")
        jobs[kind] = tuple(addresses)
    every = [address for found in jobs.values() for address in found]
    for address in every:
        if every.count(address) > 1:
            raise _malformed(name, f"gives {address} to {every.count(address)} workers")
    return jobs


def _task(name: str, raw: Any) -> tuple[str, int]:
    if not isinstance(raw, dict) or not {"type", "index"} <= set(raw):
        raise _malformed(name, f"does not say which task this is, but {raw!r}")
    kind, index = str(raw["type"]), str(raw["index"])
    if not index.isdigit():
        raise _malformed(name, f"has the task index {raw['index']!r}")
    return _KINDS.get(kind, kind), int(index)


def _malformed(name: str, what: str) -> ClusterError:
    return ClusterError(f"{name} {what}; it looks like {EXAMPLE}")


@contextlib.contextmanager
def _answering(cluster: Cluster) -> Iterator[None]:
    """Listens at the own port, on all interfaces, as TensorFlow's server will."""
    port = int(cluster.own.rpartition(":")[2])
    with socket.socket() as server:
        # Connections of the last run that are still closing are no reason to refuse.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", port))
            server.listen(max(128, len(cluster.addresses)))
        except OSError as error:
            raise ClusterError(
                f"this worker is to answer at {cluster.own}, and port {port} cannot be had "
                f"({error.strerror}); end the process that has it, or give the worker another"
            ) from None
        yield


def _reason(address: str) -> str:
    """Why `address` takes no connection; empty where it does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""
