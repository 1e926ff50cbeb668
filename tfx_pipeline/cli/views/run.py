"""`sightline run`: starts the runner in a child process, shows its progress, and prints the result.

This process does not import TFX or TensorFlow, so a run without changes ends at once. It holds the
pipeline's lock, writes the log to a file, and reads the verdicts.
"""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from core.files import read_json, write_text
from core.lineage import store_state
from core.locks import LockHeldError, file_lock
from core.processes import exit_reason, module_command, start, stop, tail
from tfx_pipeline.cli.views.live import LiveView
from tfx_pipeline.config import slice_keys
from tfx_pipeline.request.run import Layout, RunRequest, request_to_json, run_state
from tfx_pipeline.request.settings import check_fairness
from trainers.data.features import DatasetInfo
from trainers.training.progress import EVENTS_FD

PUSHED, ERROR, REFUSED = 0, 1, 3

_STOP_S = 20.0


class LockedError(RuntimeError):
    """Another run of this pipeline is in progress; the message names its process."""


def run(request: RunRequest, console: Console) -> int:
    """Runs the pipeline, or prints the last result again when nothing changed.

    Returns:
      0 if every model was pushed; 3 if a gate refused a model or could not decide, or a rollback
      had withdrawn it; 1 after an error.

    Raises:
      LockedError: another run of this pipeline is in progress.
      DatasetError: `request.data` has no records, or records of another task.
      ConfigError: the pipeline slices or compares groups by a key that the records do not have.
    """
    info = DatasetInfo.load(Path(request.data))
    for name, config in request.experiments.items():
        info.check_task(config.task, f"the experiment {name}")
    slice_keys(request.pipeline, info)
    check_fairness(request.pipeline, info)
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
    """The last run's summary if another run would give the same result; otherwise None.

    The last run finished with the same key, and the bundle store is unchanged: after a push, a
    rollback, or a deletion, a run compares with another live model.
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
      FileNotFoundError: the run does not exist; names the runs that do.
    """
    path = layout.report(run) / "summary.json"
    if not path.is_file():
        folder = layout.home / "reports"
        runs = sorted(p.name for p in folder.glob("*")) if folder.is_dir() else []
        have = ", ".join(runs[-5:]) or "none"
        raise FileNotFoundError(f"{path} does not exist; runs of {layout.pipeline}: {have}")
    return read_json(path)


def show(summary: dict[str, Any], layout: Layout, console: Console) -> int:
    """Prints the run's table and the gates that did not hold; returns the exit status."""
    from tfx_pipeline.report import (
        REPORT_FILE,
        console_gates,
        console_metrics,
        console_table,
        view,
    )

    console.print(console_table(summary))
    for table in (console_metrics(summary), console_gates(summary)):
        if table is not None:
            console.print(table)
    for model in view.withdrawn(summary):
        console.print(
            f"withdrawn    {model['name']}: version {model['version']} has the same content and "
            f"was withdrawn by a rollback; to serve it again: {model['way_back']}",
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
    """One line per int8 variant: compression ratio after gzip and paired difference in top-1."""
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
def locked(layout: Layout) -> Iterator[int]:
    """Holds the pipeline's lock; the runner inherits it, so it lasts until both have ended.

    Raises:
      LockedError: another process holds it; names the process and the time.
    """
    layout.home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(file_lock(layout.lock, wait_s=0, inherited=True))
        except LockHeldError as error:
            raise LockedError(
                f"pipeline {layout.pipeline!r} is already running under {layout.root}: "
                f"{error.holder}; wait for it, or use another --root"
            ) from None
        yield lock


def _run_child(request: RunRequest, layout: Layout, console: Console, lock: int) -> int:
    logs = layout.logs(request.run)
    logs.mkdir(parents=True, exist_ok=True)
    write_text(logs / "request.json", request_to_json(request))
    log = logs / "tfx.log"
    reading, writing = os.pipe()
    command = module_command(
        "tfx_pipeline.runners.local",
        str(logs / "request.json"),
        end_with_parent=signal.SIGTERM,
    )
    with log.open("wb") as stream:
        child = start(
            command,
            log=stream,
            changes={EVENTS_FD: str(writing), "TF_CPP_MIN_LOG_LEVEL": "1"},
            pass_fds=(writing, lock),
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
            stop(child, grace_s=_STOP_S, by=signal.SIGINT)
            status = child.returncode
    if status == 0:
        return 0
    reason = message or f"its process {exit_reason(status)}"
    console.print(f"\n[bold red]the run failed[/]: {escape(reason)}")
    if not message:
        console.print(escape("\n".join(tail(log))))
    console.print(f"full log  {log}", soft_wrap=True)
    console.print("the same command resumes from the component that failed")
    return ERROR
