"""The child process of `sightline run`: runs the graph on this machine, one component at a time.

`tfx_pipeline.cli.views.run` starts `-m tfx_pipeline.runners.local REQUEST.json`, writes its log to
a file, and shows its events (see `trainers.training.progress`). Finished components are in TFX's
cache, so a run that failed or was killed resumes at the component where it stopped.
"""

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from core.processes import peak_memory_bytes
from tfx_pipeline.report.summary import Node, build_summary, write_summary
from tfx_pipeline.request.run import RunRequest, request_from_json, run_state
from trainers.data.features import DatasetInfo
from trainers.registry import nearest
from trainers.training.progress import RESUME_ANYWAY, emit


class RunError(RuntimeError):
    """A run that cannot start; the message has the reason."""


def run(request: RunRequest) -> dict[str, Any]:
    """Runs `request` and returns its summary, which is also in the report folder.

    Raises:
      RunError: `request.start` is not the name of a component.
      Exception: any error of a component, after it was recorded.
    """
    if request.resume_anyway:
        os.environ[RESUME_ANYWAY] = "1"
    info = DatasetInfo.load(Path(request.data))
    # Reads every byte of new records, which takes minutes for large data sets.
    emit("component", name="read data and code", state="running")
    state = run_state(request, info)
    began = time.perf_counter()
    emit("component", name="import TFX", state="running")
    # Takes up to 30 seconds of CPU.
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
            state_of_node = "cached" if cached else "done"
        except BaseException as error:  # Also KeyboardInterrupt; recorded here and raised below.
            state_of_node, failure = "failed", error
        seconds = time.perf_counter() - at
        nodes.append(Node(name, state_of_node, seconds))
        emit("component", name=name, state=state_of_node, seconds=seconds)
        if failure is not None:
            break
    summary = build_summary(
        request,
        info,
        nodes,
        dag.outputs(graph),
        state=state,
        seconds=time.perf_counter() - started,
        error=_error_text(failure, nodes) if failure is not None else "",
    )
    summary["import_seconds"] = started - began
    summary["peak_memory_mb"] = peak_memory_bytes(children=True) / 2**20  # In MiB.
    write_summary(summary, request.layout)
    if failure is not None:
        raise failure
    return summary


def _from(start: str, graph: Any, dag: Any) -> set[str]:
    """Every node whose id starts with `start`, and all nodes that depend on them."""
    names = list(dag.all_nodes(graph))
    first = [name for name in names if name == start or name.startswith(f"{start}.")]
    if not first:
        kinds = sorted({name.split(".")[0] for name in names})
        raise RunError(f"--from: no component named {start!r}; {nearest(start, kinds)}")
    return set(first) | dag.downstream(graph, first)


def _error_text(error: BaseException, nodes: list[Node]) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted in {nodes[-1].name}"
    return f"{nodes[-1].name}: {type(error).__name__}: {error}"


def main(request_file: str) -> int:
    """Runs the request; returns 0 if the run finished, whatever its gates, and 1 otherwise."""
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
    # Threads of Beam and TensorFlow would delay the exit of the interpreter.
    os._exit(status)
