"""Boxes and masks of images that EXIF rotates."""

import hashlib
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from tfx_pipeline.ingest.check import Checker
from tfx_pipeline.ingest.frames import SHOWN, STORED
from tfx_pipeline.ingest.images import load_stored
from tfx_pipeline.ingest.masks import encode_gray_png
from tfx_pipeline.ingest.records import make_example
from tfx_pipeline.ingest.source import Item, Objects
from trainers.data import features

# Displayed (height, width), and a red box in it: xmin, ymin, xmax, ymax.
SHOWN_SIZE, BOX = (64, 48), (8, 4, 40, 20)
QUARTERS = (5, 6, 7, 8)
UNDONE = {6: 8, 8: 6}


def scene(orientation, size=SHOWN_SIZE):
    """PNG bytes whose pixels, rotated by EXIF, have the red box at `BOX`."""
    pixels = np.full((*size, 3), 128, np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (255, 0, 0)
    shown = Image.fromarray(pixels)
    shown.getexif()[0x0112] = UNDONE.get(orientation, orientation)
    stored = ImageOps.exif_transpose(shown)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(stored)).save(buffer, "PNG", exif=exif)
    return buffer.getvalue(), np.asarray(stored)


def red(pixels):
    """(H, W) bool of the red pixels, and the box around them."""
    mask = (pixels[..., 0] > 200) & (pixels[..., 1] < 60)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def record(item, data, exif):
    image = load_stored(data, exif=exif)
    return make_example(item, image.facts, image.encoded, classes=("a",)).features.feature


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def box_of(found, height, width):
    keys = (features.XMIN, features.YMIN, features.XMAX, features.YMAX)
    values = [found[key].float_list.value[0] for key in keys]
    return tuple(round(v * side) for v, side in zip(values, (width, height) * 2, strict=True))


def polygon(box):
    x0, y0, x1, y1 = box
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def run_lengths(mask):
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"counts": found["counts"].decode(), "size": list(mask.shape)}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("exif", ["as_stored", "upright"])
@pytest.mark.parametrize("frame", [SHOWN, STORED])
@pytest.mark.parametrize("kind", ["box", "polygon", "rle"])
def test_labels_are_on_the_red_pixels_of_the_record(orientation, exif, frame, kind):
    data, stored = scene(orientation)
    drawn = red(stored)[1] if frame == STORED else BOX
    size = stored.shape[:2] if frame == STORED else SHOWN_SIZE
    mask = np.zeros(size, bool)
    mask[drawn[1] : drawn[3], drawn[0] : drawn[2]] = True
    shapes = {"box": (), "polygon": (polygon(drawn),), "rle": (run_lengths(mask),)}
    objects = Objects((drawn,), (0,), (7,), segmentations=shapes[kind], frame=frame)
    semantic = encode_gray_png(mask.astype(np.uint8) * 3)
    found = record(
        Item("a.png", objects=objects, attributes={features.SEMANTIC: [semantic]}), data, exif
    )
    pixels = decoded(found[features.IMAGE].bytes_list.value[0])
    expected, box = red(pixels)
    assert box_of(found, *pixels.shape[:2]) == box
    if kind != "box":
        np.testing.assert_array_equal(
            decoded(found[features.MASK].bytes_list.value[0]) > 0, expected
        )
    np.testing.assert_array_equal(
        decoded(found[features.SEMANTIC].bytes_list.value[0]) == 3, expected
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("exif", ["as_stored", "upright"])
def test_fractions_of_yolo_count_shown_pixels(orientation, exif):
    height, width = SHOWN_SIZE
    box = (BOX[0] / width, BOX[1] / height, BOX[2] / width, BOX[3] / height)
    objects = Objects((box,), (0,), (1,), normalized=True, frame=SHOWN)
    found = record(Item("a.png", objects=objects), scene(orientation)[0], exif)
    pixels = decoded(found[features.IMAGE].bytes_list.value[0])
    assert box_of(found, *pixels.shape[:2]) == red(pixels)[1]


def verdict(data, objects, exif, size=None):
    declared = {} if size is None else {features.HEIGHT: [size[0]], features.WIDTH: [size[1]]}
    item = Item("a.png", data=data, objects=objects, attributes=declared)
    return item, Checker("", "", exif, 1).check(0, item)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("exif", ["as_stored", "upright"])
@pytest.mark.parametrize("frame", [SHOWN, STORED])
def test_the_stated_size_decides_where_it_can(orientation, exif, frame):
    data, stored = scene(orientation)
    drawn = red(stored)[1] if frame == STORED else BOX
    size = stored.shape[:2] if frame == STORED else SHOWN_SIZE
    item, found = verdict(data, Objects((drawn,), (0,), (1,)), exif, size)
    if orientation in QUARTERS:
        made = record(item, data, exif)
        pixels = decoded(made[features.IMAGE].bytes_list.value[0])
        assert box_of(made, *pixels.shape[:2]) == red(pixels)[1]
    elif exif == "as_stored":
        assert found.facts is None
        assert found.findings[0].kind == "orientation_unclear"
        assert "--exif upright" in found.findings[0].detail
    elif frame == SHOWN:
        made = record(item, data, exif)
        assert box_of(made, *SHOWN_SIZE) == BOX
    assert verdict(data, Objects(), exif, size)[1].facts, "a negative has nothing to turn"
    wrong = (size[0] + 1, size[1])
    assert verdict(data, Objects(), exif, wrong)[1].findings[0].kind == "size_differs"


@pytest.mark.parametrize(
    ("objects", "kinds", "kept"),
    [
        (
            Objects(((32, 24, 52, 44),), (0,), (1,), normalized=True),
            ["box_outside", "objects_lost"],
            0,
        ),
        (Objects(((0.1, 0.1, 0.5, 0.9),), (0,), (1,)), ["box_invalid", "objects_lost"], 0),
        (Objects(((1, 1, 9, 9),), (-1,), (1,)), ["category_unknown", "objects_lost"], 0),
        (Objects(((1, 1, 9, 9), (1, 1, 9, 9)), (0, -1), (1, 2)), ["category_unknown"], 1),
        (Objects(), ["no_objects"], 0),
    ],
)
def test_an_image_whose_objects_are_all_lost_is_no_negative(objects, kinds, kept):
    found = verdict(scene(1)[0], objects, "as_stored")[1]
    assert [one.kind for one in found.findings] == kinds
    assert found.objects == kept
    assert (found.facts is None) == ("objects_lost" in kinds)


def test_the_record_of_an_upright_image_is_that_of_the_turned_pixels():
    data, stored = scene(6)
    made = record(Item("a.png", "a"), data, "upright")
    encoded = made[features.IMAGE].bytes_list.value[0]
    np.testing.assert_array_equal(decoded(encoded), np.rot90(stored, -1))
    assert made[features.ID].bytes_list.value[0].decode() == hashlib.sha256(encoded).hexdigest()
    assert tf.io.decode_png(encoded).shape == (*SHOWN_SIZE, 3)
