import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.protocol import wire


def tensor_of(array):
    """A `Tensor` message."""
    tensor = wire.message("Tensor")()
    wire.fill_tensor(tensor, array)
    return tensor


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(2.5, np.float64),
        np.array([[250, 1]], np.uint8),
        np.array([-3, 4], np.int8),
        np.array([-3, 4], np.int16),
        np.array([65535, 0], np.uint16),
        np.array([-(2**31)], np.int32),
        np.array([2**32 - 1], np.uint32),
        np.array([-(2**63)], np.int64),
        np.array([2**64 - 1], np.uint64),
        np.array([[1.5, -0.0, np.inf]], np.float16),
        np.array([1 + 2j, -3j], np.complex64),
        np.array([[1e300 - 2j]], np.complex128),
        np.array([True, False]),
        np.array([[b"a\x00\xff", b""]], object),
        np.zeros((0, 3), np.float32),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_tensors_are_tensorflows(array):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    from serving.server.models.tensors import fill_proto, to_array

    ours = tensor_of(array)
    theirs = tensor_pb2.TensorProto.FromString(ours.SerializeToString())
    decoded = tf.make_ndarray(theirs)
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)
    np.testing.assert_array_equal(to_array("x", theirs), array)
    # What the server sends, in the typed fields, and what TensorFlow itself would send.
    served = tensor_pb2.TensorProto()
    fill_proto(served, array)
    for proto in (served, tf.make_tensor_proto(array)):
        back = wire.to_array(wire.message("Tensor").FromString(proto.SerializeToString()))
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    if array.dtype.kind != "c" and array.dtype != np.float16:
        assert not served.tensor_content


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=4, max_side=4),
    )
)
def test_round_trip(array):
    back = wire.to_array(tensor_of(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_requests_are_tf_servings():
    from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

    ours = wire.model_request("PredictRequest", "m", signature="s", version=7)
    ours.output_filter.append("y")
    wire.fill_inputs(ours, {"x": np.array([b"abc"], object)})
    theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.version.value) == ("m", 7)
    assert (theirs.model_spec.signature_name, list(theirs.output_filter)) == ("s", ["y"])
    assert list(theirs.inputs["x"].string_val) == [b"abc"]
    status = get_model_status_pb2.GetModelStatusResponse()
    entry = status.model_version_status.add(version=3, state=30)
    entry.status.error_code, entry.status.error_message = 5, "gone"
    mine = wire.message("GetModelStatusResponse").FromString(status.SerializeToString())
    (version,) = mine.model_version_status
    assert (version.version, version.state) == (3, 30)
    assert (version.status.error_code, version.status.error_message) == (5, "gone")


def test_unknown_types_are_refused():
    with pytest.raises(ValueError, match="cannot send an array of datetime64"):
        tensor_of(np.zeros(1, "datetime64[s]"))
    with pytest.raises(ValueError, match="holds bytes or text, got int"):
        tensor_of(np.array([b"x", 3], object))
    with pytest.raises(ValueError, match="input 'when': cannot send an array of datetime64"):
        wire.fill_inputs(wire.message("PredictRequest")(), {"when": np.zeros(1, "datetime64[s]")})
    tensor = wire.message("Tensor")(dtype=20)
    with pytest.raises(ValueError, match="DataType 20"):
        wire.to_array(tensor)
    long = wire.message("Tensor")(dtype=1, float_val=[1.0, 2.0, 3.0])
    long.tensor_shape.dim.add().size = 2
    with pytest.raises(ValueError, match="3 values do not fit the shape"):
        wire.to_array(long)


def test_text_travels_as_utf8():
    back = wire.to_array(tensor_of(np.array(["é", "b"])))
    assert back.tolist() == ["é".encode(), b"b"]


def test_arrays_can_be_written_to():
    for array in (np.arange(3, dtype=np.float32), np.zeros(3, np.int64)):
        back = wire.to_array(tensor_of(array))
        back += 1
        np.testing.assert_array_equal(back, array + 1)


@pytest.mark.parametrize("values", [[], [4], [4, 5], [4, 5, 6]])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "object"])
def test_short_tensors_are_filled_as_tensorflow_does(values, dtype):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    kind = {"float32": (1, "float_val"), "int64": (9, "int64_val"), "bool": (10, "bool_val")}
    number, field = kind.get(dtype, (7, "string_val"))
    write = {"object": lambda value: str(value).encode(), "bool": bool}.get(dtype, int)
    typed = [write(value) for value in values]
    proto = tensor_pb2.TensorProto(dtype=number, **{field: typed})
    proto.tensor_shape.dim.add().size = 3
    # The runtime's own reading, not that of TensorFlow's Python.
    expected = tf.raw_ops.ParseTensor(
        serialized=proto.SerializeToString(), out_type=tf.as_dtype(number)
    ).numpy()
    found = wire.to_array(wire.message("Tensor").FromString(proto.SerializeToString()))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_examples_are_tensorflows():
    from tensorflow.core.example import example_pb2

    features = {
        "text": "é",
        "raw": [b"\xff", b""],
        "number": 3,
        "flags": [True, False],
        "pixels": np.array([[1, 2], [3, 4]], np.uint8),
        "score": np.float32(0.5),
        "scores": (0.5, -1e30),
        "nothing": [],
    }
    example = example_pb2.Example.FromString(wire.to_example(features))
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = (kind, list(getattr(feature, kind).value) if kind else [])
    assert found == {
        "text": ("bytes_list", ["é".encode()]),
        "raw": ("bytes_list", [b"\xff", b""]),
        "number": ("int64_list", [3]),
        "flags": ("int64_list", [1, 0]),
        "pixels": ("int64_list", [1, 2, 3, 4]),
        "score": ("float_list", [0.5]),
        "scores": ("float_list", [0.5, float(np.float32(-1e30))]),
        "nothing": (None, []),
    }
    with pytest.raises(ValueError, match="feature 'x' holds float and int; it may hold"):
        wire.to_example({"x": [1, 2.0]})
    with pytest.raises(ValueError, match="feature 'x' holds NoneType"):
        wire.to_example({"x": None})


def test_strings_of_an_example():
    from tensorflow.core.example import example_pb2

    example = example_pb2.Example()
    example.features.feature["a"].bytes_list.value.extend([b"\xff\x00", b""])
    example.features.feature["b"].float_list.value.append(1.0)
    serialized = example.SerializeToString()
    assert wire.example_strings(serialized, "a") == [b"\xff\x00", b""]
    assert wire.example_strings(serialized, "b") == wire.example_strings(b"", "a") == []
    # Two messages one after the other are one: the name is there twice.
    assert wire.example_strings(serialized * 2, "a") == [b"\xff\x00", b""] * 2
    with pytest.raises(ValueError, match=r"not a tf\.Example"):
        wire.example_strings(serialized[:-1], "a")


def test_other_messages_are_tf_servings():
    from google.protobuf import any_pb2, duration_pb2
    from tensorflow.core.protobuf import meta_graph_pb2
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        regression_pb2,
    )

    ours = wire.model_request("ExamplesRequest", "m", label="stable")
    ours.input.example_list.examples.append(wire.to_example({"x": 1.5}))
    for kind in (classification_pb2.ClassificationRequest, regression_pb2.RegressionRequest):
        theirs = kind.FromString(ours.SerializeToString())
        assert (theirs.model_spec.name, theirs.model_spec.version_label) == ("m", "stable")
        assert not theirs.model_spec.HasField("version")
        (example,) = theirs.input.example_list.examples
        assert list(example.features.feature["x"].float_list.value) == [1.5]
    asked = wire.message("GetModelMetadataRequest")(metadata_field=["signature_def"])
    kind = get_model_metadata_pb2.GetModelMetadataRequest
    assert list(kind.FromString(asked.SerializeToString()).metadata_field) == ["signature_def"]

    signatures = get_model_metadata_pb2.SignatureDefMap()
    signature = signatures.signature_def["s"]
    signature.method_name = "m"
    signature.inputs["x"].CopyFrom(meta_graph_pb2.TensorInfo(name="x:0", dtype=9))
    signature.inputs["x"].tensor_shape.dim.add().size = -1
    signature.outputs["y"].tensor_shape.unknown_rank = True
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    packed = any_pb2.Any()
    packed.Pack(signatures)
    response.metadata["signature_def"].CopyFrom(packed)
    mine = wire.message("GetModelMetadataResponse").FromString(response.SerializeToString())
    (entry,) = mine.metadata
    (found,) = wire.message("SignatureDefMap").FromString(entry.value.value).signature_def
    assert (found.key, found.value.method_name) == ("s", "m")
    assert (found.value.inputs[0].value.dtype, found.value.inputs[0].value.name) == (9, "x:0")
    assert found.value.inputs[0].value.tensor_shape.dim[0].size == -1
    assert found.value.outputs[0].value.tensor_shape.unknown_rank

    duration = duration_pb2.Duration(seconds=2, nanos=500)
    ours = wire.message("Duration").FromString(duration.SerializeToString())
    assert (ours.seconds, ours.nanos) == (2, 500)


def test_data_types_are_tensorflows():
    import tensorflow as tf
    from tensorflow.core.framework import types_pb2

    from serving.protocol.types import DATA_TYPES

    for number, name, dtype in DATA_TYPES:
        assert types_pb2.DataType.Name(number) == name
        if dtype is not None:
            assert np.dtype(tf.as_dtype(number).as_numpy_dtype) == np.dtype(dtype)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": 1, "sizes": [-1]}, "shape"),
        ({"dtype": 1, "sizes": [2**40]}, "elements"),
        ({"dtype": 9999, "sizes": [1]}, "values of the type 9999 cannot be sent"),
        ({"dtype": 1, "sizes": [3], "tensor_content": b"abc"}, "not a valid TensorProto"),
    ],
)
def test_malformed_tensors(fields, words):
    from tensorflow.core.framework import tensor_pb2

    from serving.server.errors import ServingError
    from serving.server.models.tensors import to_array

    proto = tensor_pb2.TensorProto(dtype=1, tensor_content=fields.get("tensor_content", b""))
    if not proto.tensor_content:
        proto.float_val.append(1.0)
    for size in fields["sizes"]:
        proto.tensor_shape.dim.add().size = size
    if fields["dtype"] == 9999:
        proto = tensor_pb2.TensorProto.FromString(b"\x08\x8f\x4e" + proto.SerializeToString()[2:])
    with pytest.raises(ServingError, match=words) as caught:
        to_array("x", proto)
    assert caught.value.code == "INVALID_ARGUMENT"
