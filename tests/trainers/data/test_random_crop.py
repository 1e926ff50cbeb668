"""`random_resized_crop` against what torchvision documents of its `RandomResizedCrop`."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from trainers.data.augment import random_resized_crop

OURS, THEIRS = 5_000, 20_000
# Of one comparison with fixed seeds; some fifty are made.
FALSE_ALARM = 1e-9
# (height, width), area, aspect: usual photographs, squares, and shapes that few draws fit into.
CASES = [
    ((375, 500), (0.08, 1.0), (3 / 4, 4 / 3)),
    ((500, 375), (0.08, 1.0), (3 / 4, 4 / 3)),
    ((224, 224), (0.08, 1.0), (3 / 4, 4 / 3)),
    ((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)),
    ((300, 1200), (0.08, 1.0), (3 / 4, 4 / 3)),
    ((1200, 100), (0.3, 1.0), (3 / 4, 4 / 3)),
    ((200, 300), (0.9, 1.0), (0.5, 2.0)),
]


@functools.cache
def documented(size, area, aspect):
    """(N, 4) top, left, height, width, by the algorithm that torchvision documents.

    Ten times: an area and the logarithm of an aspect, uniformly; the box counts if it fits. Else
    the central box, of the image's aspect clamped to the range.
    """
    generator = np.random.default_rng(1)
    height, width = size
    boxes = []
    for _ in range(THEIRS):
        for _ in range(10):
            pixels = height * width * generator.uniform(*area)
            ratio = math.exp(generator.uniform(math.log(aspect[0]), math.log(aspect[1])))
            wide, high = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < wide <= width and 0 < high <= height:
                top = generator.integers(0, height - high + 1)
                boxes.append((top, generator.integers(0, width - wide + 1), high, wide))
                break
        else:
            high, wide = height, width
            if width / height < aspect[0]:
                high = round(width / aspect[0])
            elif width / height > aspect[1]:
                wide = round(height * aspect[1])
            boxes.append(((height - high) // 2, (width - wide) // 2, high, wide))
    return np.array(boxes)


@functools.cache
def drawn(size, area, aspect, seed=7):
    """(N, 4) of ours."""

    @tf.function(autograph=False)
    def draw(seeds):
        def one(pair):
            return random_resized_crop(tf.constant(size), pair, area=area, aspect=aspect)

        return tf.vectorized_map(one, seeds)

    seeds = np.stack([np.full(OURS, seed), np.arange(OURS)], 1)
    return draw(tf.constant(seeds, tf.int32)).numpy()


def same_distribution(ours, theirs):
    """By Kolmogorov and Smirnov's test, whose level ties only lower."""
    both = np.sort(np.concatenate([ours, theirs]))
    at = [np.searchsorted(np.sort(one), both, side="right") / len(one) for one in (ours, theirs)]
    scale = math.sqrt((len(ours) + len(theirs)) / (len(ours) * len(theirs)))
    return np.abs(at[0] - at[1]).max() <= math.sqrt(-math.log(FALSE_ALARM / 2) / 2) * scale


def same_share(ours, theirs):
    """Two shares of a yes, 6.1 standard errors apart at most; equal where there is no spread."""
    pooled = np.concatenate([ours, theirs]).mean()
    spread = math.sqrt(pooled * (1 - pooled) * (1 / len(ours) + 1 / len(theirs)))
    return abs(ours.mean() - theirs.mean()) <= 6.1 * spread


@pytest.mark.parametrize(("size", "area", "aspect"), CASES)
def test_boxes_are_drawn_as_torchvision_draws_them(size, area, aspect):
    both = drawn(size, area, aspect), documented(size, area, aspect)
    height, width = size
    for boxes in both:
        top, left, high, wide = boxes.T
        assert (boxes >= [0, 0, 1, 1]).all()
        assert ((top + high <= height) & (left + wide <= width)).all()
    for name, fact in {
        "area": lambda one: one[:, 2] * one[:, 3],
        "aspect": lambda one: one[:, 3] / one[:, 2],
        "top": lambda one: one[:, 0],
        "left": lambda one: one[:, 1],
        "bottom": lambda one: height - one[:, 0] - one[:, 2],
        "right": lambda one: width - one[:, 1] - one[:, 3],
    }.items():
        assert same_distribution(fact(both[0]), fact(both[1])), name
    for name, is_so in {
        "spans the height": lambda one: one[:, 2] == height,
        "spans the width": lambda one: one[:, 3] == width,
        "is the image": lambda one: (one[:, 2] == height) & (one[:, 3] == width),
    }.items():
        assert same_share(is_so(both[0]), is_so(both[1])), name


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1000, 10), (493, 0, 13, 10)),  # 10 / 0.75 high
        ((10, 1000), (0, 493, 10, 13)),
        ((1, 1), (0, 0, 1, 1)),
        ((1, 50), (0, 24, 1, 1)),
        ((50, 1), (24, 0, 1, 1)),
    ],
)
def test_the_central_box_where_nothing_fits(size, box):
    # A part of the area that no box of these aspects has.
    found = drawn(size, (0.9, 1.0), (3 / 4, 4 / 3))[:200]
    np.testing.assert_array_equal(found, np.tile(box, (len(found), 1)))


def test_a_box_depends_on_its_seed_alone():
    one, other = ((375, 500), (0.08, 1.0), (3 / 4, 4 / 3)), (3, 500)
    boxes = drawn(*one)
    alone = random_resized_crop(tf.constant(one[0]), tf.constant([7, 5])).numpy()
    np.testing.assert_array_equal(alone, boxes[5])
    assert len(np.unique(boxes, axis=0)) > 0.99 * OURS
    seed = tf.constant([7, 5], tf.int64)
    again = [random_resized_crop(tf.constant(other), seed).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*again)
