"""The `slice/*` strings: NumPy against plain floats, and the graph against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from trainers.data import features
from trainers.data.decode import load_image
from trainers.data.slices import slice_tensors, slices

RNG = np.random.default_rng(0)


TRACED = tf.function(slice_tensors, input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])


def in_graph(pixels):
    return {key: value.numpy().decode() for key, value in TRACED(pixels).items()}


def two_levels(low, high, *, height=8, width=8):
    """Half `low`, half `high`: mean (low + high) / 2, deviation (high - low) / 2."""
    pixels = np.full((height, width, 3), low, np.uint8)
    pixels[height // 2 :] = high
    return pixels


@pytest.mark.parametrize(
    ("pixels", "key", "value"),
    [
        (two_levels(84, 84), "slice/brightness", "dark"),
        (two_levels(85, 85), "slice/brightness", "medium"),
        (two_levels(169, 169), "slice/brightness", "medium"),
        (two_levels(170, 170), "slice/brightness", "bright"),
        (two_levels(85, 85), "slice/contrast", "low"),
        (two_levels(100, 163), "slice/contrast", "low"),
        (two_levels(100, 164), "slice/contrast", "medium"),
        (two_levels(60, 187), "slice/contrast", "medium"),
        (two_levels(60, 188), "slice/contrast", "high"),
        (two_levels(9, 9, height=10, width=11), "slice/aspect", "square"),
        (two_levels(9, 9, height=10, width=12), "slice/aspect", "landscape"),
        (two_levels(9, 9, height=12, width=10), "slice/aspect", "portrait"),
        (two_levels(9, 9, height=31, width=900), "slice/size", "small"),
        (two_levels(9, 9, height=32, width=900), "slice/size", "medium"),
        (two_levels(9, 9, height=900, width=256), "slice/size", "large"),
        (two_levels(9, 9, height=2, width=1), "slice/size", "small"),
    ],
)
def test_limits_belong_to_the_upper_band(pixels, key, value):
    got = slices(pixels)
    assert tuple(got) == features.SLICES
    assert got[key] == value
    assert in_graph(pixels) == got


def test_luma_weighs_the_colors():
    colors = np.zeros((3, 4, 4, 3), np.uint8)
    for channel in range(3):
        colors[channel, :, :, channel] = 255
    # 0.299, 0.587 and 0.114 of 255 are 76, 150 and 29.
    assert [slices(one)["slice/brightness"] for one in colors] == ["dark", "medium", "dark"]


def test_large_images_are_measured_on_a_grid_of_at_most_256_a_side():
    pixels = np.zeros((600, 257, 3), np.uint8)
    pixels[::3, ::2] = 255  # Every third of 600 rows and every second of 257 columns is looked at.
    assert slices(pixels)["slice/brightness"] == "bright"
    assert in_graph(pixels) == slices(pixels)
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[::2, ::2] = 255
    assert slices(pixels)["slice/brightness"] == "dark"


@pytest.mark.shared_data
def test_the_graph_agrees_with_numpy_on_photographs(extract):
    files = sorted((extract("imagenet_sample_A") / "images").glob("*.JPEG"))[:40]
    seen = set()
    for file in files:
        pixels = load_image(file.read_bytes())
        got = slices(pixels)
        assert in_graph(pixels) == got
        seen |= set(got.items())
        luma = pixels.astype(np.float64) @ (0.299, 0.587, 0.114)
        if abs(luma.mean() - 85) > 5 and abs(luma.mean() - 170) > 5:
            bands = ["dark", "medium", "bright"]
            assert got["slice/brightness"] == bands[np.digitize(luma.mean(), (85, 170))]
    assert len(seen) >= 8


def test_the_graph_agrees_with_numpy_on_noise():
    for _ in range(60):
        height, width = RNG.integers(1, 400, 2)
        low = int(RNG.integers(0, 200))
        noise = RNG.integers(low, low + 56, (height, width, 3), dtype=np.uint8)
        assert in_graph(noise) == slices(noise)
