"""Data sets of TensorFlow Datasets, created here without downloads."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_pipeline.ingest import IngestError, Request, ingest, jobs
from trainers.data import features
from trainers.data.records_check import shard_files

tfds = pytest.importorskip("tensorflow_datasets")


def jpeg(seed, size=(20, 30)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


class Flowers(tfds.core.GeneratorBasedBuilder):
    """A classification set with train and validation, and a test split without labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=["rose", "iris"]),
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(0, 60),
            "validation": self._generate_examples(100, 10),
            "test": self._generate_examples(200, 3, labeled=False),
        }

    def _generate_examples(self, start, count, labeled=True):
        for seed in range(start, start + count):
            yield seed, {"image": io.BytesIO(jpeg(seed)), "label": seed % 2 if labeled else -1}


class Boxes(tfds.core.GeneratorBasedBuilder):
    """A detection set with crowds, ids and an image without objects."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        objects = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "cow"]),
            "is_crowd": tf.bool,
            "area": tf.int64,
            "id": tf.int64,
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "image/filename": tfds.features.Text(),
                    "objects": tfds.features.Sequence(objects),
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0), "test": self._generate_examples(50)}

    def _generate_examples(self, start):
        for seed in range(start, start + 12):
            boxes = [
                {
                    "bbox": tfds.features.BBox(0.1, 0.2 + number / 10, 0.6, 0.9),
                    "label": number % 3,
                    "is_crowd": number == 1,
                    "area": 77 + number,
                    "id": 1000 * seed + number,
                }
                for number in range(seed % 4)
            ]
            yield seed, {"image": io.BytesIO(jpeg(seed)), "image/filename": "x", "objects": boxes}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    for kind in (Flowers, Boxes):
        kind(data_dir=str(folder)).download_and_prepare()
    return folder


def records(folder, info, split):
    for file in shard_files(folder, split, info):
        for raw in tf.data.TFRecordDataset(file).as_numpy_iterator():
            yield tf.train.Example.FromString(raw).features.feature


def test_classification_keeps_the_stored_bytes_and_labels(data_dir, tmp_path):
    out = tmp_path / "out"
    info = ingest("tfds", out, where="flowers", options={"data_dir": str(data_dir)})
    assert info.classes == ("rose", "iris")
    assert info.splits["test"].examples == 10
    assert info.splits["train"].examples + info.splits["validation"].examples == 60
    known = {jpeg(seed): seed % 2 for seed in [*range(60), *range(100, 110)]}
    for split in features.SPLITS:
        for feature in records(out, info, split):
            data = feature[features.IMAGE].bytes_list.value[0]
            assert known.pop(data) == feature[features.LABEL].int64_list.value[0] - 1
    assert not known


def test_detection_boxes_are_those_of_tfds(data_dir, tmp_path):
    out = tmp_path / "out"
    info = ingest("tfds", out, where="boxes", options={"data_dir": str(data_dir)})
    assert info.task == "detection"
    assert info.classes == ("cat", "dog", "cow")
    expected = {}
    for one in tfds.builder("boxes", data_dir=str(data_dir)).as_dataset(
        split="test", decoders={"image": tfds.decode.SkipDecoding()}
    ):
        expected[one["image"].numpy()] = one["objects"]
    seen = 0
    for feature in records(out, info, "test"):
        objects = expected.pop(feature[features.IMAGE].bytes_list.value[0])
        keys = (features.YMIN, features.XMIN, features.YMAX, features.XMAX)
        boxes = np.stack([feature[key].float_list.value for key in keys], axis=-1)
        np.testing.assert_allclose(boxes.reshape(-1, 4), objects["bbox"].numpy(), atol=1e-6)
        labels = np.array(feature[features.OBJECT_LABEL].int64_list.value) - 1
        np.testing.assert_array_equal(labels, objects["label"].numpy())
        crowd = list(feature[features.IS_CROWD].int64_list.value)
        assert crowd == objects["is_crowd"].numpy().astype(int).tolist()
        assert list(feature[features.OBJECT_ID].int64_list.value) == objects["id"].numpy().tolist()
        assert list(feature[features.AREA].float_list.value) == objects["area"].numpy().tolist()
        seen += len(crowd)
    assert not expected
    assert seen == info.splits["test"].objects > 0


def test_what_is_not_there_is_not_fetched(data_dir, tmp_path):
    options = {"data_dir": str(tmp_path)}
    with pytest.raises(IngestError, match="has no 'no_such_set'"):
        ingest("tfds", tmp_path / "out", where="no_such_set", options=options)
    with pytest.raises(IngestError, match=r"not prepared in .*add download=true"):
        ingest("tfds", tmp_path / "out", where="mnist", options=options)
    with pytest.raises(IngestError, match="needs the name"):
        ingest("tfds", tmp_path / "out")


def test_a_cut_shard_is_named(data_dir, tmp_path):
    import shutil

    shutil.copytree(data_dir, tmp_path / "copy")
    (shard,) = (tmp_path / "copy" / "flowers").rglob("*train.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-100])
    options = {"data_dir": str(tmp_path / "copy")}
    with pytest.raises(IngestError, match="is truncated at byte"):
        ingest("tfds", tmp_path / "out", where="flowers", options=options)


def own(tmp_path, name, counts, dtype=np.uint8):
    """A custom data set with the given split sizes; returns a function that lists its items."""
    # TensorFlow Datasets takes floats of one channel only.
    shape = (4, 4, 1 if dtype == np.float32 else 3)
    kinds = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, dtype=dtype),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
    )
    splits = {
        split: tf.data.Dataset.from_tensor_slices(
            {"image": np.ones((count, *shape), dtype), "label": np.arange(count) % 2}
        )
        for split, count in counts.items()
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name, version="1.0.0", features=kinds, split_datasets=splits, data_dir=str(tmp_path)
    )

    def items(**options):
        request = Request(name, tmp_path)
        source = jobs.get("tfds")(request, data_dir=str(tmp_path), **options)
        found = [(one.name.split("/")[0], one.split) for one in source.items]
        return {pair: found.count(pair) for pair in found}

    return items


def test_no_split_is_dropped_in_silence(tmp_path):
    items = own(tmp_path, "own_a", {"train": 4, "val": 3, "dev": 2})
    assert items() == {("train", "train"): 4, ("val", "validation"): 3, ("dev", "validation"): 2}
    items = own(tmp_path, "own_b", {"train": 4, "test": 3, "extra": 2})
    with pytest.raises(IngestError, match=r"split 'extra'.*splits=train,test to skip it"):
        items()
    assert items(splits="train,test") == {("train", "train"): 4, ("test", "test"): 3}
    assert items(splits="train, extra:train")[("extra", "train")] == 2
    with pytest.raises(IngestError, match="has no split 'none'"):
        items(splits="none")


@pytest.mark.parametrize(
    ("dtype", "fine"), [(np.uint8, True), (np.uint16, True), (np.float32, False)]
)
def test_only_pixels_that_are_stored_as_such(tmp_path, dtype, fine):
    items = own(tmp_path, "own_c", {"train": 2}, dtype)
    if fine:
        assert items() == {("train", "train"): 2}
        return
    with pytest.raises(IngestError, match=r"'image' of own_c has float32 pixels.*uint8 and uint16"):
        items()
