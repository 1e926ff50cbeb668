"""The predictions table: each example once, written and read."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from trainers.data.pipeline import EvalBatch
from trainers.evaluation.predictions import (
    Predictions,
    predict,
    read_column,
    read_table,
    table_columns,
    write_table,
)

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


def test_one_column_is_read_with_the_class_names(tmp_path):
    few = replace(predicted(0, ("a", "b")), labels=np.array([2, 0], np.int32))
    write_table(tmp_path / "t", {"saved_model": few, "ptq_int8": few}, CLASSES)
    assert table_columns(tmp_path / "t") == ["ptq_int8", "saved_model"]
    found, names = read_column(tmp_path / "t", "saved_model")
    np.testing.assert_array_equal(found.scores, few.scores)
    assert names == ("ant", "", "čmelák")
    with pytest.raises(KeyError, match="no column scores/other"):
        read_column(tmp_path / "t", "other")


def test_a_table_of_several_batches_is_read_in_order(tmp_path):
    count = 600
    ids = np.array([f"image {i}" for i in range(count)], dtype=object)
    scores = np.random.default_rng(0).random((count, 3), np.float32)
    labels = (np.arange(count) % 3).astype(np.int32)
    sizes = np.array([str(i // 7) for i in range(count)], dtype=object)
    table = {"saved_model": Predictions(ids, labels, scores, {"slice/size": sizes})}
    write_table(tmp_path / "t", table, CLASSES)
    (found,) = read_table(tmp_path / "t").values()
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.slices["slice/size"], sizes)


def rewritten(path, change):
    """The same table with one record changed."""
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, record in enumerate(records):
            example = tf.train.Example.FromString(record)
            if number == 2:
                change(example.features.feature)
            writer.write(example.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row["scores/m"].float_list.value.append(0.0), "a record from 0 on has other"),
        (lambda row: row.pop("slice/size"), "a record from 0 on has other columns"),
        (lambda row: row["label"].int64_list.value.__setitem__(0, 3), "record 2 has the label 3"),
    ],
)
def test_records_that_do_not_fit_are_named(tmp_path, change, words):
    write_table(tmp_path / "t", {"m": predicted(0)}, CLASSES)
    with pytest.raises(ValueError, match=words):
        read_column(rewritten(tmp_path / "t", change), "m")


def test_records_of_images_are_no_predictions(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "t")) as writer:
        feature = {"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"]))}
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writer.write(example.SerializeToString())
    with pytest.raises(ValueError, match="has records of image/encoded instead of predictions"):
        read_table(tmp_path / "t")
