import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainers.data.decode import ImageError, decode_bytes, decode_crop, decode_image, load_image
from trainers.data.preprocess import resize_crop, resize_image

RNG = np.random.default_rng(0)


def save(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_lossless_formats_come_back_as_rgb(kind, channels):
    pixels = RNG.integers(0, 256, (6, 9, channels), dtype=np.uint8)
    data = save(Image.fromarray(pixels.squeeze()), kind)
    expected = np.repeat(pixels, 3, -1) if channels == 1 else pixels[..., :3]
    np.testing.assert_array_equal(load_image(data), expected)


def test_palette_and_gray_alpha_png():
    image = Image.fromarray(RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    for mode in ("P", "LA"):
        shown = image.convert(mode)
        np.testing.assert_array_equal(
            load_image(save(shown, "PNG")), np.asarray(shown.convert("RGB"))
        )


def test_16_bit_png_keeps_the_high_byte():
    values = RNG.integers(0, 2**16, (6, 9), dtype=np.uint16)
    got = load_image(save(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(got, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, -1))


def test_jpeg_is_close_to_pillow_and_cmyk_decodes():
    ramp = np.add.outer(np.arange(40) * 3, np.arange(50) * 2).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp // 2, 255 - ramp], -1))
    got = load_image(save(image, "JPEG", quality=95)).astype(int)
    assert np.abs(got - np.asarray(image, int)).mean() < 3
    cmyk = load_image(save(image.convert("CMYK"), "JPEG", quality=95))
    assert cmyk.shape == (40, 50, 3)


def test_first_frame_of_an_animated_gif():
    frames = [Image.fromarray(np.full((4, 5), level, np.uint8)) for level in (10, 200)]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_image(data), np.full((4, 5, 3), 10))


def test_graph_and_eager_agree_and_the_shape_is_static():
    pixels = RNG.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    data = save(Image.fromarray(pixels), "PNG")
    graph = tf.function(decode_image).get_concrete_function(tf.TensorSpec((), tf.string))
    assert graph.output_shapes.as_list() == [None, None, 3]
    np.testing.assert_array_equal(graph(tf.constant(data)), decode_image(tf.constant(data)))


def test_damaged_bodies_are_image_errors_with_the_reason():
    data = save(Image.fromarray(RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)), "PNG")
    with pytest.raises(ImageError, match=r"damaged PNG of \d+ bytes: Invalid PNG data"):
        load_image(data[: len(data) // 2])
    with pytest.raises(ImageError, match="Unknown image file format"):
        decode_bytes(b"hello")


def smooth(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 40 + c) + np.cos(columns / (30 + 10 * c)) for c in range(3)]
    return np.round((np.stack(waves, -1) + 2) * 63).astype(np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_a_crop_is_that_box_of_the_image(kind):
    data = save(Image.fromarray(smooth(90, 120)), kind)
    whole = load_image(data)
    seen = []

    def choose(size):
        seen.append(size.numpy().tolist())
        return tf.constant([11, 23, 40, 31])

    got = decode_crop(tf.constant(data), choose, shrink_for=(40, 40)).numpy()
    assert seen == [[90, 120]]
    assert got.shape == (40, 31, 3)
    box = whole[11:51, 23:54]
    np.testing.assert_array_equal(got[:, 2:-2], box[:, 2:-2])
    assert np.abs(got.astype(int) - box).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    ("target", "ratio"), [((56, 56), 1), ((50, 50), 2), ((25, 20), 4), ((5, 12), 8)]
)
def test_a_much_larger_box_of_a_jpeg_comes_smaller(target, ratio):
    data = save(Image.fromarray(smooth(203, 301)), "JPEG", quality=98)
    box = tf.constant([37, 50, 103, 122])
    traced = tf.function(lambda one: decode_crop(one, lambda _: box, shrink_for=target))
    got = traced(tf.constant(data)).numpy()
    assert got.shape == (103 // ratio, 122 // ratio, 3)
    blocks = load_image(data)[: 203 // ratio * ratio, : 301 // ratio * ratio].astype(float)
    blocks = blocks.reshape(203 // ratio, ratio, 301 // ratio, ratio, 3).mean((1, 3))
    top, left = 37 // ratio, 50 // ratio
    wanted = blocks[top : top + 103 // ratio, left : left + 122 // ratio]
    # One block further on would be 1.5 to 17 levels away on average.
    assert np.abs(got - wanted).mean() < 1.2
    assert np.abs(got - wanted).max() < 8


def test_resizing_for_training_is_within_one_level():
    image = tf.constant(RNG.integers(0, 256, (61, 47, 3), dtype=np.uint8))
    for size in ((61, 47), (30, 90), (224, 224)):
        for kind, apart in (("bilinear", 1), ("antialias", 0)):
            exact = resize_image(image, image_size=size, resize=kind).numpy().astype(int)
            found = resize_crop(image, image_size=size, resize=kind).numpy()
            assert np.abs(found - exact).max() <= apart


def test_a_box_is_not_shrunk_where_that_is_not_wanted():
    data = save(Image.fromarray(smooth(203, 301)), "JPEG", quality=98)
    box = tf.constant([0, 0, 203, 301])
    got = decode_crop(tf.constant(data), lambda _: box, shrink_for=None).numpy()
    np.testing.assert_array_equal(got, load_image(data))


@pytest.mark.parametrize("data", [b"", b"\xff", b"hello", b"\xff\xd8\xffno"])
def test_crops_of_what_is_no_image_fail(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_crop(tf.constant(data), lambda size: tf.concat([[0, 0], size], 0), shrink_for=(8, 8))
