import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.client.api import ModelSpec
from serving.client.errors import ClientError
from serving.client.rest_values import json_input, mismatch, outputs_from_json
from serving.client.results import batches, detections, span
from serving.protocol.types import Detections, Signature, TensorInfo, detections_from_outputs

TYPES = {
    np.float32: "DT_FLOAT",
    np.float64: "DT_DOUBLE",
    np.int8: "DT_INT8",
    np.int64: "DT_INT64",
    np.uint64: "DT_UINT64",
    np.uint8: "DT_UINT8",
    np.bool_: "DT_BOOL",
}


def signature(**outputs):
    return Signature({}, outputs, "")


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(list(TYPES)).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, max_side=3))
    )
)
def test_arrays_survive_json(array):
    info = TensorInfo(TYPES[array.dtype.type], (None,) * array.ndim)
    travelled = json.loads(json.dumps(json_input("x", array)))
    found = outputs_from_json(travelled, signature(x=info))["x"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    several = outputs_from_json({"x": travelled, "y": travelled}, signature(x=info, y=info))
    np.testing.assert_array_equal(several["y"], array)


@settings(max_examples=50, deadline=None)
@given(
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=3).flatmap(
        lambda shape: hnp.arrays(object, shape, elements=st.binary(max_size=4))
    )
)
def test_bytes_survive_json(array):
    info = TensorInfo("DT_STRING", (None,) * array.ndim)
    travelled = json.loads(json.dumps(json_input("x", array)))
    found = outputs_from_json(travelled, signature(x_bytes=info))["x_bytes"]
    assert found.shape == array.shape
    assert found.ravel().tolist() == array.ravel().tolist()


def test_text_from_json():
    text = json.loads(b'[["\xc3\xa9", "a\xff"]]'.decode("utf-8", "surrogateescape"))
    found = outputs_from_json(text, signature(y=TensorInfo("DT_STRING", None)))["y"]
    assert found.tolist() == [["é".encode(), b"a\xff"]]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (
            np.zeros(2, np.float16),
            "input 'x': float16 is not possible in JSON; use a grpc:// address",
        ),
        (np.zeros(2, np.complex64), "complex64 is not possible in JSON"),
        (np.zeros((0, 3)), r"an empty array of shape \(0, 3\) would lose its shape"),
        (np.array([b"x", 1], object), "holds bytes or text, got int"),
    ],
)
def test_arrays_that_json_cannot_represent(array, words):
    with pytest.raises(ValueError, match=words):
        json_input("x", array)


def test_empty_arrays():
    assert json_input("x", np.zeros(0)) == []
    assert json_input("x", np.zeros((2, 0))) == [[], []]
    info = TensorInfo("DT_FLOAT", (None, 3))
    assert outputs_from_json([], signature(y=info))["y"].shape == (0, 3)
    assert outputs_from_json([], signature(y=TensorInfo("DT_FLOAT", None)))["y"].shape == (0,)
    strings = outputs_from_json([], signature(y=TensorInfo("DT_STRING", (None, 2))))["y"]
    assert (strings.dtype, strings.shape) == (object, (0, 2))


@pytest.mark.parametrize(
    ("document", "dtype", "words"),
    [
        (["a"], "DT_FLOAT", "could not convert|output 'y' is not DT_FLOAT"),
        ([1], "DT_STRING", "output 'y' is not DT_STRING"),
        ([{"x": "YQ=="}], "DT_STRING", "output 'y' is not DT_STRING"),
        ([["a"], 1], "DT_STRING", "output 'y' is not DT_STRING"),
        ([2, 1.5], "DT_INT64", "output 'y' is not DT_INT64: it holds float, int"),
        (["7"], "DT_DOUBLE", "output 'y' is not DT_DOUBLE: it holds str"),
        ([None], "DT_FLOAT", "it holds NoneType"),
        ([True], "DT_INT32", "it holds bool"),
        ([1], "DT_BOOL", "it holds int"),
        ([7, 300], "DT_UINT8", "output 'y' is not DT_UINT8: it holds 300"),
        ([-1], "DT_UINT64", "it holds -1"),
        ([[1.0], [1.0, 2.0]], "DT_FLOAT", "output 'y' is not DT_FLOAT"),
        ([10**400], "DT_FLOAT", "output 'y' is not DT_FLOAT"),
        ([2**70], "DT_INT64", "output 'y' is not DT_INT64"),
        ([1.0], "DT_HALF", "output 'y' is DT_HALF, which JSON cannot represent"),
        ([1.0], "DT_VARIANT", "which JSON cannot represent"),
    ],
)
def test_outputs_of_another_type(document, dtype, words):
    with pytest.raises(ValueError, match=words):
        outputs_from_json(document, signature(y=TensorInfo(dtype, (None,))))


def test_whole_numbers_for_floats():
    """TF Serving writes 1.0; a proxy that rewrites responses may write 1."""
    floats = signature(y=TensorInfo("DT_FLOAT", (None,)))
    assert outputs_from_json([1, 2], floats)["y"].dtype == np.float32
    assert outputs_from_json([1, 2.5], floats, exact=True)["y"].tolist() == [1, 2.5]
    with pytest.raises(ValueError, match="it holds int"):
        outputs_from_json([1, 2], floats, exact=True)


@pytest.mark.parametrize(
    ("dtype", "fitting"),
    [
        ("DT_FLOAT", "fiu"),
        ("DT_INT32", "iu"),
        ("DT_UINT8", "iu"),
        ("DT_BOOL", "b"),
        ("DT_STRING", "OSU"),
        ("DT_HALF", "fiubOSU"),
    ],
)
def test_inputs_of_another_kind(dtype, fitting):
    takes = Signature({"x": TensorInfo(dtype, None)}, {}, "")
    arrays = [np.zeros(1, kind) for kind in ("f4", "i8", "u1", "?", "O", "S1", "U1")]
    found = [array.dtype.kind for array in arrays if not mismatch({"x": array}, takes)]
    assert set(found) == set(fitting)
    words = mismatch({"other": arrays[0], "x": np.zeros(1, "c8")}, takes)
    if dtype != "DT_HALF":
        assert words == f"input 'x' is complex64, the model expects {dtype}; convert it"


def test_signatures_from_metadata():
    shape = {"dim": [{"size": "-1", "name": ""}, {"size": "3"}], "unknown_rank": False}
    found = Signature.from_json(
        {
            "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "x:0"}},
            "outputs": {
                "y": {"dtype": "DT_STRING", "tensor_shape": {"dim": [], "unknown_rank": True}},
                "z": {"dtype": "DT_BOOL", "tensor_shape": {"dim": [], "unknown_rank": False}},
            },
            "method_name": "m",
        }
    )
    assert found.inputs == {"x": TensorInfo("DT_FLOAT", (None, 3))}
    assert found.outputs == {"y": TensorInfo("DT_STRING", None), "z": TensorInfo("DT_BOOL", ())}
    assert found.method == "m"


OUTPUTS = {
    "detection_boxes": [[[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [9, 9, 9, 9]], [[0, 0, 0, 0]] * 3],
    "detection_scores": [[0.9, 0.5, 0.0], [0.0] * 3],
    # The Object Detection API writes floats, and counts from 1.
    "detection_classes": [[2.0, 1.0, 1.0], [1.0] * 3],
    "num_detections": [2.0, 0.0],
}


@pytest.mark.parametrize("prefix", ["detection_", ""])
@pytest.mark.parametrize("as_arrays", [True, False])
def test_detections(prefix, as_arrays):
    outputs = dict(OUTPUTS)
    if not prefix:
        outputs = {name.removeprefix("detection_"): value for name, value in OUTPUTS.items()}
    if as_arrays:
        outputs = {name: np.array(value, np.float32) for name, value in outputs.items()}
    first, second = detections_from_outputs(outputs, class_names={1: "cat", 2: "dog"})
    assert (len(first), len(second)) == (2, 0)
    assert first.labels == ("dog", "cat")
    assert (first.boxes.dtype, first.boxes.shape) == (np.float32, (2, 4))
    assert (first.classes.dtype, first.classes.tolist()) == (np.int64, [2, 1])
    np.testing.assert_allclose(first.scores, [0.9, 0.5])
    np.testing.assert_allclose(first.boxes_px(100, 10), [[10, 2, 30, 4], [0, 0, 100, 10]])
    assert (second.boxes.shape, second.scores.shape, second.labels) == ((0, 4), (0,), ())
    best = first.above(0.6)
    assert (best.labels, best.classes.tolist(), len(best)) == (("dog",), [2], 1)
    assert len(first.above(0.5)) == 2


def test_where_the_labels_come_from():
    assert detections_from_outputs(OUTPUTS)[0].labels == ("2", "1")
    names = ("nothing", "cat")
    assert detections_from_outputs(OUTPUTS, class_names=names)[0].labels == ("2", "cat")
    given = {**OUTPUTS, "labels": [[b"x", "y", b"z"], [b""] * 3]}
    assert detections_from_outputs(given, class_names=names)[0].labels == ("x", "y")


def test_detections_without_a_count_or_without_boxes():
    outputs = {name: value for name, value in OUTPUTS.items() if name != "num_detections"}
    assert [len(found) for found in detections_from_outputs(outputs)] == [3, 3]
    nothing = {"boxes": [[], []], "scores": [[], []], "classes": [[], []]}
    found = detections_from_outputs(nothing)
    assert [one.boxes.shape for one in found] == [(0, 4)] * 2
    assert all(isinstance(one, Detections) for one in found)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"detection_boxes": None}, "no boxes, scores and classes among the outputs"),
        ({"detection_boxes": [[[0, 0, 1, 1]]]}, r"boxes \(1, 1, 4\), scores \(2, 3\)"),
        ({"detection_classes": [[1.0]]}, r"classes \(1, 1\) are not"),
    ],
)
def test_outputs_that_are_not_detections(changed, words):
    outputs = {n: v for n, v in {**OUTPUTS, **changed}.items() if v is not None}
    with pytest.raises(ValueError, match=words):
        detections_from_outputs(outputs)
    with pytest.raises(ClientError, match="m version 3 is not a detector"):
        detections(outputs, ModelSpec("m", 3), class_names=None)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 9, None])
def test_batches(size):
    items = list(range(7))
    split = batches(items, size)
    assert [one for batch in split for one in batch] == items
    for index, batch in enumerate(split):
        first, last = span(index, size, 7).removeprefix("images[").removesuffix("]").split(":")
        assert items[int(first) : int(last)] == batch
    assert batches([], size) == []


def test_model_specs_as_text():
    names = [str(ModelSpec("m")), str(ModelSpec("m", 3)), str(ModelSpec("m", label="x"))]
    assert names == ["m", "m version 3", "m labeled x"]
