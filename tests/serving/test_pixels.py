"""The code that `serving/PIXELS.md` shows makes the pixels of the exported graph."""

import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainers.data.decode import load_image
from trainers.data.preprocess import Preprocessing, eval_image

PAGE = Path(__file__).resolve().parents[2] / "serving/PIXELS.md"
ABOUT = {"height": 48, "width": 64, "crop_fraction": 0.875, "resize": "antialias"}


@pytest.fixture(scope="module")
def shown():
    """Everything that the page's Python defines."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def check(shown, encoded, about):
    how = Preprocessing(
        (about["height"], about["width"]), about["crop_fraction"], about["resize"], about["fit"]
    )
    upright = about["exif"] == "upright"
    served = eval_image(tf.constant(encoded), how, upright=upright).numpy().astype(int)
    # The graph's decoder, so that only crop and resize are compared.
    decoded = Image.fromarray(load_image(encoded))
    exif = Image.open(io.BytesIO(encoded)).getexif()
    decoded.getexif().update(exif)
    (pixels,) = shown["network_pixels"](decoded, about)
    assert pixels.dtype == np.uint8
    assert np.abs(served - pixels).max() <= 1
    return served


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("exif", ["as_stored", "upright"])
@pytest.mark.parametrize("size", [(300, 500), (500, 300), (30, 20), (48, 64), (1, 700), (1, 1)])
def test_the_page_makes_the_graphs_pixels(shown, size, fit, exif):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = 6  # A quarter of a turn.
    Image.fromarray(noise).save(buffer, "JPEG", quality=95, exif=turned)
    check(shown, buffer.getvalue(), {**ABOUT, "fit": fit, "exif": exif})


@pytest.mark.parametrize("size", [(300, 500), (30, 20), (48, 64), (1, 1)])
def test_the_filter_by_its_definition(shown, size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    encoded = tf.io.encode_png(noise)
    served = eval_image(encoded, Preprocessing((48, 64), 1.0, "antialias", "stretch")).numpy()
    found = shown["antialias"](noise, 48, 64)
    assert np.abs(served.astype(int) - found).max() <= 1
    # Only what float32 puts on the other side of a half.
    assert (served != found).mean() < 0.01


@pytest.mark.shared_data
def test_the_page_makes_the_graphs_pixels_of_photographs(shown, shared_data):
    about = {**ABOUT, "height": 224, "width": 224, "fit": "crop", "exif": "as_stored"}
    with tarfile.open(shared_data / "imagenet_sample_A.tar") as archive:
        members = [one for one in archive.getmembers() if one.name.endswith(".JPEG")][::20]
        for member in members:
            check(shown, archive.extractfile(member).read(), about)
