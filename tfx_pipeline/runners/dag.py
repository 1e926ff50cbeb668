"""Compiles a TFX pipeline, launches its nodes one by one, and reads their outputs.

TFX's own LocalDagRunner does not report which node is running and which results came from the
cache, and cannot disable the cache for some nodes.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils


@dataclass(frozen=True)
class Graph:
    """A compiled pipeline and the connection to its metadata."""

    ir: Any
    deployment: Any
    connection: Any
    run_id: str


def compile_graph(pipeline: tfx.dsl.Pipeline, run: str) -> Graph:
    """Compiles `pipeline`; the run's id in ML Metadata consists of `run` and the time.

    With the time, a second attempt of a run has another id: otherwise TFX would reuse the
    executions of an attempt that was killed.
    """
    ir = compiler.Compiler().compile(pipeline)
    stamp = datetime.datetime.now(datetime.timezone.utc).isoformat()
    run_id = f"{run}-{stamp}"
    runtime_parameter_utils.substitute_runtime_parameter(
        ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id}
    )
    deployment = runner_utils.extract_local_deployment_config(ir)
    config = deployment.metadata_connection_config
    connection = getattr(config, config.WhichOneof("connection_config"))
    return Graph(ir, deployment, connection, run_id)


def all_nodes(graph: Graph) -> dict[str, Any]:
    """Node id -> node, in the order of execution."""
    return {n.pipeline_node.node_info.id: n.pipeline_node for n in graph.ir.nodes}


def downstream(graph: Graph, names: Iterable[str]) -> set[str]:
    """All nodes that depend on `names`, directly or indirectly."""
    nodes, found, todo = all_nodes(graph), set(), list(names)
    while todo:
        for after in nodes[todo.pop()].downstream_nodes:
            if after not in found:
                found.add(after)
                todo.append(after)
    return found


def launch(graph: Graph, name: str, *, use_cache: bool = True) -> bool:
    """Runs one node; returns whether its result came from the cache.

    Raises:
      Exception: any error of the component.
    """
    node = all_nodes(graph)[name]
    if not use_cache:
        node.execution_options.caching_options.enable_cache = False
    execution = launcher.Launcher(
        pipeline_node=node,
        mlmd_connection=metadata.Metadata(graph.connection),
        pipeline_info=graph.ir.pipeline_info,
        pipeline_runtime_spec=graph.ir.runtime_spec,
        executor_spec=runner_utils.extract_executor_spec(graph.deployment, name),
        custom_driver_spec=runner_utils.extract_custom_driver_spec(graph.deployment, name),
    ).launch()
    if execution is None or not execution.execution_id:
        return False
    with metadata.Metadata(graph.connection) as handle:
        (found,) = handle.store.get_executions_by_id([execution.execution_id])
    return found.last_known_state == metadata_store_pb2.Execution.CACHED


@dataclass(frozen=True)
class Output:
    """One output artifact of a node in this run, new or from the cache."""

    node: str
    key: str
    id: int
    type: str
    uri: str


def outputs(graph: Graph) -> list[Output]:
    """The output artifacts of this run so far."""
    found = []
    with metadata.Metadata(graph.connection) as handle:
        store = handle.store
        run = store.get_context_by_type_and_name("pipeline_run", graph.run_id)
        if run is None:
            return []
        executions = store.get_executions_by_context(run.id)
        for event in store.get_events_by_execution_ids([e.id for e in executions]):
            if event.type not in (
                metadata_store_pb2.Event.OUTPUT,
                metadata_store_pb2.Event.INTERNAL_OUTPUT,
            ):
                continue
            (artifact,) = store.get_artifacts_by_id([event.artifact_id])
            contexts = store.get_contexts_by_execution(event.execution_id)
            node = next(c.name for c in contexts if c.type == "node").partition(".")[2]
            key = next((s.key for s in event.path.steps if s.HasField("key")), "")
            found.append(Output(node, key, artifact.id, artifact.type, artifact.uri))
    return found
