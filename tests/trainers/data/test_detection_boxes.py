"""Boxes of any shape, by hypothesis, against plain numbers."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.detection import Sample, crop, iou, mask_boxes, resize_and_pad


def pixel_boxes(sample):
    height, width = sample.image.shape[:2]
    return sample.boxes.numpy() * [height, width, height, width]


def test_mask_boxes_of_empty_and_full_masks():
    masks = np.zeros((3, 4, 6), np.uint8)
    masks[1] = 1
    masks[2, 3, 5] = 1
    np.testing.assert_array_equal(mask_boxes(masks), [[0, 0, 0, 0], [0, 0, 4, 6], [3, 5, 4, 6]])
    assert mask_boxes(masks[:0]).shape == (0, 4)


fractions = st.floats(0, 1, width=32)
boxes = st.lists(
    st.tuples(fractions, fractions, fractions, fractions).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
    ),
    max_size=5,
).map(lambda rows: np.array(rows, np.float32).reshape(-1, 4))


@settings(max_examples=60, deadline=None)
@given(boxes, boxes)
def test_iou_equals_a_loop_in_double_precision(a, b):
    got = iou(a, b).numpy()
    assert got.shape == (len(a), len(b))
    np.testing.assert_allclose(got, iou(b, a).numpy().T, rtol=1e-6)
    for i, (top, left, bottom, right) in enumerate(a.astype(float)):
        for j, (top2, left2, bottom2, right2) in enumerate(b.astype(float)):
            high = max(0.0, min(bottom, bottom2) - max(top, top2))
            wide = max(0.0, min(right, right2) - max(left, left2))
            union = (bottom - top) * (right - left) + (bottom2 - top2) * (right2 - left2)
            union -= high * wide
            # Below float32's least normal number, products are flushed to 0.
            if union > 1e-30:
                assert got[i, j] == pytest.approx(high * wide / union, abs=1e-4)
            assert 0 <= got[i, j] <= 1 + 1e-6


@settings(max_examples=30, deadline=None)
@given(boxes, st.data())
def test_cropped_boxes_are_the_part_inside(rows, data):
    height, width = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    top = data.draw(st.integers(0, height - 1))
    left = data.draw(st.integers(0, width - 1))
    high, wide = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    count = len(rows)
    sample = Sample(
        tf.zeros((height, width, 3), tf.uint8),
        tf.constant(rows),
        tf.range(count),
        tf.zeros((count,), tf.bool),
        tf.ones((count,)),
        tf.range(count, dtype=tf.int64),
        tf.zeros((count, 0, 0), tf.uint8),
    )
    got = crop(sample, tf.constant([top, left, high, wide]))
    pixels = rows.astype(float) * [height, width, height, width]
    want = np.clip(pixels - [top, left, top, left], 0, [high, wide, high, wide])
    sides = want[:, 2:] - want[:, :2]
    sure, maybe = (sides > 0.011).all(1), (sides > 0.009).all(1)
    ids = set(got.ids.numpy())
    assert set(np.flatnonzero(sure)) <= ids <= set(np.flatnonzero(maybe))
    np.testing.assert_allclose(
        got.boxes.numpy() * [high, wide, high, wide], want[got.ids.numpy()], atol=1e-3
    )
    assert (got.area.numpy() <= 1.0).all()


@settings(max_examples=40, deadline=None)
@given(*[st.integers(1, 70)] * 4)
def test_letterboxing_can_be_undone(height, width, high, wide):
    sample = Sample(
        tf.zeros((height, width, 3), tf.uint8),
        tf.constant([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.5, 0.75]]),
        tf.range(2),
        tf.zeros((2,), tf.bool),
        tf.ones((2,)),
        tf.range(2, dtype=tf.int64),
        tf.zeros((2, 0, 0), tf.uint8),
    )
    got, ratio = resize_and_pad(sample, (high, wide), resize="antialias")
    assert got.image.shape == (high, wide, 3)
    back = got.boxes.numpy() * [high, wide, high, wide] / np.tile(ratio.numpy(), 2)
    np.testing.assert_allclose(back, pixel_boxes(sample), rtol=1e-5, atol=1e-5)
    assert got.boxes.numpy().max() <= 1 + 1e-6
