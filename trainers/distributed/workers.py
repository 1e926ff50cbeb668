"""`sightline train --workers N`: distributed training with N processes on this machine.

    launch(config, Path("work/cifar"), workers=2, report=print)

Each process is `python -m trainers.distributed.workers REQUEST` with its own TF_CONFIG, as on a
cluster. The chief reports progress over a pipe. When a process fails, all are stopped.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.processes import available_cores, exit_reason, module_command, start, stop, tail
from trainers.config import Config, ConfigError, from_dict, to_dict
from trainers.distributed.cluster import check_batch, read_cluster
from trainers.training.progress import EVENTS_FD, announce, emit, reporter

if TYPE_CHECKING:
    from trainers.training.epoch import Report
    from trainers.training.trained import Trained

_POLL_S = 0.2
# After a failure, the other workers fail within moments; waits for the reports of all.
_AFTERMATH_S = 0.5
_LEAVE_S = 30.0
# A write of up to 4 KiB to a pipe is atomic.
_MESSAGE_CHARACTERS = 1500
_NVIDIA = Path("/proc/driver/nvidia/gpus")


class WorkerError(RuntimeError):
    """A worker ended before the end of training; the message has the reason and names its log."""


def launch(
    config: Config,
    out: Path,
    *,
    workers: int,
    report: "Report | None" = None,
    announce: Callable[[str], None] | None = None,
    resume_anyway: bool = False,
) -> Path:
    """Trains `config` with `workers` processes, each with an equal share of the cores and GPUs.

    After a failure, the next call resumes from the last saved state.

    Args:
      config: `train.strategy` becomes `multi_worker`.
      out: the trained folder, written by the chief only; the logs of the workers are
        `out/logs/worker-K.log`.
      workers: number of processes, at least 1.
      report: called with the chief's progress.
      announce: called with the chief's messages, as by `trainers.loop.fit`.
      resume_anyway: as for `trainers.loop.fit`.

    Returns:
      `out`.

    Raises:
      ConfigError: the batch does not divide by the workers, there are fewer GPUs than workers, or
        the configuration has another strategy.
      WorkerError: a worker failed or was killed; the other workers were stopped.
    """
    _check(config, workers)
    gpus = _gpus(os.environ, workers)
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    request = logs / "workers.json"
    train = replace(config.train, strategy="multi_worker")
    threads = max(1, available_cores() // workers)
    facts = {"out": str(out), "threads": threads}
    facts["resume_anyway"] = resume_anyway
    request.write_text(json.dumps({"config": to_dict(replace(config, train=train)), **facts}))
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    with _Team(logs) as team:
        for rank in range(workers):
            team.start(rank, request, _environment(addresses, rank, gpus))
        team.follow(_receiver(report, announce))
    return out


def train_here(
    config: Config,
    out: Path,
    *,
    report: "Report | None" = None,
    announce: Callable[[str], None] | None = None,
    resume_anyway: bool = False,
) -> "Trained":
    """Trains in this process and writes `out`; in a cluster, only the chief reports and writes.

    All workers wait for each other at the end: TensorFlow treats a worker that left as failed.

    Raises:
      Exception: any error of `trainers.loop.fit`.
    """
    from trainers.loop import fit

    cluster = read_cluster(os.environ) if config.train.strategy == "multi_worker" else None
    if cluster is not None and cluster.rank:
        report = announce = None
    trained = fit(
        config,
        out / "checkpoints",
        report=report,
        announce=announce,
        resume_anyway=resume_anyway,
    )
    save_once(trained, out)
    return trained


def save_once(trained: "Trained", out: Path) -> None:
    """Writes the chief's trained folder and waits for all workers."""
    from trainers.distributed.strategy import from_chief, is_chief, own_folder
    from trainers.training.trained import save_trained

    strategy = trained.model.distribute_strategy
    own = own_folder(strategy, out)
    save_trained(trained, own)
    from_chief(strategy, [0.0])
    if not is_chief(strategy):
        shutil.rmtree(own)


class _Team:
    """The worker processes; all have ended at the end of the block."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: list[subprocess.Popen[bytes]] = []
        self._reading, self._writing = os.pipe()
        self._rest = b""
        self._errors: list[dict[str, Any]] = []

    def __enter__(self) -> "_Team":
        return self

    def __exit__(self, *exception: object) -> None:
        # TensorFlow handles SIGTERM itself, so a worker that waits ends by SIGKILL only.
        stop(*self._processes, grace_s=0, by=signal.SIGKILL)
        os.close(self._reading)
        with contextlib.suppress(OSError):
            os.close(self._writing)

    def start(self, rank: int, request: Path, environment: dict[str, str]) -> None:
        """Starts worker `rank`, whose output goes to its log."""
        with self._log(rank).open("wb") as log:
            command = module_command(
                "trainers.distributed.workers", str(request), end_with_parent=signal.SIGKILL
            )
            process = start(
                command,
                log=log,
                changes={**environment, EVENTS_FD: str(self._writing)},
                pass_fds=(self._writing,),
                # Ctrl-C reaches this process only, which stops the workers.
                start_new_session=True,
            )
        self._processes.append(process)

    def follow(self, receive: Callable[[dict[str, Any]], None]) -> None:
        """Waits for the end of the chief, and a limited time for the other workers.

        Raises:
          WorkerError: one of them failed.
        """
        os.close(self._writing)
        chief = self._processes[0]
        while chief.poll() is None and not self._failed():
            self._read(receive, _POLL_S)
        if chief.returncode == 0:
            self._read(receive, 0)
            deadline = time.monotonic() + _LEAVE_S
            while time.monotonic() < deadline and any(p.poll() is None for p in self._processes):
                time.sleep(_POLL_S)
            return
        until = time.monotonic() + _AFTERMATH_S
        while time.monotonic() < until:
            self._read(receive, 0.1)
        raise WorkerError(self._failure())

    def _failed(self) -> list[int]:
        return [rank for rank, one in enumerate(self._processes) if one.poll() not in (None, 0)]

    def _read(self, receive: Callable[[dict[str, Any]], None], wait: float) -> None:
        """Reads the events that arrive within `wait` seconds."""
        if not select.select([self._reading], [], [], wait)[0]:
            return
        chunk = os.read(self._reading, 1 << 16)
        if not chunk:  # All processes closed the pipe and are about to end.
            time.sleep(wait)
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["event"] == "error":
                self._errors.append(event)
            else:
                receive(event)

    def _failure(self) -> str:
        """The error text: of a killed worker, else of a worker that reported its error."""
        failed = self._failed()
        killed = [rank for rank in failed if self._processes[rank].returncode < 0]
        reported = sorted(self._errors, key=lambda event: not event["ours"])
        rank = killed[0] if killed else reported[0]["worker"] if reported else failed[0]
        own = [event["message"] for event in reported if event["worker"] == rank]
        status = self._processes[rank].poll()
        how = "failed"
        if status is not None and (status < 0 or not own):
            how = exit_reason(status)
        what = own[0] if own else "\n".join(["its last lines:", *tail(self._log(rank))])
        return (
            f"worker {rank} of {len(self._processes)} {how}: {what}\nfull log {self._log(rank)}\n"
            "the same command resumes from the last saved state"
        )

    def _log(self, rank: int) -> Path:
        return self._logs / f"worker-{rank}.log"


def _check(config: Config, workers: int) -> None:
    if workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    if config.train.strategy not in ("one", "multi_worker"):
        raise ConfigError(
            f"--workers {workers} needs train.strategy=multi_worker, but the configuration has "
            f"train.strategy={config.train.strategy}; leave one of them out"
        )
    check_batch(config.train, workers)


def _receiver(
    report: "Report | None", announce: Callable[[str], None] | None
) -> Callable[[dict[str, Any]], None]:
    from trainers.training.epoch import Progress

    def receive(event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "progress" and report is not None:
            report(Progress(**event))
        if kind == "announcement" and announce is not None:
            announce(event["line"])

    return receive


def _environment(addresses: Sequence[str], rank: int, gpus: list[list[str]]) -> dict[str, str]:
    task = {"type": "worker", "index": rank}
    own = {
        "TF_CONFIG": json.dumps({"cluster": {"worker": list(addresses)}, "task": task}),
        # gRPC would send requests to this machine through a proxy.
        "no_grpc_proxy": "127.0.0.1",
    }
    if gpus:
        own["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[rank])
    return own


def _gpus(environment: Any, workers: int) -> list[list[str]]:
    """The GPUs of each worker; empty on a machine without GPUs."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        found = [one for one in given.split(",") if one.strip() not in ("", "-1")]
    else:
        found = [str(n) for n in range(len(list(_NVIDIA.iterdir())))] if _NVIDIA.is_dir() else []
    if found and len(found) < workers:
        raise ConfigError(
            f"{workers} workers cannot share {len(found)} GPUs; use --workers {len(found)} at most"
            ", or hide the GPUs with CUDA_VISIBLE_DEVICES="
        )
    return [found[rank::workers] for rank in range(workers)] if found else []


def _free_ports(count: int) -> list[int]:
    """Free ports; all sockets stay open until the last is found, so that the ports differ."""
    with contextlib.ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def _error_text(error: Exception) -> str:
    ours = type(error).__module__.startswith("trainers.")
    text = str(error) if ours else f"{type(error).__name__}: {error}"
    return text[:_MESSAGE_CHARACTERS]


def main(arguments: Sequence[str]) -> int:
    """Runs one worker of a request file; returns 0 if training finished."""
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(request["threads"])
    try:
        config = from_dict(request["config"])
        train_here(
            config,
            Path(request["out"]),
            report=reporter(),
            announce=announce,
            resume_anyway=request["resume_anyway"],
        )
    except Exception as error:  # Reported to the launcher.
        import traceback

        traceback.print_exc()
        cluster = read_cluster(os.environ)
        emit(
            "error",
            worker=cluster.rank if cluster else 0,
            message=_error_text(error),
            ours=type(error).__module__.startswith("trainers."),
        )
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of TensorFlow's server would delay the exit of the interpreter.
    os._exit(status)
