"""Images to ingest, and readers of a folder of records."""

import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainers.data import features
from trainers.data.features import DatasetInfo
from trainers.data.pipeline import raw_examples


def _files(folder):
    """Relative path -> sha256 of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _records(folder):
    """Source file -> (split, label, sha256, image bytes)."""
    found = {}
    splits = DatasetInfo.load(folder).splits
    for split in (name for name, one in splits.items() if one.examples):
        for raw in raw_examples(folder, split):
            feature = tf.train.Example.FromString(raw).features.feature
            name = feature[features.FILENAME].bytes_list.value[0].decode()
            assert name not in found
            found[name] = (
                split,
                feature[features.LABEL].int64_list.value[0],
                feature[features.ID].bytes_list.value[0].decode(),
                feature[features.IMAGE].bytes_list.value[0],
            )
    return found


def _rejected(folder):
    found = json.loads((folder / features.REPORT_FILE).read_text())["findings"]
    return {
        one["file"]: f"{kind}: {one['detail']}"
        for kind, entry in found.items()
        if entry["level"] == "rejection"
        for one in entry["files"]
    }


def _noise(path, seed, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)


def _pets(root, count):
    for seed in range(count):
        _noise(root / ("cat" if seed % 2 else "dog") / f"{seed:02d}.png", seed)


@pytest.fixture(scope="session")
def files():
    """`files(folder)`: relative path -> sha256 of every file."""
    return _files


@pytest.fixture(scope="session")
def records():
    """`records(folder)`: source file -> (split, label, sha256, image bytes)."""
    return _records


@pytest.fixture(scope="session")
def rejected():
    """`rejected(folder)`: source file -> reason of its rejection."""
    return _rejected


@pytest.fixture(scope="session")
def noise():
    """`noise(path, seed, kind=None)`: an image of noise at `path`."""
    return _noise


@pytest.fixture(scope="session")
def pets():
    """`pets(root, count)`: writes `count` images of noise in two classes."""
    return _pets
