"""Color and geometry compared with Pillow on photographs, and the draws of the policies."""

import collections
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from trainers.data import color, geometry, policies
from trainers.data.augment import augment_image
from trainers.data.policies import _NAMES, _RANDOM_OPS

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8)
FACTORS = (0.0, 0.1, 0.5, 0.73, 1.0, 1.3, 1.9)


@pytest.fixture(scope="module")
def photographs(extract):
    """Six photographs, a crop of 200 x 180 each."""
    files = sorted((Path(extract("imagenet_sample_A")) / "images").iterdir())[::30]
    images = [Image.open(one).convert("RGB") for one in files]
    return [np.array(one)[:200, :180] for one in images if min(one.size) >= 200]


def enhanced(kind):
    return lambda image, factor: kind(image).enhance(factor)


# The operation, Pillow's, the amounts, and by how many levels a value may differ.
COLORS = {
    "brightness": (enhanced(ImageEnhance.Brightness), FACTORS, 0),
    "contrast": (enhanced(ImageEnhance.Contrast), FACTORS, 0),
    "color": (enhanced(ImageEnhance.Color), FACTORS, 0),
    "sharpness": (enhanced(ImageEnhance.Sharpness), FACTORS, 0),
    "posterize": (ImageOps.posterize, (1, 2, 4, 7, 8), 0),
    "solarize": (ImageOps.solarize, (0, 1, 100, 128.5, 255, 256), 0),
    "autocontrast": (lambda image, _: ImageOps.autocontrast(image), (0,), 1),
    "equalize": (lambda image, _: ImageOps.equalize(image), (0,), 0),
    "invert": (lambda image, _: ImageOps.invert(image), (0,), 0),
}


def odd_images():
    """Synthetic images: flat, with two values, tiny, dark, with a flat channel."""
    halves = np.zeros((6, 6, 3), np.uint8)
    halves[3:] = (10, 255, 3)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    flat_red = NOISE.copy()
    flat_red[..., 0] = 77
    return [
        NOISE,
        NOISE // 8,
        halves,
        ramp,
        flat_red,
        np.full((5, 7, 3), 200, np.uint8),
        NOISE[:3, :3],
    ]


@pytest.mark.shared_data
@pytest.mark.parametrize("name", COLORS)
def test_colors_equal_pillow(photographs, name):
    theirs, amounts, tolerance = COLORS[name]
    ours = tf.function(getattr(color, name), autograph=False)
    for pixels in [*photographs, *odd_images()]:
        for amount in amounts:
            wanted = np.array(theirs(Image.fromarray(pixels), amount)).astype(int)
            got = ours(tf.constant(pixels), tf.constant(float(amount))).numpy()
            assert got.dtype == np.uint8
            assert np.abs(got - wanted).max() <= tolerance, (pixels.shape, amount)


@pytest.mark.shared_data
def test_gray_equals_pillow(photographs):
    for pixels in [*photographs, NOISE]:
        wanted = np.array(Image.fromarray(pixels).convert("L"))
        np.testing.assert_array_equal(color.gray(tf.constant(pixels)), wanted)


def test_sharpness_leaves_images_that_are_too_small():
    for shape in [(2, 9, 3), (9, 1, 3)]:
        pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
        np.testing.assert_array_equal(color.sharpness(tf.constant(pixels), 1.9), pixels)


def affine(image, matrix):
    fill = (128, 128, 128)
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill
    )


GEOMETRY = {
    "shear_x": (lambda image, v: affine(image, (1, v, 0, 0, 1, 0)), (-0.3, 0.11, 0.3)),
    "shear_y": (lambda image, v: affine(image, (1, 0, 0, v, 1, 0)), (-0.3, 0.11, 0.3)),
    "translate_x": (lambda image, v: affine(image, (1, 0, v, 0, 1, 0)), (-80, -3, 0, 17)),
    "translate_y": (lambda image, v: affine(image, (1, 0, 0, 0, 1, v)), (-80, -3, 0, 17)),
    "rotate": (
        lambda image, v: image.rotate(v, Image.Resampling.NEAREST, fillcolor=(128, 128, 128)),
        (-30, -3.3, 0, 12.5, 30, 135),
    ),
}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_equals_pillow(photographs, name):
    theirs, amounts = GEOMETRY[name]
    ours = tf.function(getattr(geometry, name), autograph=False)
    for pixels in [*photographs, NOISE]:
        for amount in amounts:
            wanted = np.array(theirs(Image.fromarray(pixels), amount))
            got = ours(tf.constant(pixels), tf.constant(float(amount))).numpy()
            # Half-way between two pixels, and at the edge, rounding decides which one is taken.
            other = (got != wanted).any(-1).mean()
            assert other <= (0.0 if name.startswith("translate") else 0.02), amount


def recorded(monkeypatch, entry, *, steps=1, count=400):
    """(operation, amount) of every step that `entry` takes, over `count` seeds."""

    def note(image, op, amount, *, names):
        at = tf.gather(tf.constant([_NAMES.index(name) for name in names], tf.float32), op)
        column = tf.ones((40, 1, 1)) * tf.stack([at, amount, 0.0])
        return tf.concat([image[:, 1:], column], 1)

    monkeypatch.setattr(policies, "_apply", note)
    blank = tf.zeros((40, 48, 3))
    made = tf.data.Dataset.range(count).map(
        lambda seed: augment_image(blank, tf.stack([3, tf.cast(seed, tf.int32)]), names=[entry])
    )
    notes = made.batch(count).get_single_element().numpy()[:, 0, -steps:, :2].reshape(-1, 2)
    return [(_NAMES[round(op)], float(amount)) for op, amount in notes]


def test_rand_augment_draws_every_operation_at_its_magnitude(monkeypatch):
    steps = recorded(monkeypatch, "rand_augment(3, 5)", steps=3, count=200)
    counts = collections.Counter(name for name, _ in steps)
    assert len(steps) == 600
    assert set(counts) == set(_RANDOM_OPS)
    assert len(_RANDOM_OPS) == 14
    assert min(counts.values()) >= 20  # 43 are expected of each.
    assert max(counts.values()) <= 70
    amounts = {name: {round(a, 3) for n, a in steps if n == name} for name in counts}
    assert amounts["rotate"] == {-15.0, 15.0}
    assert amounts["shear_x"] == {-0.15, 0.15}
    assert amounts["brightness"] == amounts["sharpness"] == {0.55, 1.45}
    assert amounts["posterize"] == {6.0}
    assert amounts["solarize"] == {128.0}
    assert amounts["translate_x"] == {round(sign * 48 * 150 / 331 / 2, 3) for sign in (-1, 1)}
    assert amounts["translate_y"] == {round(sign * 40 * 150 / 331 / 2, 3) for sign in (-1, 1)}


def test_magnitudes_beyond_ten_stay_possible(monkeypatch):
    steps = recorded(monkeypatch, "rand_augment(2, 30)", steps=2, count=150)
    assert min(a for name, a in steps if name == "posterize") == 1.0
    assert min(a for name, a in steps if name == "solarize") == 0.0
    assert min(a for name, a in steps if name == "contrast") == 0.0


def test_trivial_augment_draws_one_operation_of_any_strength(monkeypatch):
    steps = recorded(monkeypatch, "trivial_augment")
    assert len(steps) == 400
    assert {name for name, _ in steps} == set(_RANDOM_OPS)
    turned = [a for name, a in steps if name == "rotate"]
    assert min(turned) < -60
    assert max(turned) > 60
    assert all(abs(abs(a) / 4.5 - round(abs(a) / 4.5)) < 1e-4 for a in turned)
    bits = [a for name, a in steps if name == "posterize"]
    assert 2 <= min(bits) < 4
    assert 6 < max(bits) <= 8


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # Of 25 pairs, from the paper's tables: each probability of the operation, summed, by 25.
        ("imagenet", {"equalize": 11.2 / 25, "rotate": 3.6 / 25, "invert": 1.8 / 25}),
        ("cifar10", {"equalize": 4.7 / 25, "translate_y": 3.4 / 25, "invert": 0.2 / 25}),
    ],
)
def test_auto_augment_takes_operations_as_often_as_its_table(monkeypatch, policy, expected):
    steps = recorded(monkeypatch, f"auto_augment({policy!r})", steps=2, count=3000)
    table = policies._parse(policies._IMAGENET if policy == "imagenet" else policies._CIFAR10)
    assert len(table) == 25
    assert len(steps) == 6000
    for name in _NAMES[1:]:
        rate = sum(p for pair in table for op, p, _ in pair if _NAMES[op] == name) / 25
        if name in expected:
            assert rate == pytest.approx(expected[name])
        found = sum(one == name for one, _ in steps) / 3000
        # Four standard errors of a count of pairs, each of at most two such operations.
        assert abs(found - rate) <= 4 * (2 * max(rate, 0.01) / 3000) ** 0.5, name
    factors = {round(a, 3) for name, a in steps if name == "color"}
    levels = {m for pair in table for op, p, m in pair if _NAMES[op] == "color" and p}
    assert factors == {round(0.1 + 0.18 * level, 3) for level in levels}


@pytest.mark.shared_data
@pytest.mark.parametrize("entry", ["rand_augment(2, 9)", "auto_augment", "trivial_augment"])
def test_the_graph_gives_the_pixels_of_eager_code(photographs, entry):
    pixels = tf.constant(photographs[0][:64, :64])
    made = tf.data.Dataset.range(24).map(
        lambda seed: augment_image(pixels, tf.stack([1, tf.cast(seed, tf.int32)]), names=[entry])
    )
    changed = 0
    for seed, image in enumerate(made.as_numpy_iterator()):
        np.testing.assert_array_equal(image, augment_image(pixels, (1, seed), names=[entry]))
        changed += (image != pixels.numpy()).any()
    assert changed > 12
