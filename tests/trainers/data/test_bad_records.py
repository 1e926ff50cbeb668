"""Bad records are named in errors, or skipped up to a limit."""

import dataclasses
import logging

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import override
from trainers.data.pipeline import (
    DataError,
    calibration_images,
    eval_batches,
    named_errors,
    raw_examples,
    skipped_records,
    steps_per_epoch,
    train_batches,
)
from trainers.data.records_check import find_bad_record, validate_records

EITHER_WAY = pytest.mark.parametrize("config", ["memory", "none"], indirect=True)


@pytest.fixture
def config(request, config):
    """The value of `data.cache`: no cache, or `memory` as a parameter."""
    return override(config, [f"data.cache={getattr(request, 'param', 'none')}"])


def good(writer, scans, index):
    return writer.serialized(writer.encode(scans[0][index]), int(scans[1][index]) + 1)


def bad(writer, scans, kind):
    png = writer.encode(scans[0][0])
    return {
        "not an Example": b"\xff\xff\xff nonsense",
        "no image": writer.serialized(png, 1, image__encoded=None),
        "no slice": writer.serialized(png, 1, slice__size=None),
        "label as bytes": writer.serialized(png, b"3"),
        "background label": writer.serialized(png, 0),
        "label too large": writer.serialized(png, 11),
        "undecodable": writer.serialized(png[:40], 1),
        "empty image": writer.serialized(b"", 1),
    }[kind]


REASONS = {
    "not an Example": "not a tf.Example",
    "no image": "no 'image/encoded', only",
    "no slice": "no 'slice/size', only",
    "label as bytes": "must be one value in int64_list, got bytes_list",
    "background label": r"label 0 is outside 1\.\.10",
    "label too large": r"label 11 is outside 1\.\.10",
    "undecodable": "the image cannot be decoded: .*PNG",
    "empty image": "the image cannot be decoded: .*empty",
}


@pytest.fixture
def damaged(config, tmp_path, writer, scans):
    """Makes a data set whose second shard holds a bad record at 3; -> (config, info)."""

    def make(kind):
        shards = [
            [good(writer, scans, index) for index in range(part, part + 10)] for part in (0, 10)
        ]
        shards[1][3] = bad(writer, scans, kind)
        info = writer.write(tmp_path / "bad", {"train": shards, "test": shards})
        changed = [f"data.dir={tmp_path / 'bad'}", "train.global_batch=5", "eval.batch=8"]
        return override(config, changed), info

    return make


@pytest.mark.parametrize(
    ("config", "kind"),
    [*(("none", kind) for kind in REASONS), ("memory", "no slice"), ("memory", "undecodable")],
    indirect=["config"],
)
def test_a_bad_record_is_named_by_file_and_index(damaged, kind):
    config, info = damaged(kind)
    message = f"data_tfrecord-00001-of-00002 record 3: .*{REASONS[kind]}.*on_error=skip"
    with pytest.raises(DataError, match=message), named_errors(config, info, "train"):
        list(train_batches(config, info, epoch=0))
    with pytest.raises(DataError, match=message), named_errors(config, info, "test"):
        list(eval_batches(config, info, "test"))


@EITHER_WAY
def test_skip_leaves_out_exactly_the_bad_records(config, tmp_path, writer, scans, caplog):
    shards = [[good(writer, scans, index) for index in range(part, part + 10)] for part in (0, 10)]
    places = [(0, 0), (0, 4), (0, 5), (0, 11), (1, 3), (1, 7), (1, 9), (1, 13)]
    for (shard, place), kind in zip(places, REASONS, strict=True):
        shards[shard].insert(place, bad(writer, scans, kind))
    info = writer.write(tmp_path / "bad", {"train": shards, "test": shards})
    changes = [f"data.dir={tmp_path / 'bad'}", "data.on_error=skip", "data.max_skipped=8"]
    config = override(config, [*changes, "train.global_batch=5", "eval.batch=8"])
    with caplog.at_level(logging.WARNING, "sightline.data"):
        assert steps_per_epoch(config, info) == 4
    assert "skipping 8 of 28 train records" in caplog.text
    found = skipped_records(config, info, "train")
    assert [(int(one.file[-14:-9]), one.index) for one in found] == places
    batches = list(eval_batches(config, info, "test"))
    labels = np.concatenate([batch.labels[batch.mask > 0] for batch in batches])
    np.testing.assert_array_equal(labels, scans[1][:20])
    assert sum(1 for _ in train_batches(config, info, epoch=0)) == 4
    assert len(calibration_images(config, info, 50)) == 20


@EITHER_WAY
def test_more_than_max_skipped_is_an_error(damaged):
    config, info = damaged("undecodable")
    config = override(config, ["data.on_error=skip", "data.max_skipped=0"])
    with pytest.raises(DataError, match=r"1 of 20 train records are bad, data.max_skipped is 0"):
        train_batches(config, info, epoch=0)


@pytest.fixture
def truncated(config, tmp_path, writer, scans):
    """A data set whose first shard of two ends in the middle of its record 6; (config, info)."""
    shards = [[good(writer, scans, index) for index in range(part, part + 10)] for part in (0, 10)]
    info = writer.write(tmp_path / "cut", {"train": shards, "test": shards})
    for split in ("train", "test"):
        file = tmp_path / "cut" / f"Split-{split}" / "data_tfrecord-00000-of-00002"
        framed = [len(record) + 16 for record in shards[0]]
        file.write_bytes(file.read_bytes()[: sum(framed[:6]) + 30])
    changed = [f"data.dir={tmp_path / 'cut'}", "train.global_batch=5", "eval.batch=8"]
    return override(config, changed), info


@EITHER_WAY
def test_a_truncated_shard_is_named_and_its_lost_records_are_counted(truncated):
    config, info = truncated
    message = "data_tfrecord-00000-of-00002 record 6: truncated or corrupt shard"
    with pytest.raises(DataError, match=message), named_errors(config, info, "train"):
        list(train_batches(config, info, epoch=0))
    skip = override(config, ["data.on_error=skip", "data.max_skipped=4"])
    batches = list(eval_batches(skip, info, "test"))
    assert sum(batch.mask.numpy().sum() for batch in batches) == 16
    assert sum(1 for _ in train_batches(skip, info, epoch=0)) == 3
    with pytest.raises(DataError, match=r"4 of 20 train records are bad, data.max_skipped is 3"):
        train_batches(override(skip, ["data.max_skipped=3"]), info, epoch=0)


def test_a_flipped_bit_is_found_by_the_checksum(truncated, tmp_path, digits, config):
    file = tmp_path / "cut" / "Split-train" / "data_tfrecord-00001-of-00002"
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(bytes(data))
    found = validate_records(tmp_path / "cut", "train", truncated[1])
    assert [(one.file[-14:], one.index, one.ends_shard) for one in found] == [
        ("00000-of-00002", 6, True),
        ("00001-of-00002", 0, True),
    ]


@EITHER_WAY
def test_fewer_records_than_declared_is_an_error(config, digits):
    info = digits[1]
    more = dataclasses.replace(info.splits["test"], examples=54)
    info = dataclasses.replace(info, splits={**info.splits, "test": more})
    message = r"split 'test' has 53 records, but dataset.json says 54"
    with pytest.raises(DataError, match=message), named_errors(config, info, "test"):
        list(eval_batches(config, info, "test"))


def test_a_missing_shard_is_an_error(config, digits, tmp_path, writer, scans):
    info = writer.write(tmp_path / "gone", {"train": [[good(writer, scans, 0)], []]})
    (tmp_path / "gone" / "Split-train" / "data_tfrecord-00001-of-00002").unlink()
    with pytest.raises(DataError, match=r"matches 1 files, dataset.json says 2"):
        steps_per_epoch(override(config, [f"data.dir={tmp_path / 'gone'}"]), info)


def test_good_records_pass_and_other_errors_are_left_alone(config, digits):
    folder, info = digits
    assert validate_records(folder, "test", info) == []
    assert find_bad_record(folder, "train", info) is None
    with pytest.raises(tf.errors.InvalidArgumentError), named_errors(config, info, "test"):
        tf.reshape(tf.zeros(3), (2,))


def test_raw_examples_come_in_file_order(digits, scans, truncated):
    labels = [
        tf.train.Example.FromString(raw).features.feature["image/class/label"].int64_list.value[0]
        for raw in raw_examples(digits[0], "train")
    ]
    np.testing.assert_array_equal(labels, scans[1][:230] + 1)
    with pytest.raises(DataError, match="00000-of-00002 record 6"):
        list(raw_examples(truncated[0].data.dir, "train"))
