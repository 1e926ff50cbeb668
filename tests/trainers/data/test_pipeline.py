import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainers.config import ConfigError, override
from trainers.data.pipeline import (
    DataError,
    calibration_images,
    eval_batches,
    raw_examples,
    steps_per_epoch,
    train_batches,
)
from trainers.data.preprocess import Preprocessing, eval_image

EITHER_WAY = pytest.mark.parametrize("config", ["memory", "none"], indirect=True)


@pytest.fixture
def config(request, config):
    """Images decoded as they come; `memory`, as a parameter, keeps them."""
    return override(config, [f"data.cache={getattr(request, 'param', 'none')}"])


def epoch_of(config, info, epoch=0, **options):
    batches = list(train_batches(config, info, epoch=epoch, **options))
    images = np.concatenate([images.numpy() for images, _ in batches])
    return images, np.concatenate([labels.numpy() for _, labels in batches])


def expected_images(config, folder, split):
    """Preprocessed images and labels of a split in file order, one by one."""
    images, labels = [], []
    for raw in raw_examples(folder, split):
        feature = tf.train.Example.FromString(raw).features.feature
        encoded = feature["image/encoded"].bytes_list.value[0]
        images.append(eval_image(encoded, Preprocessing.of(config.data)).numpy())
        labels.append(feature["image/class/label"].int64_list.value[0] - 1)
    return np.stack(images), np.array(labels)


@EITHER_WAY
def test_an_epoch_is_a_shuffle_of_the_split(config, digits):
    config = override(config, ["train.global_batch=23"])  # 230 = 10 x 23: nothing is dropped
    images, labels = epoch_of(config, digits[1])
    wanted, wanted_labels = expected_images(config, digits[0], "train")
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32

    def rows(images, labels):
        return sorted((label, image.tobytes()) for image, label in zip(images, labels, strict=True))

    assert rows(images, labels) == rows(wanted, wanted_labels)
    assert (labels != wanted_labels).mean() > 0.5


@EITHER_WAY
def test_order_and_augmentation_are_decided_by_seed_and_epoch(config, digits):
    config = override(config, ['data.augment=["shift","rotate"]'])
    first = epoch_of(config, digits[1], 3)
    again = epoch_of(config, digits[1], 3)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    other_epoch = epoch_of(config, digits[1], 4)
    other_seed = epoch_of(override(config, ["train.seed=8"]), digits[1], 3)
    for other in (other_epoch, other_seed):
        assert (first[1] != other[1]).mean() > 0.5


@EITHER_WAY
def test_one_image_is_augmented_differently_in_each_epoch(config, digits, tmp_path, writer, scans):
    record = writer.serialized(writer.encode(scans[0][0]), 1)
    info = writer.write(tmp_path / "one", {"train": [[record] * 8]})
    config = override(
        config, [f"data.dir={tmp_path / 'one'}", "train.global_batch=8", 'data.augment=["shift"]']
    )
    seen = {image.tobytes() for epoch in range(2) for image in epoch_of(config, info, epoch)[0]}
    assert len(seen) > 8


@EITHER_WAY
def test_batches_have_static_shapes_and_the_rest_is_dropped(config, digits):
    dataset = train_batches(config, digits[1], epoch=0)
    images, labels = dataset.element_spec
    assert images.shape == (32, 16, 16, 3)
    assert labels.shape == (32,)
    assert sum(1 for _ in dataset) == steps_per_epoch(config, digits[1]) == 7


@EITHER_WAY
def test_no_input_is_tuned_while_it_runs(config, digits):
    inputs = train_batches(config, digits[1], epoch=0), eval_batches(config, digits[1], "test")
    assert [batches.options().autotune.enabled for batches in inputs] == [False, False]


def test_mirrored_strategy_takes_the_dataset(config, digits):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    dataset = strategy.distribute_datasets_from_function(
        lambda context: train_batches(config, digits[1], epoch=0, input_context=context)
    )
    assert sum(1 for _ in dataset) == 7


def test_batch_must_divide_among_replicas_and_fit_the_data(config, digits):
    for context, what in (((1, 0, 3), "3 replicas"), ((5, 0, 5), "5 replicas")):
        shared = tf.distribute.InputContext(*context)
        with pytest.raises(ConfigError, match=f"32 is not divisible by {what}"):
            train_batches(config, digits[1], epoch=0, input_context=shared)
    with pytest.raises(ConfigError, match="32 is not divisible by 3 hosts"):
        train_batches(config, digits[1], epoch=0, input_context=tf.distribute.InputContext(3, 0, 1))
    big = override(config, ["train.global_batch=231"])
    with pytest.raises(DataError, match=r"230 training examples.*at most 230"):
        train_batches(big, digits[1], epoch=0)


@pytest.mark.parametrize(
    ("config", "batch"),
    [("none", 1), ("memory", 16), ("none", 53), ("memory", 64)],
    indirect=["config"],
)
def test_evaluation_counts_each_example_once(config, digits, batch):
    folder, info = digits
    parts = list(eval_batches(config, info, "test", batch=batch))
    wanted, wanted_labels = expected_images(config, folder, "test")
    assert all(part.images.shape == (batch, 16, 16, 3) for part in parts)
    mask = np.concatenate([part.mask.numpy() for part in parts]).astype(bool)
    assert mask.sum() == 53
    images = np.concatenate([part.images.numpy() for part in parts])
    labels = np.concatenate([part.labels.numpy() for part in parts])
    np.testing.assert_array_equal(images[mask], wanted)
    np.testing.assert_array_equal(labels[mask], wanted_labels)
    assert not images[~mask].any()
    ids = np.concatenate([part.ids.numpy() for part in parts])
    assert len(set(ids[mask])) == 53
    assert set(ids[~mask]) <= {b""}
    aspect = np.concatenate([part.slices["slice/aspect"].numpy() for part in parts])
    assert set(aspect[mask]) == {b"square"}


def test_missing_split_names_those_there_are(config, digits):
    info = dataclasses.replace(digits[1], splits={"train": digits[1].splits["train"]})
    with pytest.raises(DataError, match=r"no examples in split 'test'; it has train"):
        eval_batches(config, info, "test")


@EITHER_WAY
def test_calibration_images_are_unaugmented_training_images(config, digits):
    config = override(config, ['data.augment=["shift"]'])
    got = calibration_images(config, digits[1], 20)
    assert got.shape == (20, 16, 16, 3)
    assert got.dtype == np.uint8
    known = {image.tobytes() for image in expected_images(config, digits[0], "train")[0]}
    assert {image.tobytes() for image in got} <= known
    assert len(calibration_images(config, digits[1], 1000)) == 230


@EITHER_WAY
def test_images_of_any_size_and_kind_stream_through_a_random_crop(config, tmp_path, writer):
    rng = np.random.default_rng(0)
    records = []
    for index in range(24):
        shape = (int(rng.integers(5, 60)), int(rng.integers(5, 60)), 3)
        kind = ("JPEG", "PNG", "BMP", "GIF")[index % 4]
        data = writer.encode(rng.integers(0, 256, shape, dtype=np.uint8), kind)
        assert Image.open(io.BytesIO(data)).format == kind
        records.append(writer.serialized(data, index % 10 + 1))
    info = writer.write(tmp_path / "mixed", {"train": [records[:12], records[12:]]})
    config = override(
        config,
        [
            f"data.dir={tmp_path / 'mixed'}",
            "train.global_batch=8",
            'data.augment=["random_resized_crop","flip","brightness"]',
        ],
    )
    images, labels = epoch_of(config, info)
    assert images.shape == (24, 16, 16, 3)
    assert sorted(labels) == sorted(index % 10 for index in range(24))


@EITHER_WAY
def test_changed_files_are_read_again(config, digits, tmp_path, writer, scans):
    folder = tmp_path / "changing"
    config = override(config, [f"data.dir={folder}", "train.global_batch=4"])
    for level in (0, 90):
        record = writer.serialized(writer.encode(np.full((8, 8), level, np.uint8)), 1)
        if folder.exists():
            next(folder.rglob("data_tfrecord*")).unlink()
            (folder / "Split-train").rmdir()
        info = writer.write(folder, {"train": [[record] * 4]})
        images, _ = epoch_of(config, info)
        assert (images == level).all()
