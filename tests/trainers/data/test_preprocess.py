import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainers.data.decode import load_image
from trainers.data.preprocess import central_crop, eval_image, eval_images, resize_image

RNG = np.random.default_rng(0)


def numpy_bilinear(image, height, width):
    """Half-pixel bilinear without antialias, in float64."""

    def axis(size, wanted):
        at = (np.arange(wanted) + 0.5) * size / wanted - 0.5
        low = np.floor(at)
        clip = lambda x: np.clip(x, 0, size - 1).astype(int)  # noqa: E731
        return clip(low), clip(low + 1), at - low

    top, bottom, down = axis(image.shape[0], height)
    left, right, across = axis(image.shape[1], width)
    x = image.astype(np.float64)
    across, down = across[None, :, None], down[:, None, None]
    upper = x[top][:, left] * (1 - across) + x[top][:, right] * across
    lower = x[bottom][:, left] * (1 - across) + x[bottom][:, right] * across
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize("size", [(13, 17), (16, 16), (64, 5), (1, 1)])
def test_resize_is_half_pixel_bilinear(size):
    image = RNG.integers(0, 256, (31, 20, 3), dtype=np.uint8)
    got = resize_image(tf.constant(image), image_size=size).numpy()
    assert got.dtype == np.uint8
    assert got.shape == (*size, 3)
    # float32 may fall on the other side of a half.
    assert np.abs(got - numpy_bilinear(image, *size)).max() <= 0.5 + 1e-3


def test_resize_to_the_same_size_changes_nothing():
    image = RNG.integers(0, 256, (31, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_image(tf.constant(image), image_size=(31, 20)), image)


@pytest.mark.parametrize(
    ("height", "width", "fraction", "rows", "columns"),
    [
        (8, 8, 1.0, slice(0, 8), slice(0, 8)),
        (8, 16, 0.875, slice(0, 7), slice(1, 15)),
        (256, 100, 0.875, slice(16, 240), slice(6, 94)),
        (1, 1, 0.1, slice(0, 1), slice(0, 1)),
    ],
)
def test_central_crop(height, width, fraction, rows, columns):
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    got = central_crop(tf.constant(image), crop_fraction=fraction).numpy()
    np.testing.assert_array_equal(got, image[rows, columns])


def check_same_everywhere(pictures, folder, *, size, fraction):
    """Eager, tf.data, a batch, and an exported SavedModel give the same bytes."""
    eager = np.stack(
        [eval_image(tf.constant(p), image_size=size, crop_fraction=fraction) for p in pictures]
    )
    mapped = tf.data.Dataset.from_tensor_slices(pictures).map(
        lambda one: eval_image(one, image_size=size, crop_fraction=fraction), tf.data.AUTOTUNE
    )
    np.testing.assert_array_equal(np.stack(list(mapped.as_numpy_iterator())), eager)

    module = tf.Module()
    module.preprocess = tf.function(
        lambda image_bytes: {
            "images": eval_images(image_bytes, image_size=size, crop_fraction=fraction)
        },
        input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")],
    )
    tf.saved_model.save(module, folder, signatures={"preprocess": module.preprocess})
    signature = tf.saved_model.load(folder).signatures["preprocess"]
    exported = signature(image_bytes=tf.constant(pictures))["images"]
    assert exported.shape[1:] == (*size, 3)
    np.testing.assert_array_equal(exported, eager)
    return eager


def test_bit_for_bit_in_eager_data_and_saved_model(tmp_path):
    pictures = []
    for kind, shape in [("PNG", (40, 31, 3)), ("PNG", (9, 70, 4)), ("JPEG", (33, 57, 3))]:
        buffer = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(buffer, kind)
        pictures.append(buffer.getvalue())
    images = check_same_everywhere(pictures, str(tmp_path), size=(24, 20), fraction=0.875)
    crop = load_image(pictures[0])[2:37, 2:29]  # 35 x 27 of 40 x 31
    assert np.abs(images[0] - numpy_bilinear(crop, 24, 20)).max() <= 0.5 + 1e-3


def test_empty_batch_keeps_the_shape():
    got = eval_images(tf.zeros((0,), tf.string), image_size=(8, 6), crop_fraction=0.5)
    assert got.shape == (0, 8, 6, 3)


@pytest.mark.shared_data
def test_bit_for_bit_on_photographs(shared_data, tmp_path):
    with tarfile.open(shared_data / "imagenet_sample_A.tar") as archive:
        members = [one for one in archive.getmembers() if one.name.endswith(".JPEG")][:12]
        pictures = [archive.extractfile(one).read() for one in members]
    check_same_everywhere(pictures, str(tmp_path), size=(224, 224), fraction=0.875)
