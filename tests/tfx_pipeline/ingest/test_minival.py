"""The held-out validation split, counted in the written bytes."""

import hashlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_pipeline.ingest import IngestError, ingest


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write(file, seeds):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for seed in seeds:
            feature = {
                "image/encoded": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[jpeg(seed)])
                ),
                "image/class/label": tf.train.Feature(
                    int64_list=tf.train.Int64List(value=[1 + seed % 2])
                ),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def imagenet(folder, shards, each, *, repeated=()):
    """`shards` training shards of `each` images, and a validation shard of six."""
    for shard in range(shards):
        seeds = [
            *range(shard * each, (shard + 1) * each),
            *(repeated if shard in (0, shards - 1) else ()),
        ]
        write(folder / f"train-{shard:05d}-of-{shards:05d}", seeds)
    write(folder / "validation-00000-of-00001", range(10**6, 10**6 + 6))
    return folder


def images(out, split):
    """sha256 of the image of each record, read by TensorFlow alone."""
    files = sorted(str(one) for one in (out / f"Split-{split}").iterdir())
    found = []
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        found.append(hashlib.sha256(feature["image/encoded"].bytes_list.value[0]).hexdigest())
    return found


@pytest.mark.parametrize(
    ("shards", "each", "share", "expected"),
    [
        (1, 400, None, 0.1),
        (1, 400, "0.2", 0.2),
        (4, 100, "0.1", 0.1),
        (3, 100, "0.5", 0.5),
        (110, 2, None, 1 / 110),
        (110, 2, "0.1", 0.1),
        (20, 20, "0.01", 0.01),
    ],
)
def test_a_share_is_held_out_and_no_image_is_in_both(tmp_path, shards, each, share, expected):
    source = imagenet(tmp_path / "source", shards, each)
    options = [] if share is None else [f"validation={share}"]
    info = ingest("tfrecord", tmp_path / "out", where=source, options=options)
    train, held = images(tmp_path / "out", "train"), images(tmp_path / "out", "validation")
    assert len(train) + len(held) == shards * each
    assert not set(train) & set(held)
    assert set(train) | set(held) == {
        hashlib.sha256(jpeg(n)).hexdigest() for n in range(shards * each)
    }
    # A shard is divided by content: within five standard deviations of a binomial.
    slack = 5 * (expected * (1 - expected) * each) ** 0.5
    assert abs(len(held) - expected * shards * each) <= (slack if shards < 100 else 0)
    written = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert written["held_out"] == pytest.approx(len(held) / (shards * each))
    assert written["splits"]["train"]["examples"] == len(train)
    assert written["splits"]["validation"]["examples"] == len(held)
    copied = [one for one in (tmp_path / "out").rglob("data_tfrecord-*") if not one.is_symlink()]
    assert len(copied) <= 2  # both parts of one shard
    again = ingest("tfrecord", tmp_path / "again", where=source, options=options)
    assert again == info
    assert images(tmp_path / "again", "validation") == held


def test_an_image_that_is_in_train_as_well_stays_there_only(tmp_path):
    source = imagenet(tmp_path / "source", 5, 20, repeated=(7777, 7778, 7779))
    ingest("tfrecord", tmp_path / "out", where=source)
    train, held = images(tmp_path / "out", "train"), images(tmp_path / "out", "validation")
    twice = {hashlib.sha256(jpeg(seed)).hexdigest() for seed in (7777, 7778, 7779)}
    assert twice <= set(train)
    assert not set(train) & set(held)
    assert len(held) == 20


@pytest.mark.parametrize(
    ("shards", "share", "message"),
    [
        (3, "1.5", r"in \(0, 1\), got 1.5"),
        (1, "0.0001", "leaves no image for validation"),
    ],
)
def test_a_share_that_cannot_be_held_out_is_an_error(tmp_path, shards, share, message):
    source = imagenet(tmp_path / "source", shards, 10)
    with pytest.raises(IngestError, match=message):
        ingest("tfrecord", tmp_path / "out", where=source, options=[f"validation={share}"])
    assert not (tmp_path / "out").exists()


def test_records_with_splits_of_their_own_keep_them(tmp_path):
    source = imagenet(tmp_path / "source", 2, 10)
    write(source / "test-00000-of-00001", range(5000, 5004))
    info = ingest("tfrecord", tmp_path / "out", where=source)
    assert info.held_out == 0
    assert {split: one.examples for split, one in info.splits.items()} == {
        "train": 20,
        "validation": 6,
        "test": 4,
    }
    with pytest.raises(IngestError, match="without a validation split"):
        ingest("tfrecord", tmp_path / "no", where=source, options=["validation=0.1"])


def test_jobs_that_copy_record_the_share_they_held_out(tmp_path):
    for split, count in (("train", 120), ("test", 20)):
        for index in range(count):
            file = tmp_path / "pets" / split / ("cat", "dog")[index % 2] / f"{index}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(index + (10**5 if split == "test" else 0)))
    info = ingest("folder", tmp_path / "out", where=tmp_path / "pets", options={"validation": 0.3})
    held = info.splits["validation"].examples
    assert info.held_out == pytest.approx(held / 120)
    assert 0.1 < info.held_out < 0.5
    every = ingest("folder", tmp_path / "all", where=tmp_path / "pets" / "train")
    assert every.held_out == 0


@pytest.mark.parametrize(
    ("images", "given", "expected"),
    [(1_281_167, 0.0, 10_000 / 1_281_167), (1000, 0.0, 0.25), (50_000, 0.02, 0.02)],
)
def test_a_data_set_of_tfds_gives_a_quarter_or_ten_thousand_images(images, given, expected):
    from tfx_pipeline.ingest.sources.tfds import _fractions

    splits = {
        "train": SimpleNamespace(num_examples=images),
        "test": SimpleNamespace(num_examples=9),
    }
    builder = SimpleNamespace(info=SimpleNamespace(splits=splits))
    train, validation, test = _fractions(builder, {"train": "train", "test": "test"}, given)
    assert validation / (train + validation) == pytest.approx(expected)
    assert train + validation + test == pytest.approx(1)


@pytest.mark.parametrize("given", ["0", "0.5", "-1"])
def test_imagenet_refuses_a_share_out_of_range(tmp_path, given):
    with pytest.raises(IngestError, match=r"validation must be in \(0, 0\.5\)"):
        ingest("imagenet", tmp_path / "o", where=tmp_path, options=[f"validation={given}"])
