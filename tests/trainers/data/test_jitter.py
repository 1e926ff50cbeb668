"""Color jitter, grayscale and erasing."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance

from core.renamed import RenamedWarning
from trainers.data.augment import augment_image

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8)
SEEDS = range(60)


def made(entry, seed, image=NOISE):
    return augment_image(tf.constant(image), (1, seed), names=[entry]).numpy()


def test_jitter_of_nothing_changes_nothing():
    np.testing.assert_array_equal(made("color_jitter(0, 0, 0, 0)", 0), NOISE)


def test_the_former_name_is_the_same_augmentation_with_a_warning():
    current = made("color_jitter(0.3, 0.3, 0.3)", 5)
    with pytest.warns(RenamedWarning, match="data.augment=colour_jitter is now color_jitter"):
        former = made("colour_jitter(0.3, 0.3, 0.3)", 5)
    np.testing.assert_array_equal(former, current)
    assert not np.array_equal(former, NOISE)


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_one_jitter_is_an_enhancement_by_a_factor_in_range(option, kind):
    rest = {"brightness": 0, "contrast": 0, "saturation": 0, option: 0.3}
    entry = f"color_jitter({', '.join(f'{key}={value}' for key, value in rest.items())})"
    enhancer = kind(Image.fromarray(NOISE))
    factors = np.linspace(0.7, 1.3, 241)
    table = np.stack([np.array(enhancer.enhance(f)) for f in factors]).astype(int)
    chosen = []
    for seed in SEEDS[:25]:
        away = np.abs(table - made(entry, seed)).mean((1, 2, 3))
        assert away.min() < 0.3
        chosen.append(factors[away.argmin()])
    assert min(chosen) < 0.8
    assert max(chosen) > 1.2


def test_hue_turns_every_pixel_alike():
    image = made("color_jitter(0, 0, 0, hue=0.2)", 3)
    turns = []
    for before, after in zip(NOISE[:6].reshape(-1, 3), image[:6].reshape(-1, 3), strict=True):
        old, new = (colorsys.rgb_to_hsv(*(pixel / 255)) for pixel in (before, after))
        # The hue of a pixel that is nearly gray is hardly defined.
        if old[1] * old[2] > 0.3:
            turns.append((new[0] - old[0] + 0.5) % 1 - 0.5)
            assert np.allclose(old[1:], new[1:], atol=0.02)
    assert len(turns) > 100
    assert np.std(turns) < 0.01
    assert 0.01 < abs(np.mean(turns)) <= 0.21


def test_grayscale_with_its_probability():
    luma = np.array(Image.fromarray(NOISE).convert("L"))[..., None].repeat(3, 2)
    gray = [np.array_equal(made("grayscale(0.4)", seed), luma) for seed in SEEDS]
    kept = [np.array_equal(made("grayscale(0.4)", seed), NOISE) for seed in SEEDS]
    assert all(a != b for a, b in zip(gray, kept, strict=True))
    assert 12 <= sum(gray) <= 36
    assert np.array_equal(made("grayscale(1)", 0), luma)
    assert np.array_equal(made("grayscale(0)", 0), NOISE)


def erased(image):
    """Top, left, height, width of the box that differs; it must be one box."""
    differs = (image != FLAT).any(-1)
    ys, xs = np.nonzero(differs)
    box = differs[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    assert box.all()
    return ys.min(), xs.min(), *box.shape


FLAT = np.full((40, 48, 3), 100, np.uint8)


def test_erasing_fills_a_box_of_the_given_area_and_aspect():
    entry = "random_erasing(1, area=(0.05, 0.3), aspect=(0.5, 2), fill='black')"
    boxes = np.array([erased(made(entry, seed, FLAT)) for seed in SEEDS])
    area = boxes[:, 2] * boxes[:, 3] / (40 * 48)
    assert 0.04 < area.min() < 0.1
    assert 0.2 < area.max() < 0.33
    aspect = boxes[:, 2] / boxes[:, 3]
    assert 0.4 < aspect.min() < 1
    assert 1 < aspect.max() < 2.4
    assert len({tuple(box) for box in boxes}) > 50
    assert boxes[:, 0].min() < 8
    assert (boxes[:, 0] + boxes[:, 2]).max() > 32


def test_erasing_with_its_probability_and_fills():
    kept = [np.array_equal(made("random_erasing(0.25)", seed, FLAT), FLAT) for seed in SEEDS]
    assert 35 <= sum(kept) <= 55
    noise = made("random_erasing(1, area=(0.2, 0.4))", 2, FLAT)
    ys, xs = np.nonzero((noise != FLAT).any(-1))
    top, left, height, width = ys.min(), xs.min(), np.ptp(ys) + 1, np.ptp(xs) + 1
    values = noise[top : top + height, left : left + width]
    assert values.std() > 60
    mean = made("random_erasing(1, fill='mean')", 2, NOISE)
    changed = (mean != NOISE).any(-1)
    np.testing.assert_array_equal(
        np.unique(mean[changed], axis=0), [NOISE.reshape(-1, 3).mean(0).round()]
    )


def test_erasing_leaves_an_image_that_no_shape_fits():
    line = NOISE[:1]
    np.testing.assert_array_equal(made("random_erasing(1)", 0, line), line)
