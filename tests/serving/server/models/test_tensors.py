"""TensorProtos against TensorFlow's own reading of them."""

import numpy as np
import pytest

from serving.server.errors import ServingError

DTYPES = ["float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32"]
DTYPES += ["int64", "uint64", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 3)])
@pytest.mark.parametrize("content", [False, True])
def test_round_trip(dtype, shape, content):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    from serving.server.models.tensors import fill_proto, to_array

    array = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype)
    proto = tensor_pb2.TensorProto()
    fill_proto(proto, array, content=content)
    assert bool(proto.tensor_content) == (content and array.size > 0)
    for read in (tf.make_ndarray(proto), to_array("x", proto), to_array("x", tf_proto(array))):
        assert (read.dtype, read.shape) == (array.dtype, shape)
        np.testing.assert_array_equal(read, array)


def tf_proto(array):
    import tensorflow as tf

    return tf.make_tensor_proto(array)


def test_content_is_not_copied_and_can_be_fed(half_plus_two):
    from serving.engines.saved_model import load_saved_model
    from serving.server.models.tensors import to_array

    array = to_array("x", tf_proto(np.arange(6, dtype=np.float32).reshape(6, 1)))
    assert not array.flags.writeable
    assert not array.flags.owndata
    engine = load_saved_model(half_plus_two / "123")
    np.testing.assert_array_equal(engine.run("serving_default", {"x": array})["y"], array / 2 + 2)
    engine.close()


def test_content_of_another_length():
    from serving.server.models.tensors import to_array

    proto = tf_proto(np.arange(6, dtype=np.float32))
    proto.tensor_content = proto.tensor_content[:-1]
    with pytest.raises(ServingError, match="23 bytes of tensor_content, 24 fill the shape") as e:
        to_array("x", proto)
    assert e.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("dtype", "side"), [("float64", 2**13), ("int32", 2**13 + 1), ("string", 2**9)]
)
def test_a_few_bytes_do_not_claim_the_memory(dtype, side):
    """Values that are left out repeat the last one, over whatever shape is declared."""
    import tensorflow as tf

    from serving.server.models.tensors import to_array

    proto = tf.make_tensor_proto(b"x" if dtype == "string" else 1, dtype, shape=[2, 3])
    small = to_array("x", proto)
    assert small.shape == (2, 3)
    proto.ClearField("tensor_content")
    for size in (side, side):
        proto.tensor_shape.dim.add(size=size)
    del proto.tensor_shape.dim[:2]
    with pytest.raises(ServingError, match="too large to be filled from single values") as caught:
        to_array("x", proto)
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("values", "shape", "words"),
    [
        ([1.0] * 3, [2], r"has 3 values, and its shape \[2\] takes 2"),
        ([1.0], [0, 2], r"has 1 values, and its shape \[0, 2\] takes 0"),
        ([b"a", b"b"], [], r"has 2 values, and its shape \[\] takes 1"),
        ([], [0, 2**62], r"shape \[0, 4611686018427387904\] has more than 268435456 elements"),
    ],
)
def test_values_and_sizes_that_do_not_go_together(values, shape, words):
    from tensorflow.core.framework import tensor_pb2

    from serving.server.models.tensors import to_array

    is_text = bool(values) and isinstance(values[0], bytes)
    proto = tensor_pb2.TensorProto(dtype=7 if is_text else 1)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_shape.SetInParent()
    getattr(proto, "string_val" if is_text else "float_val").extend(values)
    with pytest.raises(ServingError, match=words) as caught:
        to_array("x", proto)
    assert caught.value.code == "INVALID_ARGUMENT"
