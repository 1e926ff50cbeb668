"""Records written by hand from the key table: a writer independent of ingest."""

import hashlib
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from trainers.config import Config, DataConfig, TrainConfig
from trainers.data.features import DATASET_FILE, DatasetInfo, SplitInfo

CLASSES = tuple("0123456789")


def encode(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def serialized(encoded, label, **replaced):
    feature = {
        "image/encoded": encoded,
        "image/class/label": label,
        "image/key/sha256": hashlib.sha256(encoded).hexdigest().encode(),
        "slice/brightness": b"dark",
        "slice/contrast": b"high",
        "slice/aspect": b"square",
        "slice/size": b"small",
    }
    feature.update({key.replace("__", "/"): value for key, value in replaced.items()})
    made = {}
    for key, value in feature.items():
        if value is None:
            continue
        if isinstance(value, bytes):
            made[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        else:
            made[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def write(folder, splits):
    """`splits`: name -> shards -> serialized records."""
    infos = {}
    for split, shards in splits.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        for number, records in enumerate(shards):
            name = f"data_tfrecord-{number:05d}-of-{len(shards):05d}"
            with tf.io.TFRecordWriter(str(folder / f"Split-{split}" / name)) as writer:
                for record in records:
                    writer.write(record)
        infos[split] = SplitInfo(sum(map(len, shards)), len(shards), {})
    info = DatasetInfo("digits", "classification", CLASSES, 1, infos, fingerprint="f")
    (folder / DATASET_FILE).write_text(info.to_json())
    return info


@pytest.fixture(scope="session")
def writer():
    """The functions above, for tests that write custom records."""

    class Writer:
        encode = staticmethod(encode)
        serialized = staticmethod(serialized)
        write = staticmethod(write)

    return Writer


@pytest.fixture(scope="session")
def scans():
    """(1797, 8, 8) uint8 in [0, 255] and (1797,) labels in 0..9."""
    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(int)


@pytest.fixture(scope="session")
def digits(scans, tmp_path_factory):
    """(folder, info): 230 train in 3 shards, 70 validation in 2, 53 test in 2; label offset 1."""
    pixels, labels = scans
    records = [serialized(encode(p), int(y) + 1) for p, y in zip(pixels, labels, strict=True)]
    folder = tmp_path_factory.mktemp("digits")
    info = write(
        folder,
        {
            "train": [records[0:80], records[80:160], records[160:230]],
            "validation": [records[300:340], records[340:370]],
            "test": [records[400:430], records[430:453]],
        },
    )
    return folder, info


@pytest.fixture
def config(digits):
    return Config(
        name="t",
        data=DataConfig(dir=str(digits[0]), image_size=(16, 16), crop_fraction=1.0),
        train=TrainConfig(global_batch=32, seed=7),
    )
