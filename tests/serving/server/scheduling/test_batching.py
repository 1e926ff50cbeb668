"""Merging, padding and splitting against NumPy, and the parameters files; no TensorFlow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server.errors import ServerError, ServingError
from serving.server.scheduling.batching import (
    BatchingOptions,
    adaptive_options,
    batch_rows,
    merge,
    read_batching_options,
    share_key,
    split,
    version_batching,
)


def feeds_of(rows, width, start):
    """Two inputs that hold different numbers in every cell."""
    cells = np.arange(start, start + rows * width, dtype=np.int64).reshape(rows, width)
    return {"a": cells, "b": np.array([f"{start}/{row}".encode() for row in range(rows)], object)}


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    width=st.integers(1, 4),
    allowed=st.sampled_from([(), (8, 64), (1, 2, 4, 64)]),
)
def test_every_request_gets_its_own_rows_back(sizes, width, allowed):
    options = BatchingOptions(max_batch_size=64, allowed_batch_sizes=allowed)
    parts = [feeds_of(rows, width, 1000 * index) for index, rows in enumerate(sizes)]
    merged = merge(parts, options)
    total = next((size for size in allowed if size >= sum(sizes)), sum(sizes))
    assert merged["a"].shape == (total, width)
    assert (merged["a"][sum(sizes) :] == parts[-1]["a"][0]).all()
    assert set(merged["b"][sum(sizes) :].tolist()) <= {parts[-1]["b"][0]}
    answers = split({"y": merged["a"] * 2, "s": merged["b"]}, sizes, total)
    for part, answer in zip(parts, answers, strict=True):
        np.testing.assert_array_equal(answer["y"], part["a"] * 2)
        assert answer["s"].tolist() == part["b"].tolist()


@given(widths=st.lists(st.integers(1, 5), min_size=1, max_size=4), rows=st.integers(1, 3))
def test_variable_lengths_are_padded_with_the_first_element(widths, rows):
    options = BatchingOptions(max_batch_size=64, pad_variable_length_inputs=True)
    arrays = [np.arange(rows * w).reshape(rows, w) + 100 * (w + 1) for w in widths]
    merged = merge([{"a": array} for array in arrays], options)["a"]
    assert merged.shape == (rows * len(widths), max(widths))
    for index, array in enumerate(arrays):
        block = merged[index * rows : (index + 1) * rows]
        np.testing.assert_array_equal(block[:, : array.shape[1]], array)
        assert (block[:, array.shape[1] :] == array[0, 0]).all()


def test_what_cannot_be_padded():
    options = BatchingOptions(pad_variable_length_inputs=True)
    with pytest.raises(ServingError, match="Got empty tensor in batch of non-empty tensors"):
        merge([{"a": np.zeros((1, 0))}, {"a": np.zeros((1, 2))}], options)
    seven = (1,) * 6
    with pytest.raises(ServingError, match="rank from 1 to 6"):
        merge([{"a": np.zeros((1, *seven))}, {"a": np.zeros((1, 2, *seven[1:]))}], options)


def test_who_may_share_a_batch():
    def key(array, any_length=False):
        return share_key({"a": array}, any_length=any_length)

    one = np.zeros((1, 3), np.float32)
    assert key(one) == key(np.zeros((5, 3), np.float32))
    assert key(one) != key(np.zeros((1, 4), np.float32))
    assert key(one) != key(np.zeros((1, 3), np.float64))
    assert key(one, any_length=True) == key(np.zeros((1, 4), np.float32), any_length=True)
    assert key(one, any_length=True) != key(np.zeros(1, np.float32), any_length=True)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "must have at least one input tensor"),
        ({"a": np.zeros(())}, "must have at least one dimension"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "must have equal 0th-dimension size"),
    ],
)
def test_inputs_without_a_batch(feeds, words):
    with pytest.raises(ServingError, match=words) as caught:
        batch_rows(feeds)
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (np.float32(1), "Batched output tensor has 0 dimensions"),
        (np.zeros(2), "0th dimension does not equal the sum of the 0th dimension sizes"),
    ],
)
def test_outputs_without_a_batch(output, words):
    with pytest.raises(ServingError, match=words) as caught:
        split({"y": np.asarray(output)}, [1, 2], 3)
    assert caught.value.code == "FAILED_PRECONDITION"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be positive; was 0"),
        ({"max_enqueued_batches": 0}, "max_enqueued_batches must be positive"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros must be non-negative; was -1"),
        ({"max_batch_size": 4, "allowed_batch_sizes": (2, 3)}, "last entry was 3; expected 4"),
        ({"allowed_batch_sizes": (1000,)}, None),
        ({"allowed_batch_sizes": (2, 1, 1000)}, "monotonically increasing; were 2, 1, 1000"),
        (
            {"enable_large_batch_splitting": True, "max_execution_batch_size": 1001},
            "1000 is less than 1001",
        ),
        (
            {
                "enable_large_batch_splitting": True,
                "max_execution_batch_size": 4,
                "allowed_batch_sizes": (2, 8),
            },
            "must match max_execution_batch_size; last entry was 8; expected 4",
        ),
    ],
)
def test_options_that_do_not_fit(values, words):
    if words is None:
        assert BatchingOptions(**values).padded(3) == 1000
        return
    with pytest.raises(ServerError, match=words):
        BatchingOptions(**values)


FILE = """# every parameter
max_batch_size { value: 32 } batch_timeout_micros { value: 1000 }
num_batch_threads { value: 4 } max_enqueued_batches { value: 64 }
thread_pool_name { value: "pool" }
enable_large_batch_splitting { value: true } max_execution_batch_size { value: 8 }
allowed_batch_sizes: 4 allowed_batch_sizes: 8
pad_variable_length_inputs: true
"""


def test_parameters_files(tmp_path):
    file = tmp_path / "b.config"
    file.write_text(FILE)
    wanted = BatchingOptions(32, 1000, 64, 4, "pool", (4, 8), True, True, 8)
    assert read_batching_options(file) == wanted
    file.write_text("")
    assert read_batching_options(file) == BatchingOptions()
    file.write_text("max_batch_size: 3")
    with pytest.raises(ServerError, match=r"b\.config is not a BatchingParameters"):
        read_batching_options(file)
    file.write_text("max_batch_size { value: -3 }")
    with pytest.raises(ServerError, match=r"b\.config: max_batch_size must be positive"):
        read_batching_options(file)
    with pytest.raises(ServerError, match="is not a BatchingParameters"):
        read_batching_options(tmp_path / "absent")


def test_per_model_parameters(tmp_path):
    shared = BatchingOptions(num_batch_threads=2)
    assert version_batching(tmp_path, shared=shared, per_model=False) is shared
    assert version_batching(tmp_path, shared=None, per_model=True) is None
    assert version_batching(tmp_path, shared=shared, per_model=True) is None
    (tmp_path / "batching_params.pbtxt").write_text("max_batch_size { value: 7 }")
    options = version_batching(tmp_path, shared=shared, per_model=True)
    assert options is not None
    assert (options.max_batch_size, options.adaptive) == (7, False)
    adaptive = version_batching(tmp_path, shared=adaptive_options(None), per_model=True)
    assert adaptive is not None
    assert (adaptive.max_batch_size, adaptive.adaptive) == (7, True)
    assert adaptive_options(None).batch_timeout_micros == 0
