"""An evaluation of predictions on records of real images."""

import hashlib
import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.thumbnails import Thumbnails, index_images
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.evaluation.analysis import AnalysisOptions, analyze
from trainers.evaluation.comparison import ModelPredictions

AGES = ("0-2", "3-9", "10-19", "20-29")


def _encoded_image(number: int, size: tuple[int, int] = (160, 120)) -> bytes:
    """A JPEG of one color, which is different for each number."""
    color = (number * 37 % 256, number * 91 % 256, (number * 53 + number // 256 * 60) % 256)
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _write_records(folder: Path, images: list[tuple[str, bytes]]) -> list[str]:
    """Records of one split, `test`, with these file names and bytes; returns their ids."""
    shard = folder / "Split-test" / "data_tfrecord-00000-of-00001"
    shard.parent.mkdir(parents=True)
    ids = []
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for name, encoded in images:
            ids.append(hashlib.sha256(encoded).hexdigest())
            columns = {
                "image/encoded": encoded,
                "image/filename": name.encode(),
                "image/key/sha256": ids[-1].encode(),
            }
            feature = {
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for key, value in columns.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    splits = {"test": SplitInfo(len(images), 1, {"cat": len(images), "dog": 0})}
    info = DatasetInfo("pets", "classification", ("cat", "dog"), 1, splits, "f" * 64)
    (folder / "dataset.json").write_text(info.to_json())
    return ids


def _predictions(
    classes: tuple[str, ...], images: int, ids: list[str] | None = None
) -> ModelPredictions:
    """Predictions of which about 80 % are right, with ages of which 0-2 has few images."""
    random = np.random.default_rng(0)
    labels = random.integers(0, len(classes), images).astype(np.int32)
    logits = random.normal(size=(images, len(classes))).astype(np.float32)
    logits[np.arange(images), labels] += 2.0
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ages = random.choice(AGES, images, p=(0.05, 0.4, 0.3, 0.25)).astype(object)
    return ModelPredictions(
        ids=np.array(ids or [f"{i:064x}" for i in range(images)], object),
        labels=labels,
        scores=scores,
        slices={"slice/age": ages},
        name="pets_cnn",
        classes=classes,
    )


class _Tables(HTMLParser):
    """The rows of every table, each cell as text with single spaces."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[list[list[str]]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "table":
            self.found.append([])
        elif tag == "tr":
            self.found[-1].append([])
        elif tag in ("td", "th"):
            self.found[-1][-1].append("")
            self._in_cell = True
        elif tag == "span" and self._in_cell:
            self.found[-1][-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.found[-1][-1][-1] += data


@pytest.fixture(scope="session")
def tables_of() -> Callable[[str], list[list[list[str]]]]:
    """Reads the tables of HTML: a list of rows of cell texts for each."""
    return lambda text: _Tables(text).found


@pytest.fixture(scope="session")
def write_records() -> Callable[[Path, list[tuple[str, bytes]]], list[str]]:
    """Writes records of one split, `test`, of file names and bytes; returns their ids."""
    return _write_records


@pytest.fixture(scope="session")
def predictions() -> Callable[..., ModelPredictions]:
    """Makes predictions of `(classes, images, ids)`, of which most are right."""
    return _predictions


@pytest.fixture(scope="session")
def image_bytes() -> Callable[..., bytes]:
    """Makes a JPEG of `(number, size)`, of one color."""
    return _encoded_image


@pytest.fixture(scope="session")
def records(tmp_path_factory) -> tuple[Path, list[str]]:
    """A data set of 300 images, and their ids."""
    folder = tmp_path_factory.mktemp("records")
    ids = _write_records(folder, [(f"{i}.jpg", _encoded_image(i)) for i in range(300)])
    return folder, ids


@pytest.fixture(scope="session")
def make_evaluation(records) -> Callable[..., Evaluation]:
    """Makes an `Evaluation` of 300 images and two classes; without records if `data` is None."""
    folder, ids = records
    model = _predictions(("cat", "dog"), len(ids), ids)
    analysis = analyze(model, AnalysisOptions(groups=("age",)))

    def make(data: Path | None = folder) -> Evaluation:
        """With thumbnails of the records unless `data` is None."""
        images = index_images(data, "test")
        config = {"name": "pets_cnn", "train": {"seed": 3}}
        return Evaluation(analysis, model, "test", data, config, Thumbnails(images))

    return make
