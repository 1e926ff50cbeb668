"""Imports the graph of a SavedModel into a session in C++ only, as TF Serving does.

TensorFlow's Python loader creates an object for every operation and function, which takes half of
the load and holds the interpreter lock, so that no request is served meanwhile. This module splits
the file at message boundaries, C++ parses the pieces, and the slow parts (placement, optimization,
restore) release the lock. For files that it does not support, the Python loader is used.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from core import bundle as bundles

Result = TypeVar("Result")

#: Bytes of functions per C++ call, which holds the interpreter lock.
_PIECE_BYTES = 32_768
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INIT_SIGNATURE = "__saved_model_init_op"

# Field numbers in TensorFlow's protos.
_SAVED_MODEL_META_GRAPHS = 2
_META_GRAPH_GRAPH_DEF, _META_GRAPH_OBJECT_GRAPH = 2, 7
_GRAPH_NODE, _GRAPH_LIBRARY, _GRAPH_VERSIONS = 1, 2, 4
_NODE_NAME = 1


class Build(Protocol):
    """Runs slow C++ work of a load, possibly in another thread, and waits for it."""

    def __call__(self, work: Callable[[], Result], /) -> Result:
        """The result of `work`."""
        ...


def build_here(work: Callable[[], Result], /) -> Result:
    """The result of `work`, run in this thread."""
    return work()


class UnsupportedGraph(Exception):
    """A file that only TensorFlow's Python loader supports."""


@dataclass(frozen=True)
class ServedGraph:
    """A serialized meta graph.

    Attributes:
      meta: `MetaGraphDef` without its graph.
      pieces: serialized `GraphDef`s whose concatenation is the graph.
    """

    meta: Any
    pieces: tuple[bytes, ...]


class _Field(NamedTuple):
    """A field of a message: its number, its start, the start of its value, and its end."""

    number: int
    began: int
    value: int
    end: int


def read_graph(file: Path, tags: Sequence[str]) -> ServedGraph:
    """The meta graph with exactly these tags.

    Args:
      file: a `saved_model.pb`.
      tags: all tags of the meta graph.

    Raises:
      UnsupportedGraph: there is no such meta graph, or the file is not supported.
      OSError: the file cannot be read.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

    if sys.byteorder != "little":
        raise UnsupportedGraph("the file has little-endian tensors, and this machine is big-endian")
    data = file.read_bytes()
    try:
        for outer in _fields(data, 0, len(data)):
            if outer.number != _SAVED_MODEL_META_GRAPHS:
                continue
            inner = list(_fields(data, outer.value, outer.end))
            left_out = (_META_GRAPH_GRAPH_DEF, _META_GRAPH_OBJECT_GRAPH)
            rest = [data[f.began : f.end] for f in inner if f.number not in left_out]
            meta = MetaGraphDef.FromString(b"".join(rest))
            if set(meta.meta_info_def.tags) == set(tags):
                graphs = [f for f in inner if f.number == _META_GRAPH_GRAPH_DEF]
                if len(graphs) != 1:
                    break
                return ServedGraph(meta, tuple(_pieces(data, graphs[0])))
    except (DecodeError, IndexError, ValueError) as error:
        raise UnsupportedGraph(f"not a SavedModel: {error}") from error
    raise UnsupportedGraph(f"no single graph has the tags {list(tags)}")


def _pieces(data: bytes, graph: _Field) -> Iterator[bytes]:
    """The nodes, then the functions in groups.

    In this order C++ does not infer the shapes within functions, which would take most of the
    import and is not needed.
    """
    fields = list(_fields(data, graph.value, graph.end))
    yield b"".join(data[f.began : f.end] for f in fields if f.number != _GRAPH_LIBRARY)
    versions = b"".join(data[f.began : f.end] for f in fields if f.number == _GRAPH_VERSIONS)
    libraries = [f for f in fields if f.number == _GRAPH_LIBRARY]
    parts = [part for f in libraries for part in _fields(data, f.value, f.end)]
    handful, size = [], 0
    for number, part in enumerate(parts, start=1):
        handful.append(data[part.began : part.end])
        size += part.end - part.began
        if size >= _PIECE_BYTES or number == len(parts):
            yield versions + _message(_GRAPH_LIBRARY, b"".join(handful))
            handful, size = [], 0


def _fields(data: bytes, start: int, end: int) -> Iterator[_Field]:
    at = start
    while at < end:
        began = at
        tag, at = _varint(data, at)
        kind, value = tag & 7, at
        if kind == _BYTES:
            length, value = _varint(data, at)
            at = value + length
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {began}")
        if at > end:
            raise ValueError(f"the field at byte {began} ends beyond its message")
        yield _Field(tag >> 3, began, value, at)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, end position)."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _message(number: int, value: bytes) -> bytes:
    """A field with a message or a string."""
    head, length = bytearray([number << 3 | _BYTES]), len(value)
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + value


def open_session(path: Path, config: Any, *, tags: Sequence[str], build: Build) -> tuple[Any, Any]:
    """A session of a SavedModel, with restored variables after its initializer.

    Args:
      path: the model's folder.
      config: `ConfigProto` of the session.
      tags: of the meta graph.
      build: runs the slow parts.

    Returns:
      (session, `MetaGraphDef` with its signatures at least).

    Raises:
      tf.errors.OpError: TensorFlow rejects the model.
      OSError: a file cannot be read.
      RuntimeError: there is no meta graph with these tags.
      ValueError: not a graph.
    """
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    try:
        served = read_graph(path / bundles.SAVED_MODEL_FILE, tags)
        _fill(session, served, path, build)
        return session, served.meta
    except UnsupportedGraph:
        session.close()
    except BaseException:
        session.close()
        raise
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    try:
        with quiet_tensorflow(tf), session.graph.as_default():
            return session, tf.compat.v1.saved_model.load(session, list(tags), str(path))
    except BaseException:
        session.close()
        raise


class _Quiet:
    """Sets the logger to ERROR while any thread is in the block.

    TensorFlow logs that loading into a graph session is deprecated, which is what TF Serving does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._level = 0

    @contextlib.contextmanager
    def __call__(self, tf: Any) -> Iterator[None]:
        logger = tf.get_logger()
        with self._lock:
            if self._users == 0:
                self._level = logger.level
                logger.setLevel("ERROR")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    logger.setLevel(self._level)


quiet_tensorflow = _Quiet()


def _fill(session: Any, served: ServedGraph, path: Path, build: Build) -> None:
    variables = path / "variables" / "variables"
    saver = served.meta.saver_def
    if not saver.restore_op_name and Path(f"{variables}.index").is_file():
        raise UnsupportedGraph(
            "the model has variables, and its graph has no operation that restores them"
        )
    _import(session.graph, served.pieces)
    if saver.restore_op_name:
        feeds = {saver.filename_tensor_name: str(variables)}
        _run_target(session, saver.restore_op_name, feeds, build)
    target = _init_op(served.meta)
    if target and not _does_nothing(served.pieces[0], target):
        _run_target(session, target, _assets(served.meta, path), build)


def _import(graph: Any, pieces: Sequence[bytes]) -> None:
    import tensorflow as tf
    from tensorflow.python.client import pywrap_tf_session as c_api

    options = c_api.TF_NewImportGraphDefOptions()
    try:
        for piece in pieces:
            buffer = c_api.TF_NewBufferFromString(piece)
            try:
                with graph._c_graph.get() as c_graph:
                    results = c_api.TF_GraphImportGraphDefWithResults(c_graph, buffer, options)
                c_api.TF_DeleteImportGraphDefResults(results)
            finally:
                c_api.TF_DeleteBuffer(buffer)
    except tf.errors.OpError as error:
        # For example, a node whose operation is a function, which the Python loader adds.
        raise UnsupportedGraph(error.message) from error
    except (AttributeError, TypeError) as error:
        # These are private interfaces of TensorFlow.
        raise UnsupportedGraph(str(error)) from error
    finally:
        c_api.TF_DeleteImportGraphDefOptions(options)


def _run_target(session: Any, target: str, feeds: Mapping[str, str], build: Build) -> None:
    from tensorflow.core.protobuf.config_pb2 import CallableOptions

    options = CallableOptions(feed=list(feeds), target=[target])
    values = [np.array(text.encode(), object) for text in feeds.values()]
    build(lambda: session._make_callable_from_options(options)(*values))


def _init_op(meta: Any) -> str:
    """The operation to run once after restoring the variables; empty if there is none."""
    if _INIT_SIGNATURE in meta.signature_def:
        outputs = meta.signature_def[_INIT_SIGNATURE].outputs
        return outputs[_INIT_SIGNATURE].name.partition(":")[0]
    for name in ("saved_model_main_op", "legacy_init_op"):
        if name in meta.collection_def:
            names = meta.collection_def[name].node_list.value
            if len(names) != 1:
                raise UnsupportedGraph(f"{name} lists {len(names)} operations")
            return names[0].partition(":")[0]
    return ""


def _does_nothing(nodes: bytes, name: str) -> bool:
    """Whether an operation has an effect; compiling a no-op takes as long as a signature."""
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    head = _message(_NODE_NAME, name.encode())
    for field in _fields(nodes, 0, len(nodes)):
        if field.number == _GRAPH_NODE and nodes.startswith(head, field.value):
            node = NodeDef.FromString(nodes[field.value : field.end])
            return node.op == "NoOp" and not node.input
    return False


def _assets(meta: Any, path: Path) -> dict[str, str]:
    """Tensor of the graph -> file."""
    files = list(meta.asset_file_def)
    if not files and "saved_model_assets" in meta.collection_def:
        raise UnsupportedGraph("the assets are in the format of TensorFlow 1")
    return {file.tensor_info.name: str(path / "assets" / file.filename) for file in files}
