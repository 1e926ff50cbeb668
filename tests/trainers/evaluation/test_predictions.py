"""The predictions table: each example once, written and read."""

import numpy as np
import pytest
import tensorflow as tf

from trainers.data.pipeline import EvalBatch
from trainers.evaluation.predictions import Predictions, predict, read_table, write_table

CLASSES = ("ant", "bee", "čmelák")


def batches(examples, size):
    """Full batches of `examples` images whose every pixel is their number, the last padded."""
    for start in range(0, examples, size):
        numbers = np.arange(start, start + size)
        mask = (numbers < examples).astype(np.float32)
        numbers = np.where(mask > 0, numbers, 0)
        ids = np.array(
            [f"id{n}".encode() if m else b"" for n, m in zip(numbers, mask, strict=True)]
        )
        yield EvalBatch(
            images=tf.constant(np.tile(numbers[:, None, None, None], (1, 2, 2, 3)), tf.uint8),
            labels=tf.constant(numbers % 3, tf.int32),
            mask=tf.constant(mask),
            ids=tf.constant(ids),
            slices={"slice/size": tf.constant(ids)},
        )


def forward(images):
    """Scores that identify each image."""
    return np.stack([images[:, 0, 0, 0], np.zeros(len(images)), np.ones(len(images))], axis=1)


@pytest.mark.parametrize("size", [1, 4, 10, 64])
def test_every_example_is_predicted_once_in_order(size):
    found = predict(forward, batches(10, size))
    assert found.ids.tolist() == [f"id{n}" for n in range(10)]
    np.testing.assert_array_equal(found.labels, np.arange(10) % 3)
    np.testing.assert_array_equal(found.scores[:, 0], np.arange(10))
    assert found.slices["slice/size"].tolist() == found.ids.tolist()
    assert (found.labels.dtype, found.scores.dtype) == (np.int32, np.float32)


def test_nothing_to_predict_is_an_error():
    with pytest.raises(ValueError, match="has no examples"):
        predict(forward, [])


def predicted(seed, ids=("a", "b", "c", "d")):
    scores = np.random.default_rng(seed).dirichlet(np.ones(3), len(ids)).astype(np.float32)
    labels = np.array([0, 1, 2, 2], np.int32)[: len(ids)]
    slices = {"slice/size": np.array(["small", "big", "größer", ""][: len(ids)], dtype=object)}
    return Predictions(np.array(ids, dtype=object), labels, scores, slices)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "table"
    written = {"saved_model": predicted(0), "ptq_int8": predicted(1), "prune_fp32": predicted(2)}
    write_table(path, written, CLASSES)
    read = read_table(path)
    assert sorted(read) == sorted(written)
    for variant, one in written.items():
        assert read[variant].ids.tolist() == one.ids.tolist()
        np.testing.assert_array_equal(read[variant].labels, one.labels)
        np.testing.assert_array_equal(read[variant].scores, one.scores)
        assert read[variant].slices["slice/size"].tolist() == one.slices["slice/size"].tolist()
    assert [file.name for file in path.parent.iterdir()] == ["table"]


def test_others_read_it_as_plain_examples(tmp_path):
    write_table(tmp_path / "t", {"saved_model": predicted(0)}, CLASSES)
    records = list(tf.data.TFRecordDataset(str(tmp_path / "t")).as_numpy_iterator())
    feature = tf.train.Example.FromString(records[2]).features.feature
    assert feature["id"].bytes_list.value == [b"c"]
    assert feature["label"].int64_list.value == [2]
    assert feature["image/class/text"].bytes_list.value == ["čmelák".encode()]
    assert len(feature["scores/saved_model"].float_list.value) == 3


@pytest.mark.parametrize("ids", [("a", "b", "d", "c"), ("a", "b", "c")])
def test_variants_must_have_the_same_examples(tmp_path, ids):
    with pytest.raises(ValueError, match="variant 'other' has predictions of other examples"):
        write_table(tmp_path / "t", {"first": predicted(0), "other": predicted(1, ids)}, CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_table_is_an_error(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "t")):
        pass
    with pytest.raises(ValueError, match="holds no predictions"):
        read_table(tmp_path / "t")
