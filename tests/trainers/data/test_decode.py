import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainers.data.decode import ImageError, decode_bytes, decode_image, load_image

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


def test_palette_and_grey_alpha_png():
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
