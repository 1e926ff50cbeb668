"""Predictions tables without a model: labels and scores drawn from a seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainers.evaluation.predictions import Predictions

CLASSES = tuple(str(digit) for digit in range(10))


@pytest.fixture
def answers() -> Callable[..., Predictions]:
    """`answers(accuracy)`: 400 examples of 10 classes, the same labels every time."""

    def make(accuracy: float, *, seed: int = 0) -> Predictions:
        labels = np.arange(400, dtype=np.int32) % 10
        rng = np.random.default_rng(seed)
        wrong = rng.permutation(400) >= round(400 * accuracy)
        guess = np.where(wrong, (labels + 1) % 10, labels)
        scores = np.full((400, 10), 0.01, np.float32)
        scores[np.arange(400), guess] = 0.91
        ids = np.array([f"{i:064x}" for i in range(400)], dtype=object)
        bright = np.where(np.arange(400) % 2, "dark", "bright").astype(object)
        return Predictions(ids, labels, scores, {"slice/brightness": bright})

    return make


COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}


def color_image(name: str, number: int) -> bytes:
    """A PNG of one color that no other number gives."""
    import io

    from PIL import Image

    image = Image.new("RGB", (4, 4), COLORS[name])
    image.putpixel((number % 4, number // 4 % 4), (number % 256, number // 256, 7))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def color_bundle() -> Callable[..., Path]:
    """`color_bundle(folder, labels)`: a bundle whose TFLite file knows red, green, blue, white.

    It names the color of an image: the scores of `labels`, in their order. A label that starts
    with "not " gets the score of another color. Nothing is trained; `saved_model.pb` is a stub.
    """

    def write(folder: Path, labels: tuple[str, ...], *, name: str = "colors") -> Path:
        import tensorflow as tf

        from core import bundle as bundles
        from trainers.config import Config, DataConfig, to_dict

        votes = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}
        weights = np.array([votes.get(label, (0, 0, 0)) for label in labels], np.float32).T / 100
        weights = tf.constant(np.tile(weights, (16, 1)))

        @tf.function(input_signature=[tf.TensorSpec([1, 4, 4, 3], tf.uint8)])
        def scores(images):
            flat = tf.reshape(tf.cast(images, tf.float32), [1, 48])
            return tf.nn.softmax(flat @ weights)

        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [scores.get_concrete_function()]
        )
        (folder / "assets").mkdir(parents=True)
        (folder / bundles.LABELS_FILE).write_text("".join(f"{label}\n" for label in labels))
        (folder / bundles.SAVED_MODEL_FILE).write_text("a stub")
        (folder / bundles.tflite_file("none_fp32")).write_bytes(converter.convert())
        data = DataConfig(image_size=(4, 4), crop_fraction=1.0)
        manifest = bundles.Manifest(
            name=name,
            task="classification",
            num_classes=len(labels),
            input={"height": 4, "width": 4, "crop_fraction": 1.0},
            top_k=1,
            variants=(bundles.Variant("none_fp32", "none", "fp32", size_bytes=1, gzip_bytes=1),),
            recommended="none_fp32",
            config=to_dict(Config(name=name, data=data)),
        )
        bundles.seal(folder, manifest)
        return folder

    return write


@pytest.fixture
def color_records(write_dataset, tmp_path) -> Callable[..., Path]:
    """`color_records(classes, colors)`: a data set whose test images have these colors."""
    import hashlib

    def write(classes: tuple[str, ...], colors: tuple[str, ...], *, folder: str = "data") -> Path:
        records = []
        for number, color in enumerate(colors):
            encoded = color_image(color, number)
            records.append(
                {
                    "image/encoded": encoded,
                    "image/format": "PNG",
                    "image/key/sha256": hashlib.sha256(encoded).hexdigest(),
                    "image/class/label": classes.index(color),
                    "image/class/text": color,
                }
            )
        return write_dataset(tmp_path / folder, {"test": records}, classes=classes, slices=())

    return write
