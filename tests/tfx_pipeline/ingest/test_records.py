import hashlib
import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_pipeline.ingest.records import load_picture, make_example, serialize, slices
from tfx_pipeline.ingest.transcode import transcode_to_png
from trainers.data import features
from trainers.data.image_header import ImageError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


def save(image, kind, **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def test_an_example_holds_every_declared_key_once_and_nothing_else():
    data = save(RGB, "PNG")
    example = make_example(load_picture(data), filename="cat/a.png", label=3, class_name="cat")
    feature = example.features.feature
    assert set(feature) == {*features.BYTES_KEYS, *features.INT_KEYS}
    texts = {key: feature[key].bytes_list.value[0] for key in features.BYTES_KEYS}
    numbers = {key: feature[key].int64_list.value[0] for key in features.INT_KEYS}
    assert numbers == {
        "image/height": 40,
        "image/width": 50,
        "image/channels": 3,
        "image/class/label": 3,
    }
    assert texts["image/encoded"] == data
    assert texts["image/key/sha256"] == hashlib.sha256(data).hexdigest().encode()
    assert texts["image/format"] == b"PNG"
    assert texts["image/filename"] == b"cat/a.png"
    assert texts["image/class/text"] == b"cat"
    assert texts["slice/size"] == b"medium"
    again = make_example(load_picture(data), filename="cat/a.png", label=3, class_name="cat")
    assert serialize(again) == serialize(example)
    assert tf.train.Example.FromString(serialize(example)) == example


def test_a_file_name_that_is_not_utf8_keeps_its_bytes():
    name = os.fsdecode(b"caf\xe9.png")
    picture = load_picture(save(RGB, "PNG"))
    example = make_example(picture, filename=name, label=1, class_name="a")
    assert example.features.feature["image/filename"].bytes_list.value[0] == b"caf\xe9.png"


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.zeros((8, 8, 3)), ("dark", "low", "square", "small")),
        (np.full((32, 36, 3), 85), ("medium", "low", "landscape", "medium")),
        (np.full((300, 256, 3), 170), ("bright", "low", "portrait", "large")),
        (np.full((110, 100, 3), 169), ("medium", "low", "square", "medium")),
        (np.full((31, 400, 3), 84), ("dark", "low", "landscape", "small")),
        # Half 0, half 64: deviation 32; half 0, half 128: deviation 64.
        (np.repeat([0, 64], 512).reshape(32, 32, 1) * [1, 1, 1], ("dark", "medium", "square")),
        (np.repeat([0, 128], 512).reshape(32, 32, 1) * [1, 1, 1], ("dark", "high", "square")),
        # Pure blue has luma 29, pure green 150.
        (np.full((8, 8, 3), (0, 0, 255)), ("dark", "low", "square")),
        (np.full((8, 8, 3), (0, 255, 0)), ("medium", "low", "square")),
    ],
)
def test_slices(pixels, expected):
    got = slices(pixels.astype(np.uint8))
    assert tuple(got) == features.SLICES
    assert tuple(got.values())[: len(expected)] == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_what_the_graph_decodes_is_kept_byte_for_byte(kind):
    data = save(RGB, kind)
    picture = load_picture(data)
    assert picture.encoded == data
    assert picture.format == kind


@pytest.mark.parametrize(
    ("kind", "options"), [("PPM", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_other_formats_become_png_losslessly(kind, options):
    picture = load_picture(save(RGB, kind, **options))
    assert picture.format == "PNG"
    np.testing.assert_array_equal(picture.pixels, RGB)


def test_palette_bmp_becomes_png_with_its_colours():
    palette = Image.fromarray(RGB).convert("P")
    picture = load_picture(save(palette, "BMP"))
    assert picture.format == "PNG"
    np.testing.assert_array_equal(picture.pixels, np.asarray(palette.convert("RGB")))


def test_16_bit_tiff_and_pgm_keep_the_high_byte_as_16_bit_png_does():
    values = RNG.integers(0, 2**16, (6, 9), dtype=np.uint16)
    expected = load_picture(save(Image.fromarray(values), "PNG")).pixels
    for kind in ("TIFF", "PPM"):
        np.testing.assert_array_equal(
            load_picture(save(Image.fromarray(values), kind)).pixels, expected
        )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"plain text", "not an image"),
        (save(RGB, "PNG")[:500], "damaged PNG"),
        (save(RGB, "JPEG")[:500], "damaged JPEG"),
        (save(RGB, "TIFF")[:500], "Pillow cannot read it"),
        (save(np.ones((4, 4), np.float32), "TIFF"), "floating-point"),
        (save(np.full((4, 4), 2**20, np.int32), "TIFF"), "32-bit"),
        (b"P5 9000 9000 255 ", "over the limit"),
    ],
)
def test_refusals_give_the_reason(data, message):
    with pytest.raises(ImageError, match=message):
        load_picture(data)


def test_formats_outside_the_list_are_not_tried():
    refused = ImageError("as the graph said")
    with pytest.raises(ImageError, match="as the graph said"):
        transcode_to_png(save(RGB, "TGA"), refused)
    with pytest.raises(ImageError, match="as the graph said"):
        transcode_to_png(save(RGB, "EPS"), refused)
