import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainers.config import DataConfig
from trainers.data.decode import load_image
from trainers.data.prepare import train_images
from trainers.data.preprocess import (
    Preprocessing,
    central_crop,
    eval_image,
    eval_images,
    resize_image,
)

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


def numpy_antialias(image, height, width):
    """A triangle filter over what becomes one pixel, within the image, in float64."""

    def weights(size, wanted):
        wide = max(size / wanted, 1.0)
        centers = (np.arange(wanted)[:, None] + 0.5) * size / wanted
        near = np.maximum(1 - np.abs(np.arange(size) + 0.5 - centers) / wide, 0)
        return near / near.sum(1, keepdims=True)

    rows = np.tensordot(weights(image.shape[0], height), image.astype(np.float64), 1)
    return np.moveaxis(np.tensordot(weights(image.shape[1], width), rows, (1, 1)), 0, 1)


def pillow(image, height, width):
    """Pillow's antialiased bilinear."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


ORACLES = {"bilinear": numpy_bilinear, "antialias": numpy_antialias}


@pytest.mark.parametrize("kind", ORACLES)
@pytest.mark.parametrize("size", [(13, 17), (16, 16), (64, 5), (1, 1), (90, 70)])
def test_resize_is_half_pixel_bilinear_or_a_triangle_filter(kind, size):
    image = RNG.integers(0, 256, (31, 20, 3), dtype=np.uint8)
    got = resize_image(tf.constant(image), image_size=size, resize=kind).numpy()
    assert got.dtype == np.uint8
    assert got.shape == (*size, 3)
    # float32 may fall on the other side of a half.
    assert np.abs(got - ORACLES[kind](image, *size)).max() <= 0.5 + 1e-3
    if kind == "antialias":
        assert np.abs(got.astype(int) - pillow(image, *size)).max() <= 1


@pytest.mark.parametrize("kind", ORACLES)
@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_a_plain_image_stays_what_it_is(kind, value):
    image = tf.fill((57, 43, 3), tf.constant(value, tf.uint8))
    for size in ((57, 43), (8, 9), (100, 100), (1, 43)):
        assert (resize_image(image, image_size=size, resize=kind).numpy() == value).all()


@pytest.mark.parametrize("kind", ORACLES)
def test_resize_to_the_same_size_changes_nothing(kind):
    image = RNG.integers(0, 256, (31, 20, 3), dtype=np.uint8)
    got = resize_image(tf.constant(image), image_size=(31, 20), resize=kind)
    np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize(
    ("height", "width", "fraction", "rows", "columns"),
    [
        (8, 8, 1.0, slice(0, 8), slice(0, 8)),
        (8, 16, 0.875, slice(0, 7), slice(1, 15)),
        (256, 100, 0.875, slice(16, 240), slice(6, 94)),
        (1, 1, 0.1, slice(0, 1), slice(0, 1)),
    ],
)
def test_central_crop_of_each_side(height, width, fraction, rows, columns):
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    how = Preprocessing((5, 9), fraction, "bilinear", "stretch")
    got = central_crop(tf.constant(image), how).numpy()
    np.testing.assert_array_equal(got, image[rows, columns])


@pytest.mark.parametrize(
    ("shape", "wanted", "fraction", "rows", "columns"),
    [
        ((8, 8), (4, 4), 1.0, slice(0, 8), slice(0, 8)),
        ((8, 16), (4, 4), 1.0, slice(0, 8), slice(4, 12)),
        ((500, 375), (224, 224), 0.875, slice(86, 414), slice(23, 351)),
        ((100, 256), (10, 20), 0.5, slice(25, 75), slice(78, 178)),
        ((256, 100), (10, 20), 1.0, slice(103, 153), slice(0, 100)),
        ((1, 100), (4, 4), 0.1, slice(0, 1), slice(49, 50)),
        ((100, 1), (1, 300), 1.0, slice(49, 50), slice(0, 1)),
    ],
)
def test_central_crop_of_the_networks_aspect(shape, wanted, fraction, rows, columns):
    image = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    how = Preprocessing(wanted, fraction, "antialias", "crop")
    got = central_crop(tf.constant(image), how).numpy()
    np.testing.assert_array_equal(got, image[rows, columns])


def check_same_everywhere(encoded_images, folder, how):
    """Eager, tf.data, a batch, and an exported SavedModel give the same bytes."""
    eager = np.stack([eval_image(tf.constant(one), how) for one in encoded_images])
    mapped = tf.data.Dataset.from_tensor_slices(encoded_images).map(
        lambda one: eval_image(one, how), tf.data.AUTOTUNE
    )
    np.testing.assert_array_equal(np.stack(list(mapped.as_numpy_iterator())), eager)

    module = tf.Module()
    module.preprocess = tf.function(
        lambda image_bytes: {"images": eval_images(image_bytes, how)},
        input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")],
    )
    tf.saved_model.save(module, folder, signatures={"preprocess": module.preprocess})
    signature = tf.saved_model.load(folder).signatures["preprocess"]
    exported = signature(image_bytes=tf.constant(encoded_images))["images"]
    assert exported.shape[1:] == (*how.image_size, 3)
    np.testing.assert_array_equal(exported, eager)
    return eager


@pytest.mark.parametrize("kind", ORACLES)
def test_bit_for_bit_in_eager_data_and_saved_model(tmp_path, kind):
    encoded_images = []
    for format, shape in [("PNG", (40, 31, 3)), ("PNG", (9, 70, 4)), ("JPEG", (33, 57, 3))]:
        buffer = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(buffer, format)
        encoded_images.append(buffer.getvalue())
    how = Preprocessing((24, 20), 0.875, kind, "stretch")
    images = check_same_everywhere(encoded_images, str(tmp_path), how)
    crop = load_image(encoded_images[0])[2:37, 2:29]  # 35 x 27 of 40 x 31
    assert np.abs(images[0] - ORACLES[kind](crop, 24, 20)).max() <= 0.5 + 1e-3


def test_empty_batch_keeps_the_shape():
    how = Preprocessing((8, 6), 0.5, "antialias", "crop")
    got = eval_images(tf.zeros((0,), tf.string), how)
    assert got.shape == (0, 8, 6, 3)


def photographs(shared_data):
    with tarfile.open(shared_data / "imagenet_sample_A.tar") as archive:
        members = [one for one in archive.getmembers() if one.name.endswith(".JPEG")][:12]
        return [archive.extractfile(one).read() for one in members]


@pytest.mark.shared_data
@pytest.mark.parametrize("kind", ORACLES)
def test_bit_for_bit_on_photographs(shared_data, tmp_path, kind):
    how = Preprocessing((224, 224), 0.875, kind, "crop")
    encoded_images = photographs(shared_data)
    images = check_same_everywhere(encoded_images, str(tmp_path), how)
    for encoded, image in zip(encoded_images, images, strict=True):
        stored = load_image(encoded)
        side = round(min(stored.shape[:2]) * 0.875)
        top, left = ((length - side) // 2 for length in stored.shape[:2])
        crop = stored[top : top + side, left : left + side]
        assert np.abs(image - ORACLES[kind](crop, 224, 224)).max() <= 0.5 + 2e-3
        if kind == "antialias":
            assert np.abs(image.astype(int) - pillow(crop, 224, 224)).max() <= 1


def edges(image):
    """Deviation of the gray image's Laplacian."""
    gray = image.astype(float).mean(2)
    inner = gray[1:-1, 1:-1]
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    return (4 * inner - around).std()


@pytest.mark.parametrize("side", [64, 224])
def test_training_sees_what_is_served_at_every_size(side):
    """Of a JPEG that is 3.6 to 12 times as large, with sharp edges all over."""
    rows, columns = np.mgrid[0:800, 0:1000]
    pattern = (rows // 7 + columns // 5) % 2 * 200 + rows % 50
    buffer = io.BytesIO()
    scene = Image.fromarray(np.repeat(pattern[..., None], 3, 2).astype(np.uint8))
    scene.save(buffer, "JPEG", quality=95)
    # The only box of this area and aspect is the whole image.
    whole = "random_resized_crop(area=(1.0, 1.0), aspect=(1.25, 1.25))"
    found = {}
    for kind in ORACLES:
        data = DataConfig(
            image_size=(side, side), crop_fraction=1.0, resize=kind, fit="stretch", augment=(whole,)
        )
        seeds = tf.constant([[1, 2]], tf.int64)
        trained = train_images(data)(tf.constant([buffer.getvalue()]), seeds)[0].numpy()
        served = eval_image(tf.constant(buffer.getvalue()), Preprocessing.of(data)).numpy()
        found[kind] = trained, served
    np.testing.assert_array_equal(*found["antialias"])
    # What the key is for, and what runs of earlier versions keep.
    shrunk = tf.io.decode_jpeg(buffer.getvalue(), ratio={64: 8, 224: 2}[side])
    then = numpy_bilinear(shrunk.numpy(), side, side)
    assert np.abs(found["bilinear"][0] - then).max() <= 0.5 + 0.02  # float32 coordinates
    assert edges(found["bilinear"][1]) > 1.2 * edges(found["bilinear"][0])
