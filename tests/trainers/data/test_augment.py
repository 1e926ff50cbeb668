import numpy as np
import pytest
import tensorflow as tf

from trainers.config import ConfigError, DataConfig
from trainers.data.augment import (
    augment_image,
    augmentations,
    crops,
    random_resized_crop,
    split_names,
    train_image,
)
from trainers.data.preprocess import Preprocessing, eval_image

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (24, 16, 3), dtype=np.uint8)
SEEDS = [(1, seed) for seed in range(40)]


def apply(name, seed, image=IMAGE):
    return augment_image(tf.constant(image), tf.constant(seed), names=[name]).numpy()


@pytest.mark.parametrize("name", augmentations.names())
def test_every_augmentation_is_uint8_random_and_repeatable(name):
    made = [apply(name, seed) for seed in SEEDS[:24]]
    assert all(one.shape == IMAGE.shape and one.dtype == np.uint8 for one in made)
    np.testing.assert_array_equal(apply(name, SEEDS[0]), made[0])
    assert len({one.tobytes() for one in made}) > 1


@pytest.mark.parametrize("name", augmentations.names())
def test_eager_and_tf_data_agree(name):
    dataset = tf.data.Dataset.from_tensor_slices(SEEDS[:6]).map(
        lambda seed: augment_image(tf.constant(IMAGE), seed, names=[name])
    )
    for seed, image in zip(SEEDS, dataset.as_numpy_iterator(), strict=False):
        np.testing.assert_array_equal(image, apply(name, seed))


def test_flip_is_the_image_or_its_mirror_about_half_of_the_time():
    mirrored = [np.array_equal(apply("flip", seed), IMAGE[:, ::-1]) for seed in SEEDS]
    kept = [np.array_equal(apply("flip", seed), IMAGE) for seed in SEEDS]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 10 <= sum(mirrored) <= 30


@pytest.mark.parametrize(("name", "down", "across"), [("shift", 3, 2), ("pad_crop", 4, 4)])
def test_translations_are_a_window_of_the_padded_image(name, down, across):
    padded = np.pad(IMAGE, ((down, down), (across, across), (0, 0)))
    windows = {
        padded[y : y + 24, x : x + 16].tobytes(): (y, x)
        for y in range(2 * down + 1)
        for x in range(2 * across + 1)
    }
    moved = tf.data.Dataset.range(150).map(
        lambda seed: augment_image(tf.constant(IMAGE), tf.stack([2, seed]), names=[name])
    )
    offsets = [windows[image.tobytes()] for image in moved.as_numpy_iterator()]
    assert {y for y, _ in offsets} == set(range(2 * down + 1))
    assert {x for _, x in offsets} == set(range(2 * across + 1))


def test_rotation_keeps_the_center_and_turns_little():
    dot = np.zeros((21, 21, 3), np.uint8)
    dot[10, 10] = dot[10, 20] = 255
    columns = []
    for seed in SEEDS:
        turned = apply("rotate", seed, dot)
        assert turned[10, 10, 0] == 255
        weights = turned[:, 16:, 0].astype(float).sum(1)
        columns.append((weights * np.arange(21)).sum() / weights.sum() - 10)
    # The far dot moves up and down by at most 10 sin(10 degrees) = 1.74 rows.
    assert 1.0 < max(columns) < 2.0
    assert -2.0 < min(columns) < -1.0


def test_brightness_and_contrast_ranges():
    flat = np.full((8, 8, 3), 100, np.uint8)
    levels = [int(apply("brightness", seed, flat)[0, 0, 0]) for seed in SEEDS]
    assert 80 <= min(levels) < 90
    assert 110 < max(levels) <= 120
    np.testing.assert_array_equal(apply("contrast", (0, 0), flat), flat)
    halves = np.concatenate([flat - 50, flat + 50])
    spreads = [np.ptp(apply("contrast", seed, halves)) for seed in SEEDS]
    assert 80 <= min(spreads) < 90
    assert 110 < max(spreads) <= 120


@pytest.mark.parametrize("size", [(100, 80), (1, 1), (3, 500), (500, 2)])
def test_random_resized_crop_boxes_lie_inside(size):
    boxes = (
        tf.data.Dataset.range(200)
        .map(lambda seed: random_resized_crop(tf.constant(size), tf.stack([3, seed])))
        .batch(200)
        .get_single_element()
        .numpy()
    )
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (top + height <= size[0]).all()
    assert (left + width <= size[1]).all()
    if size == (100, 80):
        area = height * width / 8000
        assert 0.07 < area.min() < 0.15
        assert area.max() > 0.8
        inner = (height < 100) & (width < 80)
        aspect = (width / height)[inner]
        assert aspect.min() > 0.7
        assert aspect.max() < 1.4


def test_train_image_without_augmentation_is_the_evaluation_image():
    data = DataConfig(image_size=(12, 10), crop_fraction=0.875)
    encoded = tf.io.encode_png(IMAGE)
    expected = eval_image(encoded, Preprocessing.of(data))
    np.testing.assert_array_equal(train_image(encoded, (0, 1), data=data), expected)


def test_train_image_resizes_exactly_the_chosen_box():
    data = DataConfig(image_size=(12, 10), augment=("random_resized_crop",))
    seed = tf.constant((0, 5))
    top, left, height, width = random_resized_crop(
        (24, 16), tf.random.fold_in(seed, tf.constant(0))
    ).numpy()
    box = IMAGE[top : top + height, left : left + width].astype(np.float32)
    expected = np.round(tf.image.resize(box, (12, 10), antialias=True).numpy())
    got = train_image(tf.io.encode_png(IMAGE), seed, data=data).numpy()
    assert np.abs(got - expected).max() <= 1


def test_names_are_checked():
    crop, rest = split_names(["flip", "random_resized_crop", "shift"])
    assert crop is crops.get("random_resized_crop")
    assert rest == [augmentations.get("flip"), augmentations.get("shift")]
    with pytest.raises(ConfigError, match=r"unknown augmentation 'flop'; did you mean flip"):
        split_names(["flop"])
    with pytest.raises(ConfigError, match="takes one crop"):
        split_names(["random_resized_crop", "random_resized_crop"])
