"""EXIF orientation: the readers in Python and in the graph compared with Pillow."""

import io
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from trainers.data.orientation import orientation_of, orientation_tensor, upright_tensor
from trainers.data.preprocess import Preprocessing, eval_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
in_graph = tf.function(orientation_tensor, input_signature=[tf.TensorSpec((), tf.string)])


def encode(orientation, kind="JPEG", **options):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def both(data):
    found = orientation_of(data), int(in_graph(tf.constant(data)))
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_pillow_writes(orientation, kind):
    assert both(encode(orientation, kind)) == orientation


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_values_that_are_none(orientation):
    assert both(encode(orientation)) == 1


def exif_block(order, kind, value, tag=0x0112):
    number = value.to_bytes(2 if kind == 3 else 4, order)
    entry = tag.to_bytes(2, order) + kind.to_bytes(2, order) + (1).to_bytes(4, order)
    head = (b"II*\0" if order == "little" else b"MM\0*") + (8).to_bytes(4, order)
    return head + (1).to_bytes(2, order) + entry + number.ljust(4, b"\0") + bytes(4)


def jpeg(*segments):
    body = b"".join(
        b"\xff" + bytes((marker,)) + (len(data) + 2).to_bytes(2, "big") + data
        for marker, data in segments
    )
    return b"\xff\xd8" + body + b"\xff\xda\0\x02"


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", [3, 4])
def test_byte_orders_and_types(order, kind):
    assert both(jpeg((0xE1, b"Exif\0\0" + exif_block(order, kind, 6)))) == 6


def test_where_the_block_may_be():
    exif = (0xE1, b"Exif\0\0" + exif_block("little", 3, 8))
    xmp = (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'/>")
    assert both(jpeg((0xE0, b"JFIF\0" + bytes(9)), xmp, (0xE2, bytes(60_000)), exif)) == 8
    assert both(jpeg((0xFE, b"\xff\xe1"), exif)) == 8
    # After the frame, in a thumbnail, and beyond the limit of the search.
    assert both(jpeg((0xC0, bytes(8)), exif)) == 1
    assert both(jpeg((0xED, b"\xff\xe1\0\x20Exif\0\0" + exif[1][6:]))) == 1
    assert both(jpeg(*[(0xE2, bytes(60_000))] * 5, exif)) == 1
    assert both(b"") == both(b"\xff\xd8") == both(b"GIF89a") == both(jpeg(xmp)) == 1


def test_damaged_bytes_are_read_alike():
    chosen = random.Random(0)
    seeds = [encode(6)[:400], encode(5, "PNG")[:400]]
    for number in range(300):
        data = bytearray(seeds[number % 2])
        for _ in range(chosen.randrange(1, 6)):
            data[chosen.randrange(min(len(data), 120))] = chosen.randrange(256)
        both(bytes(data[: chosen.randrange(1, len(data) + 1)]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_that_pillow_shows(orientation):
    image = Image.open(io.BytesIO(encode(orientation, "PNG")))
    shown = np.asarray(ImageOps.exif_transpose(image))
    turned = upright_tensor(tf.constant(PIXELS), tf.constant(orientation)).numpy()
    np.testing.assert_array_equal(turned, shown)
    how = Preprocessing(shown.shape[:2], 1.0, "antialias", "crop")
    encoded = tf.constant(encode(orientation, "PNG"))
    np.testing.assert_array_equal(eval_image(encoded, how, upright=True), shown)
    if orientation != 1:
        assert not np.array_equal(eval_image(encoded, how), shown)


@pytest.mark.shared_data
def test_photographs_in_all_orientations(extract):
    folder = extract("odd_images_A") / "exif-orientation"
    for number in range(9):
        data = (folder / f"Landscape_{number}.jpg").read_bytes()
        expected = Image.open(io.BytesIO(data)).getexif().get(0x0112, 1)
        assert both(data) == (expected if 1 <= expected <= 8 else 1)
