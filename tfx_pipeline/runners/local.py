"""Runs the graph on this machine, one component after the other, in a process of its own.

`tfx_pipeline.cli.views.run` starts it with `-m tfx_pipeline.runners.local REQUEST.json`, keeps its
log in
a file, and shows the events that it emits (see `trainers.training.progress`). What succeeded is in
TFX's cache, so that a run which failed, or was killed, goes on where it stopped when started again.
"""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tfx_pipeline.report.summary import Node, build_summary, write_summary
from tfx_pipeline.request.run import RunRequest, request_from_json, run_state
from trainers.data.features import DatasetInfo
from trainers.registry import nearest
from trainers.training.progress import RESUME_ANYWAY, emit

_PR_SET_PDEATHSIG = 1


class RunError(RuntimeError):
    """A run that cannot start; the message says why."""


def run(request: RunRequest) -> dict[str, Any]:
    """Runs `request` and returns its summary, which also stands in the report folder.

    Raises:
      RunError: `request.start` names no node.
      Anything a component raised, after its failure was recorded.
    """
    if request.resume_anyway:
        os.environ[RESUME_ANYWAY] = "1"
    info = DatasetInfo.load(Path(request.data))
    # Every byte of new records is read, which takes minutes where there are many.
    emit("component", name="read data and code", state="running")
    state = run_state(request, info)
    began = time.perf_counter()
    emit("component", name="import TFX", state="running")
    # Thirty seconds of CPU: only here, and only when something has to run.
    from tfx_pipeline.graph import create_pipeline
    from tfx_pipeline.runners import dag

    request.layout.home.mkdir(parents=True, exist_ok=True)
    emit("component", name="import TFX", state="done", seconds=time.perf_counter() - began)
    graph = dag.compile_graph(create_pipeline(request, info), request.run)
    without_cache = set(dag.all_nodes(graph)) if request.force else set()
    if request.start:
        without_cache |= _from(request.start, graph, dag)
    for name in without_cache:
        if name.startswith(
            ("Tuner.", "Trainer.")
        ):  # Or training would only find its own checkpoints again.
            shutil.rmtree(request.layout.checkpoints / name.partition(".")[2], ignore_errors=True)
    nodes: list[Node] = []
    started = time.perf_counter()
    failure: BaseException | None = None
    for name in dag.all_nodes(graph):
        emit("component", name=name, state="running")
        at = time.perf_counter()
        try:
            cached = dag.launch(graph, name, use_cache=name not in without_cache)
            became = "cached" if cached else "done"
        except BaseException as error:  # KeyboardInterrupt too: it is recorded and raised below.
            became, failure = "failed", error
        seconds = time.perf_counter() - at
        nodes.append(Node(name, became, seconds))
        emit("component", name=name, state=became, seconds=seconds)
        if failure is not None:
            break
    summary = build_summary(
        request,
        info,
        nodes,
        dag.outputs(graph),
        state=state,
        seconds=time.perf_counter() - started,
        error=_in_words(failure, nodes) if failure is not None else "",
    )
    summary["import_seconds"] = started - began
    summary["peak_memory_mb"] = peak_memory_mb()
    write_summary(summary, request.layout)
    if failure is not None:
        raise failure
    return summary


def _from(start: str, graph: Any, dag: Any) -> set[str]:
    """Every node whose id begins with `start`, and all that come after them."""
    names = list(dag.all_nodes(graph))
    first = [name for name in names if name == start or name.startswith(f"{start}.")]
    if not first:
        kinds = sorted({name.split(".")[0] for name in names})
        raise RunError(f"--from {start!r} names no component; {nearest(start, kinds)}")
    return set(first) | dag.downstream(graph, first)


def _in_words(error: BaseException, nodes: list[Node]) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted in {nodes[-1].name}"
    return f"{nodes[-1].name}: {type(error).__name__}: {error}"


def peak_memory_mb() -> float:
    """Largest resident set of this process or of one of its children so far, in MiB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    largest = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    return largest / (1024 if sys.platform == "linux" else 1024 * 1024)


def _die_with_parent() -> None:
    """Ends this process when the one that started it is killed; Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(request_file: str) -> int:
    """The process: 0 when the run came to its end, whatever the gates said, else 1."""
    _die_with_parent()
    request = request_from_json(Path(request_file).read_text(encoding="utf-8"))
    try:
        summary = run(request)
    except KeyboardInterrupt:
        emit("error", message="interrupted")
        return 130
    except Exception as error:
        import traceback

        traceback.print_exc()
        emit("error", message=f"{type(error).__name__}: {error}")
        return 1
    emit("finished", status=summary["status"])
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Beam and TensorFlow leave threads behind that would hold the interpreter up.
    os._exit(status)
