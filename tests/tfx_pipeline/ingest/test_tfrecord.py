"""Public TFRecords, used in place."""

import gzip
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_pipeline.ingest import IngestError, ingest
from tfx_pipeline.ingest.tfrecord import _classes
from trainers.data import features
from trainers.data.features import DatasetInfo


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def inception(seed, label, **more):
    """A record like those of public ImageNet: without identity and slices."""
    feature = {
        "image/encoded": [jpeg(seed)],
        "image/height": [16],
        "image/width": [16],
        "image/colorspace": [b"RGB"],
        "image/channels": [3],
        "image/class/label": [label],
        "image/class/synset": [b"n01440764"],
        "image/class/text": [f"class {label}".encode()],
        "image/format": [b"JPEG"],
        "image/filename": [b"x.JPEG"],
        **more,
    }
    return example(feature)


def example(values):
    made = {}
    for key, one in values.items():
        if key.endswith("text") or (one and isinstance(one[0], bytes)):
            made[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=one))
        elif "bbox" in key:
            made[key] = tf.train.Feature(float_list=tf.train.FloatList(value=one))
        else:
            made[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=one))
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in records:
            writer.write(one)


@pytest.fixture
def imagenet(tmp_path):
    folder = tmp_path / "imagenet"
    for shard in range(3):
        records = [inception(10 * shard + n, 1 + n % 3) for n in range(10)]
        write(folder / f"train-{shard:05d}-of-00003", records)
    write(folder / "validation-00000-of-00001", [inception(100 + n, 1 + n % 3) for n in range(6)])
    return folder


def test_imagenet_records_are_described_in_place(imagenet, tmp_path):
    out = tmp_path / "data"
    info = ingest("tfrecord", out, where=imagenet)
    assert info == DatasetInfo.load(out)
    assert info.foreign
    assert info.label_offset == 1
    assert info.classes == ("class 1", "class 2", "class 3")
    assert {split: one.examples for split, one in info.splits.items()} == {
        "train": 20,
        "validation": 10,
        "test": 6,
    }
    assert info.splits["test"].per_class == {"class 1": 2, "class 2": 2, "class 3": 2}
    links = sorted(path for path in out.rglob("data_tfrecord-*"))
    assert all(link.is_symlink() for link in links)
    assert links[0].resolve().parent == imagenet
    again = ingest("tfrecord", tmp_path / "again", where=imagenet, name=info.name)
    assert again == info


def test_training_and_evaluation_read_them(imagenet, tmp_path):
    from trainers.config import Config, DataConfig, TrainConfig
    from trainers.data.pipeline import eval_batches, train_batches

    out = tmp_path / "data"
    info = ingest("tfrecord", out, where=imagenet)
    config = Config(
        name="t",
        data=DataConfig(dir=str(out), image_size=(16, 16), crop_fraction=1.0),
        train=TrainConfig(global_batch=4),
    )
    labels = [label for _, batch in train_batches(config, info, epoch=0) for label in batch.numpy()]
    assert sorted(set(labels)) == [0, 1, 2]
    assert len(labels) == 20
    batch = next(iter(eval_batches(config, info, "test", batch=8)))
    assert batch.mask.numpy().sum() == 6
    ids = set(batch.ids.numpy()[:6])
    assert len(ids) == 6
    assert set(batch.slices) == set(features.SLICES)
    assert set(batch.slices["slice/size"].numpy()[:6]) == {b"small"}


def test_object_detection_records(tmp_path):
    folder = tmp_path / "coco"
    objects = {
        features.XMIN: [0.1, 0.5],
        features.XMAX: [0.4, 0.9],
        features.YMIN: [0.0, 0.2],
        features.YMAX: [0.3, 0.8],
        features.OBJECT_LABEL: [1, 4],
        features.OBJECT_TEXT: [b"person", b"bus"],
    }
    empty = {key: [] for key in objects}
    write(
        folder / "coco_train.record-00000-of-00001",
        [example({"image/encoded": [jpeg(n)], **(objects if n % 2 else empty)}) for n in range(4)],
    )
    info = ingest("tfrecord", tmp_path / "data", where=folder)
    assert info.task == "detection"
    assert info.classes == ("person", "2", "3", "bus")
    assert info.splits["train"].objects == 4
    assert info.splits["train"].per_class == {"person": 2, "2": 0, "3": 0, "bus": 2}


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([b"no example"], [], "from record 0: not tf.Examples with 'image/encoded'"),
        ([example({"image/encoded": [b"x"]})], [], "1 records with 0 labels"),
        ([inception(1, 5)], ["label_offset=1", "classes={names}"], "from 5 to 5, which 2"),
        ([inception(1, 0)], ["label_offset=1"], "labels range from 0"),
        ([inception(1, 1)], ["offset=1"], "has no option 'offset'"),
    ],
)
def test_refusals(tmp_path, records, options, message):
    write(tmp_path / "x" / "train-00000-of-00001", records)
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    with pytest.raises(IngestError, match=message):
        ingest(
            "tfrecord",
            tmp_path / "data",
            where=tmp_path / "x",
            options=[one.format(names=names) for one in options],
        )
    assert not (tmp_path / "data").exists()


def test_damaged_compressed_and_absent_shards(tmp_path):
    folder = tmp_path / "x"
    write(folder / "train-00000-of-00001", [inception(1, 1)] * 3)
    whole = (folder / "train-00000-of-00001").read_bytes()
    (folder / "train-00000-of-00001").write_bytes(whole[:-40])
    with pytest.raises(IngestError, match="truncated or damaged"):
        ingest("tfrecord", tmp_path / "data", where=folder)
    (folder / "train-00000-of-00001").write_bytes(gzip.compress(whole))
    with pytest.raises(IngestError, match="gzipped; unpack it"):
        ingest("tfrecord", tmp_path / "data", where=folder)
    (folder / "train-00000-of-00001").unlink()
    (folder / "readme").write_text("")
    with pytest.raises(IngestError, match="no shards named after a split"):
        ingest("tfrecord", tmp_path / "data", where=folder)
    with pytest.raises(IngestError, match="needs a folder of shards"):
        ingest("tfrecord", tmp_path / "data")


def test_labels_that_count_no_classes_are_refused_at_once():
    # A list of names for each of them would not fit in memory.
    with pytest.raises(IngestError, match=r"from 0 to 10\d+, more than 1,000,000 classes"):
        _classes([0, 10**18], {}, offset=0, given="")
    assert _classes([1, 3], {3: "c"}, offset=1, given="") == ("1", "2", "c")
