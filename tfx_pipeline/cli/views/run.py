"""`sightline run`: starts the runner in a process of its own, shows it, and tells how it ended.

This side imports neither TFX nor TensorFlow: it answers at once when there is nothing to do, holds
the lock, keeps 4,000 lines of log out of sight, and reads the verdicts.
"""

import contextlib
import datetime
import fcntl
import json
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape

from core.lineage import store_state
from core.processes import module_command
from tfx_pipeline.cli.views.live import LiveView
from tfx_pipeline.config import slice_keys
from tfx_pipeline.request.run import Layout, RunRequest, request_to_json, run_state
from trainers.data.features import DatasetInfo
from trainers.training.progress import EVENTS_FD

PUSHED, ERROR, REFUSED = 0, 1, 3

_TAIL_LINES = 12


class LockedError(RuntimeError):
    """Another run of this pipeline is under way; the message says whose."""


def run(request: RunRequest, console: Console) -> int:
    """Runs the pipeline, or reprints the last result when nothing changed.

    Returns:
      0 when every model was pushed, 3 when a gate refused one or could not decide, or a rollback
      had withdrawn it, 1 on an error.

    Raises:
      LockedError: another run of this pipeline is under way.
      DatasetError: no records in `request.data`, or of another task than an experiment's.
      ConfigError: the pipeline slices by a key that the records do not have.
    """
    info = DatasetInfo.load(Path(request.data))
    for name, config in request.experiments.items():
        info.check_task(config.task, f"the experiment {name}")
    slice_keys(request.pipeline, info)
    layout = request.layout
    with locked(layout) as lock:
        last = None
        if not (request.force or request.start):
            with console.status("looking for changes"):
                last = unchanged(request, info)
        if last is not None:
            console.print(f"nothing changed since run {last['run']}; --force runs it again\n")
            return show(last, layout, console)
        status = _run_child(request, layout, console, lock)
    if status != 0:
        return status
    return show(read_summary(layout, "latest"), layout, console)


def unchanged(request: RunRequest, info: DatasetInfo) -> dict[str, Any] | None:
    """The last run's summary, if another run would do the same again.

    It came to its end with the same key, and the bundle store holds what it held then: after a
    push, a rollback or a deletion, a run compares with another live model.
    """
    try:
        last = read_summary(request.layout, "latest")
    except (FileNotFoundError, ValueError):
        return None
    if last["status"] == "error" or last["key"] != request.key(run_state(request, info)):
        return None
    models = [config.name for config in request.experiments.values()]
    live = {name: store_state(request.layout.bundles / name) for name in models}
    return last if last.get("live") == live else None


def read_summary(layout: Layout, run: str) -> dict[str, Any]:
    """The summary of one run, or of `latest`.

    Raises:
      FileNotFoundError: no such run; names the runs there are.
    """
    path = layout.report(run) / "summary.json"
    if not path.is_file():
        folder = layout.home / "reports"
        runs = sorted(p.name for p in folder.glob("*")) if folder.is_dir() else []
        have = ", ".join(runs[-5:]) or "none"
        raise FileNotFoundError(f"{path} does not exist; runs of {layout.pipeline}: {have}")
    return json.loads(path.read_text(encoding="utf-8"))


def show(summary: dict[str, Any], layout: Layout, console: Console) -> int:
    """Prints the run's table and the gates that did not hold; returns the exit status."""
    from tfx_pipeline.report import REPORT_FILE, console_gates, console_table, view

    console.print(console_table(summary))
    gates = console_gates(summary)
    if gates is not None:
        console.print(gates)
    for model in view.withdrawn(summary):
        console.print(
            f"withdrawn    {model['name']}: version {model['version']} holds the same and was put "
            f"aside by a rollback; to serve it again: {model['way_back']}",
            markup=False,
            soft_wrap=True,
        )
    for line in summary.get("unchecked", ()):
        console.print(f"not checked  {line}", markup=False, soft_wrap=True)
    for model in summary["models"]:
        if model.get("linear_probe"):
            line = f"linear probe {model['name']}: {model['linear_probe']}"
            console.print(line, markup=False, soft_wrap=True)
    for line in view.undecided(summary):
        console.print(f"not decided  {line}", markup=False, soft_wrap=True)
    if summary["recommendation"]:
        console.print(f"recommended  {summary['recommendation']}", soft_wrap=True)
    for line in compression_lines(summary):
        console.print(line, soft_wrap=True)
    console.print(
        f"time         {summary['seconds']:.0f} s, after {summary.get('import_seconds', 0):.0f} s "
        f"of imports; peak memory {summary.get('peak_memory_mb', 0):.0f} MiB"
    )
    console.print(f"bundles      {layout.bundles}", soft_wrap=True)
    console.print(f"report       {layout.report(summary['run']) / REPORT_FILE}", soft_wrap=True)
    states = {
        "pushed": PUSHED,
        "refused": REFUSED,
        "undecided": REFUSED,
        "withdrawn": REFUSED,
    }
    return states.get(summary["status"], ERROR)


def compression_lines(summary: dict[str, Any]) -> list[str]:
    """For each int8 variant: how much smaller than float after gzip, and the paired difference."""
    lines = []
    for model in summary["models"]:
        variants = {v["name"]: v for v in model.get("variants", [])}
        for variant in variants.values():
            if variant["dtype"] != "int8":
                continue
            ratio = variants["none_fp32"]["gzip_bytes"] / variant["gzip_bytes"]
            value, low, high = (100 * x for x in variant["difference"]["top1"])
            lines.append(
                f"compression  {model['name']} {variant['name']}: {ratio:.1f}x smaller after gzip, "
                f"top-1 {value:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"
            )
    return lines


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[IO[str]]:
    """Holds the pipeline's lock; the runner inherits it, so it lasts as long as either lives.

    Raises:
      LockedError: another process holds it; says which, and since when.
    """
    layout.home.mkdir(parents=True, exist_ok=True)
    with layout.lock.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise LockedError(
                f"pipeline {layout.pipeline!r} is already running under {layout.root}: {holder}; "
                "wait for it, or use another --root"
            ) from None
        now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
        handle.seek(0)
        handle.truncate()
        handle.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        handle.flush()
        yield handle


def _run_child(request: RunRequest, layout: Layout, console: Console, lock: IO[str]) -> int:
    logs = layout.logs(request.run)
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "request.json").write_text(request_to_json(request), encoding="utf-8")
    log = logs / "tfx.log"
    reading, writing = os.pipe()
    environment = {**os.environ, EVENTS_FD: str(writing), "TF_CPP_MIN_LOG_LEVEL": "1"}
    with log.open("wb") as stream:
        child = subprocess.Popen(
            module_command("tfx_pipeline.runners.local", str(logs / "request.json")),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(writing, lock.fileno()),
        )
    os.close(writing)
    message = ""
    with os.fdopen(reading, encoding="utf-8") as events, LiveView(console) as view:
        try:
            for line in events:
                event = json.loads(line)
                view.show(event)
                if event["event"] == "error":
                    message = event["message"]
            status = child.wait()
        except KeyboardInterrupt:
            message = "interrupted"
            child.send_signal(signal.SIGINT)
            status = _end(child)
    if status == 0:
        return 0
    console.print(f"\n[bold red]the run failed[/]: {escape(message or _died(status))}")
    if not message:
        console.print(escape("\n".join(tail(log))))
    console.print(f"full log  {log}", soft_wrap=True)
    console.print("the same command goes on from the component that failed")
    return ERROR


def _end(child: "subprocess.Popen[bytes]") -> int:
    try:
        return child.wait(timeout=20)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _died(status: int) -> str:
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"


def tail(log: Path) -> list[str]:
    """The last lines of a log."""
    with log.open(encoding="utf-8", errors="replace") as handle:
        return [line.rstrip() for line in deque(handle, _TAIL_LINES)]
