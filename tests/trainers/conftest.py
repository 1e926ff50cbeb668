"""One tiny network, trained once a session on real scanned digits, and the records it read."""

import hashlib
import io
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from trainers.bundles.build import build_bundle
from trainers.config import Config, DataConfig, ExportConfig, ModelConfig, OptimConfig, TrainConfig
from trainers.data.features import DATASET_FILE, DatasetInfo, SplitInfo
from trainers.loop import fit

CLASSES = tuple(f"digit {number}" for number in range(10))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def record(encoded: bytes, label: int) -> bytes:
    """A serialized tf.Example as `sightline ingest` writes it; `label` counts from 1."""

    def text(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    feature = {
        "image/encoded": text(encoded),
        "image/key/sha256": text(hashlib.sha256(encoded).hexdigest().encode()),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "slice/brightness": text(b"dark" if len(encoded) % 2 else b"bright"),
        "slice/contrast": text(b"high"),
        "slice/aspect": text(b"square"),
        "slice/size": text(b"small"),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_records(folder: Path, splits: dict[str, list[bytes]]) -> DatasetInfo:
    """Writes one shard a split and `dataset.json`."""
    for split, records in splits.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        file = folder / f"Split-{split}" / "data_tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(file)) as writer:
            for one in records:
                writer.write(one)
    counts = {split: SplitInfo(len(records), 1, {}) for split, records in splits.items()}
    digest = hashlib.sha256(b"".join(itertools.chain(*splits.values()))).hexdigest()
    info = DatasetInfo("digits", "classification", CLASSES, 1, counts, fingerprint=digest)
    (folder / DATASET_FILE).write_text(info.to_json(), encoding="utf-8")
    return info


@pytest.fixture(scope="session")
def digit_records():
    """(1797,) serialized real scans of 8x8 pixels, in their original order."""
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return [record(_png(p), int(y) + 1) for p, y in zip(pixels, digits.target, strict=True)]


@pytest.fixture(scope="session")
def records(digit_records, once):
    """(folder, splits): 120 train, 37 validation, 51 test and, in test, two JPEG photographs."""
    images = Path(sklearn.datasets.__file__).parent / "images"
    photographs = [record((images / f"{name}.jpg").read_bytes(), 1) for name in ("china", "flower")]
    splits = {
        "train": digit_records[:120],
        "validation": digit_records[200:237],
        "test": digit_records[300:351] + photographs,
    }
    return once("records", lambda folder: write_records(folder, splits)), splits


@pytest.fixture(scope="session")
def config(records):
    """Three epochs of three steps, with dropout, augmentation and a crop in evaluation.

    Of two convolutions: most of a run's time here is tracing, layer by layer.
    """
    return Config(
        name="tiny",
        data=DataConfig(
            dir=str(records[0]), image_size=(16, 16), crop_fraction=0.875, augment=("shift",)
        ),
        model=ModelConfig("cnn", dropout=0.2, options={"width": 8, "depth": 1, "stages": 2}),
        optim=OptimConfig("sgd", learning_rate=0.05, warmup_steps=2, warmup_limit=1.0),
        train=TrainConfig(epochs=3, global_batch=32, seed=5),
        export=ExportConfig(top_k=3, warmup_requests=2),
    )


@pytest.fixture(scope="session")
def first_run(config, once):
    """(folder of checkpoints, history, weights) of `trained`, as the run itself returned them."""

    def run(folder: Path) -> None:
        first = fit(config, folder / "work")
        (folder / "returned").write_bytes(pickle.dumps((first.history, first.model.get_weights())))

    folder = once("run", run)
    return folder / "work", *pickle.loads((folder / "returned").read_bytes())


@pytest.fixture(scope="session")
def work_dir(first_run):
    """Where `trained` keeps its checkpoints."""
    return first_run[0]


@pytest.fixture(scope="session")
def trained(config, work_dir):
    """The tiny network after three epochs that nothing interrupted."""
    return fit(config, work_dir)


@pytest.fixture(scope="session")
def built(trained, once):
    """(folder, manifest) of its draft bundle with every post-training variant."""

    def build(folder: Path) -> None:
        manifest = build_bundle(trained, folder / "draft", ptq=("dynamic", "int8"))
        (folder / "returned").write_bytes(pickle.dumps(manifest))

    folder = once("bundle", build)
    return folder / "draft", pickle.loads((folder / "returned").read_bytes())


@pytest.fixture(scope="session")
def encoded(records):
    """Split -> the encoded images of its records, read without our reader."""

    def image(serialized: bytes) -> bytes:
        feature = tf.train.Example.FromString(serialized).features.feature
        return feature["image/encoded"].bytes_list.value[0]

    return {split: [image(one) for one in found] for split, found in records[1].items()}


@pytest.fixture(scope="session")
def true_labels(records):
    """Split -> (M,) labels from 0, read without our reader."""

    def label(serialized: bytes) -> int:
        feature = tf.train.Example.FromString(serialized).features.feature
        return feature["image/class/label"].int64_list.value[0] - 1

    return {split: np.array([label(one) for one in found]) for split, found in records[1].items()}


@pytest.fixture(scope="session")
def make_records():
    """`write_records`, for tests that make records."""
    return write_records


@pytest.fixture(scope="session")
def make_record():
    """`record`, for tests that make records."""
    return record


@pytest.fixture(scope="session")
def figures():
    """`figures(history)`: (epochs, columns) of what must not depend on interruptions."""

    def table(history: list[dict[str, float]]) -> np.ndarray:
        timeless = ("epoch", "loss", "top1", "learning_rate", "val_loss", "val_top1")
        return np.array([[row[name] for name in timeless] for row in history])

    return table
