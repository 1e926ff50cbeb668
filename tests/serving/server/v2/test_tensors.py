"""The protocol's tensors against `struct`, `json` and NumPy."""

import json
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.server.errors import ServingError
from serving.server.v2 import tensors

NUMBERS = [name for name in tensors.DATATYPES if name != "BYTES"]
arrays = st.sampled_from(NUMBERS).flatmap(
    lambda name: hnp.arrays(
        tensors.DATATYPES[name], hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    )
)
words = st.lists(st.binary(max_size=9), max_size=6)


def object_array(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def same(got, wanted):
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    assert got.tobytes() == wanted.tobytes()


@given(arrays)
def test_raw_is_numpys_own_layout_and_comes_back(array):
    raw = tensors.to_raw(array)
    assert raw == array.tobytes(), "this test needs a little-endian machine"
    same(tensors.from_raw("x", tensors.datatype_of(array), array.shape, raw), array)


@given(arrays)
def test_json_comes_back_flat(array):
    text, packed = tensors.to_json_text(array)
    assert not packed
    got = tensors.from_json("x", tensors.datatype_of(array), array.shape, json.loads(text))
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@given(words)
def test_bytes_raw_against_struct(values):
    raw = b"".join(struct.pack("<I", len(value)) + value for value in values)
    array = object_array(values)
    assert tensors.to_raw(array) == raw
    assert tensors.from_raw("x", "BYTES", [len(values)], raw).tolist() == values


@given(words)
def test_bytes_in_json(values):
    text, packed = tensors.to_json_text(object_array(values))
    got = tensors.from_json("x", "BYTES", [len(values)], json.loads(text), base64_strings=packed)
    assert got.tolist() == values


def test_text_stays_text_and_an_image_is_base64():
    assert tensors.to_json_text(object_array(["grün".encode()])) == ('["grün"]', False)
    assert tensors.to_json_text(object_array([b"a", b"\xff"])) == ('["YQ==", "/w=="]', True)


def test_b64_objects_are_bytes():
    got = tensors.from_json("x", "BYTES", [2], [{"b64": "/w=="}, "/w=="])
    assert got.tolist() == [b"\xff", b"/w=="]


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [2, 2], [[1, 2], [3, 4.5]]),
        ("FP32", [2, 2], [1, 2, 3, 4.5]),
        ("UINT64", [2], [1, 2**64 - 1]),
        ("INT8", [1, 2], [-128, 127]),
        ("BOOL", [], [True]),
        ("INT32", [0, 3], []),
    ],
)
def test_data_nested_or_flat(datatype, shape, data):
    got = tensors.from_json("x", datatype, shape, data)
    same(got, np.array(data, tensors.DATATYPES[datatype]).reshape(shape))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("FP32", [3], [1, 2], "does not fill"),
        ("FP32", [2, 3], [[1, 2], [3, 4], [5, 6]], "does not fill"),
        ("FP32", [2], ["1", "2"], "not FP32"),
        ("FP32", [2], [1, None], "not FP32"),
        ("FP32", [2], [[1], [2, 3]], "regular"),
        ("FP32", [1], 1.0, "no list"),
        ("UINT8", [1], [256], "holds 0 to 255"),
        ("INT8", [1], [-129], "holds -128 to 127"),
        ("INT32", [1], [1.0], "not INT32"),
        ("UINT64", [1], [-1], "not UINT64"),
        ("UINT64", [1], [2**64], "not UINT64"),
        ("BOOL", [1], [1], "not BOOL"),
        ("BYTES", [1], [1], "text"),
        ("BYTES", [2], ["a"], "do not fill"),
        ("BYTES", [1], [{"b64": "?"}], "base64"),
        ("FP8", [1], [1], "none of BOOL"),
        ("FP32", [-1], [1], "whole numbers"),
        ("FP32", [True], [1], "whole numbers"),
        ("FP32", [2**15, 2**15], [1], "elements"),
    ],
)
def test_what_is_refused_says_why(datatype, shape, data, words):
    with pytest.raises(ServingError, match=words) as caught:
        tensors.from_json("x", datatype, shape, data)
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP32", [2], b"1234"),
        ("BYTES", [1], b"\x05\0\0\0abcd"),
        ("BYTES", [1], b"\x01\0"),
        ("BYTES", [2], b"\x01\0\0\0a"),
        ("BOOL", [1], b"\2"),
    ],
)
def test_raw_bytes_that_do_not_fit(datatype, shape, raw):
    with pytest.raises(ServingError, match="input 'x'"):
        tensors.from_raw("x", datatype, shape, raw)


def test_deep_nesting_does_not_crash():
    data: list = ["a"]
    for _ in range(100_000):
        data = [data]
    assert tensors.from_json("x", "BYTES", [1], data).tolist() == [b"a"]
    with pytest.raises(ServingError):
        tensors.from_json("x", "FP32", [1], data)


def test_text_among_numbers_does_not_claim_the_memory():
    data = ["9" * 10**5, *[1] * 999]
    tracemalloc.start()
    with pytest.raises(ServingError, match="not FP32"):
        tensors.from_json("x", "FP32", [1000], data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # As an array of texts it would be 400 MB.
    assert peak < 10**6
