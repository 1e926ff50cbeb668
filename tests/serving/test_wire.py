import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving import wire


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
        np.array([True, False]),
        np.array([[b"a\x00\xff", b""]], object),
        np.zeros((0, 3), np.float32),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_tensors_are_tensorflows(array):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    from serving.server.tensors import to_array, to_proto

    ours = wire.to_tensor(array)
    theirs = tensor_pb2.TensorProto.FromString(ours.SerializeToString())
    decoded = tf.make_ndarray(theirs)
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)
    np.testing.assert_array_equal(to_array("x", theirs), array)
    # What the server sends, in the typed fields, and what TensorFlow itself would send.
    for proto in (to_proto(array), tf.make_tensor_proto(array)):
        back = wire.to_array(wire.message("Tensor").FromString(proto.SerializeToString()))
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    assert not to_proto(array).tensor_content


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=4, max_side=4),
    )
)
def test_round_trip(array):
    back = wire.to_array(wire.to_tensor(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_requests_are_tf_servings():
    from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

    ours = wire.message("PredictRequest")()
    ours.model_spec.name = "m"
    ours.model_spec.version.value = 7
    ours.model_spec.signature_name = "s"
    ours.output_filter.append("y")
    ours.inputs.add(key="x").value.CopyFrom(wire.to_tensor(np.array([b"abc"], object)))
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
    with pytest.raises(ValueError, match="complex64"):
        wire.to_tensor(np.zeros(1, np.complex64))
    tensor = wire.message("Tensor")(dtype=8)
    with pytest.raises(ValueError, match="DataType 8"):
        wire.to_array(tensor)
    short = wire.message("Tensor")(dtype=1, float_val=[1.0, 2.0])
    short.tensor_shape.dim.add().size = 3
    with pytest.raises(ValueError, match="2 values do not fill"):
        wire.to_array(short)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": 1, "sizes": [-1]}, "shape"),
        ({"dtype": 1, "sizes": [2**40]}, "elements"),
        ({"dtype": 9999, "sizes": [1]}, "not a valid TensorProto"),
        ({"dtype": 1, "sizes": [3], "tensor_content": b"abc"}, "not a valid TensorProto"),
    ],
)
def test_hostile_tensors(fields, words):
    from tensorflow.core.framework import tensor_pb2

    from serving.server.errors import ServingError
    from serving.server.tensors import to_array

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
