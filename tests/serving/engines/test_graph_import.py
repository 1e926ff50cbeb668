"""The reader of SavedModels against protobuf's, and loads without TensorFlow's Python loader."""

import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from serving.engines import graph_import
from serving.engines.graph_import import UnsupportedGraph, read_graph
from serving.engines.saved_model import EngineError, load_saved_model

X = np.array([2.0], np.float32)
SERVE = ["serve"]


@pytest.fixture(params=["half_plus_two", "tiny"])
def version(request, half_plus_two, tiny_draft):
    """A SavedModel of TF1's kind, and one with functions."""
    return half_plus_two / "123" if request.param == "half_plus_two" else tiny_draft


@pytest.fixture
def model(half_plus_two, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(half_plus_two / "123", tmp_path / "1")


@pytest.fixture
def no_python_loader(monkeypatch):
    """Lets nothing be loaded as before."""

    def refuse(*arguments):
        raise AssertionError("TensorFlow's own loader was used")

    monkeypatch.setattr(tf.compat.v1.saved_model, "load", refuse)


def whole(file):
    return saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs[0]


@pytest.mark.parametrize("piece", [1, 10**9])
def test_pieces_make_up_the_graph(version, piece, monkeypatch):
    monkeypatch.setattr(graph_import, "_PIECE_BYTES", piece)
    expected = whole(version / "saved_model.pb")
    served = read_graph(version / "saved_model.pb", SERVE)
    joined = graph_pb2.GraphDef()
    for data in served.pieces:
        part = graph_pb2.GraphDef.FromString(data)
        assert part.versions == expected.graph_def.versions
        joined.MergeFrom(part)
    functions = len(expected.graph_def.library.function)
    assert len(served.pieces) == 1 + (functions if piece == 1 else bool(functions))
    assert joined == expected.graph_def
    for name in ("graph_def", "object_graph_def"):
        expected.ClearField(name)
    assert served.meta == expected


def test_files_that_are_not_a_savedmodel(model):
    file = model / "saved_model.pb"
    data = file.read_bytes()
    with pytest.raises(UnsupportedGraph, match="train"):
        read_graph(file, ["train"])
    for cut in range(0, len(data), max(1, len(data) // 100)):
        file.write_bytes(data[:cut])
        with pytest.raises(UnsupportedGraph):
            read_graph(file, SERVE)
    file.write_bytes(b"\x0b" + data)
    with pytest.raises(UnsupportedGraph, match="wire type 3"):
        read_graph(file, SERVE)


def test_no_python_loader_is_needed(version, no_python_loader):
    engine = load_saved_model(version)
    assert "serving_default" in engine.signatures
    for name in engine.signatures:
        engine._callable(*names(engine, name))
    engine.close()


def names(engine, signature):
    spec = engine.signatures[signature]
    feeds, fetches = spec.inputs.values(), spec.outputs.values()
    return tuple(i.tensor for i in feeds), tuple(dict.fromkeys(o.tensor for o in fetches))


def test_variables_initializer_and_assets(tmp_path, no_python_loader):
    """All three are needed for the right result; the names are their paths on disk."""
    words = tmp_path / "words.txt"
    words.write_text("zero\none\ntwo\n")

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable(3.0)
            keys = tf.lookup.TextFileIndex
            source = tf.lookup.TextFileInitializer(
                tf.saved_model.Asset(str(words)),
                *(tf.string, keys.WHOLE_LINE),
                *(tf.int64, keys.LINE_NUMBER),
            )
            self.table = tf.lookup.StaticHashTable(source, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, word):
            return {"y": self.scale * tf.cast(self.table.lookup(word), tf.float32)}

    module = Model()
    tf.saved_model.save(module, str(tmp_path / "m" / "1"), signatures=module.__call__)
    words.unlink()
    (tmp_path / "m").rename(tmp_path / "moved")
    engine = load_saved_model(tmp_path / "moved" / "1")
    asked = np.array([b"two", b"none"], object)
    assert engine.run("serving_default", {"word": asked})["y"].tolist() == [6.0, -3.0]
    engine.close()


def test_functions_that_are_operations_are_left_to_tensorflows_loader(tmp_path, monkeypatch):
    """As TF1 wrote them: they have to be known before the nodes are."""

    @tf.function(input_signature=[tf.TensorSpec([None])])
    def double(x):
        return {"y": x * 2}

    module = tf.Module()
    module.double = double
    tf.saved_model.save(module, str(tmp_path), signatures=double)
    file = tmp_path / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for node in saved.meta_graphs[0].graph_def.node:
        if node.op == "PartitionedCall":
            node.op = node.attr["f"].func.name
            node.attr.clear()
    file.write_bytes(saved.SerializeToString())
    asked = []
    load = tf.compat.v1.saved_model.load
    monkeypatch.setattr(
        tf.compat.v1.saved_model, "load", lambda *given: asked.append(given) or load(*given)
    )
    engine = load_saved_model(tmp_path)
    assert len(asked) == 1
    assert engine.run("serving_default", {"x": X})["y"].tolist() == [4.0]
    engine.close()


def test_an_initializer_that_does_nothing_is_not_compiled(version):
    """Initializers of tables and of other models run, as the results show."""
    served = read_graph(version / "saved_model.pb", SERVE)
    name = graph_import._init_op(served.meta)
    nodes = {node.name: node for node in whole(version / "saved_model.pb").graph_def.node}
    for node in nodes.values():
        expected = node.op == "NoOp" and not node.input
        assert graph_import._does_nothing(served.pieces[0], node.name) == expected
    assert not name or name in nodes
    assert not graph_import._does_nothing(served.pieces[0], "nothing_like_it")


def test_slow_parts_run_where_the_caller_wants(tiny_copy):
    """Variables are restored where the caller wants it, and signatures compiled there."""
    given = []

    def build(work):
        given.append(work())
        return given[-1]

    engine = load_saved_model(tiny_copy, build=build)
    assert len(given) >= 1
    restored = len(given)
    engine._callable(*names(engine, "serving_default"))
    assert len(given) == restored + 1
    engine.close()


def test_variables_that_are_missing(tiny_copy):
    shutil.rmtree(tiny_copy / "variables")
    with pytest.raises(EngineError, match=r"cannot load .*variables"):
        load_saved_model(tiny_copy)


def test_a_compiled_signature_does_not_wait_for_another(half_plus_two):
    held, waits = threading.Event(), threading.Event()

    def build(work):
        if waits.is_set():
            held.wait(30)
        return work()

    engine = load_saved_model(half_plus_two / "123", build=build)
    engine.run("serving_default", {"x": X})
    waits.set()
    other = threading.Thread(
        target=engine._callable, args=names(engine, "regress_x_to_y"), daemon=True
    )
    other.start()
    assert engine.run("serving_default", {"x": X})["y"].tolist() == [3.0]
    assert other.is_alive()
    held.set()
    other.join(30)
    engine.close()
