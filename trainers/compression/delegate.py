"""The parts of a .tflite file that LiteRT's CPU delegate, XNNPACK, computes, as LiteRT lists them.

The delegate replaces runs of operators by one node each, a partition, and leaves operators that it
does not support to slower kernels. Between a partition and such an operator, tensors are copied.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ai_edge_litert.interpreter import Interpreter

_DELEGATE = "DELEGATE"


class DelegateError(RuntimeError):
    """The partitions of a file cannot be determined; the message has the reason."""


@dataclass(frozen=True)
class Partitions:
    """How LiteRT divides a file.

    Attributes:
      count: number of partitions that the delegate computes.
      outside: positions in the first subgraph of the operators that it does not compute, ascending.
    """

    count: int
    outside: tuple[int, ...]


def partitions(content: bytes) -> Partitions:
    """The partitions of a file on this machine, with one thread.

    Raises:
      DelegateError: LiteRT cannot load the file, does not list its nodes, or has no delegate.
    """
    try:
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        # Not public, but the only interface that lists the nodes.
        nodes = interpreter._get_ops_details()
    except (AttributeError, RuntimeError, ValueError) as error:
        raise DelegateError(f"LiteRT does not list the nodes of the file: {error}") from error
    delegated = [node for node in nodes if node["op_name"] == _DELEGATE]
    if not delegated:
        raise DelegateError("LiteRT computes no part of the file with its CPU delegate")
    outputs = [int(slot["index"]) for slot in interpreter.get_output_details()]
    return Partitions(len(delegated), _outside(nodes, delegated, outputs))


def _outside(
    nodes: list[dict[str, Any]], delegated: list[dict[str, Any]], outputs: Iterable[int]
) -> tuple[int, ...]:
    """Positions of the nodes that run by themselves.

    LiteRT also lists the nodes that a partition replaced. A node runs if a partition, an output of
    the graph or another node that runs reads its result, and no partition produces it.
    """
    replaced = {int(tensor) for node in delegated for tensor in node["outputs"]}
    makers = {
        int(tensor): node
        for node in nodes
        if node["op_name"] != _DELEGATE
        for tensor in node["outputs"]
    }
    todo = [*outputs, *(int(tensor) for node in delegated for tensor in node["inputs"])]
    found: set[int] = set()
    while todo:
        tensor = todo.pop()
        if tensor in replaced or tensor not in makers:
            continue
        node = makers[tensor]
        if node["index"] not in found:
            found.add(node["index"])
            todo += [int(source) for source in node["inputs"]]
    return tuple(sorted(found))
