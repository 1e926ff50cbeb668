"""Masks: validation before pycocotools, rendering and encoding."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_mask

from tfx_pipeline.ingest.masks import encode_gray_png, mask_area, mask_finding, render

SIZE = {"height": 4, "width": 6}
TRIANGLE = [0, 0, 5, 0, 5, 3]


def rle(counts, size=(4, 6)):
    return {"size": list(size), "counts": counts}


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        {},
        [TRIANGLE],
        [TRIANGLE, tuple(TRIANGLE)],
        [[-5, -5.5, 40, 0, 5, 33]],
        rle([24]),
        rle([0, 24]),
        rle([3, 0, 4, 17]),
        rle("h0"),
        rle(b"h0"),
    ],
)
def test_masks_that_can_be_read(segmentation):
    assert mask_finding(segmentation, **SIZE) is None


@pytest.mark.parametrize(
    ("segmentation", "kind", "words"),
    [
        ("polygon", "mask_invalid", "polygons or RLE"),
        (7, "mask_invalid", "polygons or RLE"),
        (TRIANGLE, "mask_invalid", "got 0"),
        ([[]], "mask_invalid", "got 0 numbers"),
        ([[1, 2, 3, 4]], "mask_invalid", "got 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "mask_invalid", "got 7 numbers"),
        ([TRIANGLE, [1, 2]], "mask_invalid", "got 2 numbers"),
        ([[0, 0, 5, 0, 5, None]], "mask_invalid", "invalid coordinates"),
        ([[0, 0, 5, 0, 5, "3"]], "mask_invalid", "invalid coordinates"),
        ([[0, 0, 5, 0, 5, float("nan")]], "mask_invalid", "invalid coordinates"),
        ([[0, 0, 5, 0, 5, float("inf")]], "mask_invalid", "invalid coordinates"),
        ([[0, 0, 5, 0, 5, 10**400]], "mask_invalid", "invalid coordinates"),
        ([[0, 0, 5, 0, 5, 2e9]], "mask_invalid", "invalid coordinates"),
        ([[0, 0, -2e9, 0, 5, 3]], "mask_invalid", "invalid coordinates"),
        ([[[0, 0], [5, 0], [5, 3], [1, 1], [2, 2], [3, 3]]], "mask_invalid", "invalid coordinates"),
        ([[0, 0, 900_000, 0] * 5], "mask_invalid", "with outlines of"),
        (rle([24], (6, 4)), "mask_size", "image of [4, 6]"),
        (rle([24], (4,)), "mask_size", "image of [4, 6]"),
        ({"counts": [24]}, "mask_size", "mask of None"),
        ({"size": [4, 6]}, "mask_invalid", "got None"),
        (rle([23]), "mask_invalid", "23 pixels, expected 4 x 6"),
        (rle([25]), "mask_invalid", "25 pixels"),
        (rle([30, -6]), "mask_invalid", "negative run: -6"),
        (rle([2**32 + 24]), "mask_invalid", "pixels"),
        (rle([24.0]), "mask_invalid", "integers or text"),
        (rle(["24"]), "mask_invalid", "integers or text"),
        (rle(24), "mask_invalid", "integers or text"),
        (rle(""), "mask_invalid", "RLE of 0 pixels"),
        (rle("h"), "mask_invalid", "truncated"),
        (rle("\x00\x01"), "mask_invalid", "malformed"),
        (rle("\u00e9"), "mask_invalid", "pixels"),
        (rle("o" * 400), "mask_invalid", "truncated or malformed"),
        (rle("h0h0"), "mask_invalid", "48 pixels"),
    ],
)
def test_masks_that_cannot_be_read_never_reach_pycocotools(segmentation, kind, words):
    found = mask_finding(segmentation, **SIZE)
    assert found is not None
    assert found[0] == kind
    assert words in found[1]


BITS = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.integers(0, 1)
)


@given(BITS)
def test_run_lengths_of_any_mask_are_read_in_each_spelling(mask):
    height, width = mask.shape
    size = {"height": height, "width": width}
    packed = coco_mask.encode(np.asfortranarray(mask))
    column = mask.T.ravel()
    edges = np.flatnonzero(np.diff(column, prepend=0))
    runs = np.diff(np.concatenate([[0], edges, [column.size]])).tolist()
    for one in (
        packed,
        {**packed, "counts": packed["counts"].decode()},
        {"size": [height, width], "counts": runs},
    ):
        assert mask_finding(one, **size) is None
        np.testing.assert_array_equal(render(one, **size), mask)
        assert mask_area(one, **size) == mask.sum()


@given(BITS, st.data())
def test_a_cut_or_changed_text_is_refused_or_means_another_mask_of_the_size(mask, data):
    height, width = mask.shape
    packed = coco_mask.encode(np.asfortranarray(mask))
    text = bytearray(packed["counts"])
    place = data.draw(st.integers(0, len(text) - 1))
    if data.draw(st.booleans()):
        del text[place:]
    else:
        text[place] = data.draw(st.integers(0, 255))
    changed = {"size": [height, width], "counts": bytes(text)}
    if mask_finding(changed, height=height, width=width) is None:
        assert render(changed, height=height, width=width).shape == mask.shape


def test_polygons_are_united():
    one = [0, 0, 2, 0, 2, 4, 0, 4]
    two = [1, 0, 3, 0, 3, 4, 1, 4]
    expected = np.zeros((4, 6), np.uint8)
    expected[:, :3] = 1
    np.testing.assert_array_equal(render([one, two], **SIZE), expected)
    assert mask_area([one, two], **SIZE) == 12


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        st.tuples(st.integers(1, 30), st.integers(1, 30)),
    )
)
def test_png_is_what_pillow_reads(pixels):
    encoded = encode_gray_png(pixels)
    image = Image.open(io.BytesIO(encoded))
    assert image.mode == ("L" if pixels.dtype == np.uint8 else "I;16")
    np.testing.assert_array_equal(np.asarray(image), pixels)
    assert encode_gray_png(np.asfortranarray(pixels)) == encoded
