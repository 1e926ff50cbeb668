"""Batches from handwritten records of objects."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools.coco import COCO

from trainers.config import Config, ConfigError, DataConfig, EvalConfig, TrainConfig, override
from trainers.data.detection_input import detection_batches, pad_objects, parse_sample
from trainers.data.features import DATASET_FILE, DatasetInfo, SplitInfo
from trainers.data.pipeline import DataError, named_errors
from trainers.data.records_check import check_example

OBJECT = "image/object/"


def png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def example(values):
    made = {}
    for key, one in values.items():
        if key.startswith(f"{OBJECT}bbox") or key == f"{OBJECT}area":
            made[key] = tf.train.Feature(float_list=tf.train.FloatList(value=one))
        elif len(one) == 0 or isinstance(one[0], bytes):
            made[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=one))
        else:
            made[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=one))
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def coco_record(folder, coco, image_id, category_ids):
    meta = coco.imgs[image_id]
    annotations = coco.loadAnns(coco.getAnnIds(image_id))
    left, top, wide, high = np.array([a["bbox"] for a in annotations]).reshape(-1, 4).T
    return {
        "image/encoded": [(folder / meta["file_name"]).read_bytes()],
        "image/key/sha256": [b"%064d" % image_id],
        "image/source_id": [str(image_id).encode()],
        "slice/size": [b"large"],
        f"{OBJECT}bbox/xmin": list(left / meta["width"]),
        f"{OBJECT}bbox/xmax": list((left + wide) / meta["width"]),
        f"{OBJECT}bbox/ymin": list(top / meta["height"]),
        f"{OBJECT}bbox/ymax": list((top + high) / meta["height"]),
        f"{OBJECT}class/label": [category_ids.index(a["category_id"]) + 1 for a in annotations],
        f"{OBJECT}is_crowd": [a["iscrowd"] for a in annotations],
        f"{OBJECT}area": [a["area"] for a in annotations],
        f"{OBJECT}id": [a["id"] for a in annotations],
        f"{OBJECT}mask": [png(coco.annToMask(a)) for a in annotations],
    }


def write(folder, shards, classes, **fields):
    (folder / "Split-train").mkdir(parents=True)
    for number, records in enumerate(shards):
        path = folder / "Split-train" / f"data_tfrecord-{number:05d}-of-{len(shards):05d}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(example(record))
    splits = {"train": SplitInfo(sum(map(len, shards)), len(shards), {})}
    info = DatasetInfo("o", "detection", classes, 1, splits, "f", slices=("slice/size",), **fields)
    (folder / DATASET_FILE).write_text(info.to_json())
    return info


@pytest.fixture(scope="module")
def coco(extract, tmp_path_factory):
    """(annotations, records' folder, info, category ids): 14 images, crowds among them."""
    source = Path(extract("coco_subset_A"))
    coco = COCO(source / "annotations" / "instances_val2017.json")
    category_ids = sorted(coco.cats)
    crowds = {one["image_id"] for one in coco.anns.values() if one["iscrowd"]}
    chosen = sorted(coco.imgs, key=lambda one: (one not in crowds, one))[:14]
    records = [coco_record(source / "val2017", coco, one, category_ids) for one in chosen]
    folder = tmp_path_factory.mktemp("records")
    classes = tuple(coco.cats[one]["name"] for one in category_ids)
    info = write(folder, [records[:6], records[6:]], classes, masks=True)
    return coco, folder, info, category_ids, chosen


@pytest.fixture
def config(coco):
    return Config(
        name="t",
        task="detection",
        data=DataConfig(dir=str(coco[1]), image_size=(96, 128), max_boxes=60),
        train=TrainConfig(global_batch=4, seed=3),
        eval=EvalConfig(batch=4),
    )


def small(count=3, **changed):
    """A record of a 20 x 10 image."""
    masks = np.zeros((count, 20, 10), np.uint8)
    masks[:, 2:6, 3:9] = 1
    record = {
        "image/encoded": [png(np.full((20, 10, 3), 90, np.uint8))],
        f"{OBJECT}bbox/xmin": [0.3] * count,
        f"{OBJECT}bbox/xmax": [0.9] * count,
        f"{OBJECT}bbox/ymin": [0.1] * count,
        f"{OBJECT}bbox/ymax": [0.3] * count,
        f"{OBJECT}class/label": list(range(1, count + 1)),
        f"{OBJECT}mask": [png(mask) for mask in masks],
    }
    return {**record, **changed}


def tiny():
    return DatasetInfo("tiny", "detection", tuple("abcde"), 1, {}, "f", slices=())


@pytest.mark.shared_data
def test_evaluation_gives_coco_back(coco, config):
    api, _, info, category_ids, chosen = coco
    parts = list(detection_batches(config, info, "train", masks=True))
    assert [float(tf.reduce_sum(part["mask"])) for part in parts] == [4, 4, 4, 2]
    keys = parts[0].keys() - {"slices"}
    rows = {key: np.concatenate([part[key] for part in parts]) for key in keys}
    assert [int(one) for one in rows["source_ids"][:14]] == chosen
    assert not rows["images"][14:].any()
    assert set(rows["ids"][14:]) == {b""}
    for row, image_id in enumerate(chosen):
        annotations = api.loadAnns(api.getAnnIds(image_id))
        count = len(annotations)
        assert rows["object_mask"][row].tolist() == [1] * count + [0] * (60 - count)
        assert not rows["boxes"][row, count:].any()
        assert rows["object_ids"][row, :count].tolist() == [a["id"] for a in annotations]
        assert rows["is_crowd"][row, :count].tolist() == [a["iscrowd"] == 1 for a in annotations]
        back = [category_ids[index] for index in rows["classes"][row, :count]]
        assert back == [a["category_id"] for a in annotations]
        np.testing.assert_allclose(rows["area"][row, :count], [a["area"] for a in annotations])
        height, width = rows["sizes"][row]
        assert (height, width) == (api.imgs[image_id]["height"], api.imgs[image_id]["width"])
        scale = [96, 128, 96, 128] / np.tile(rows["ratios"][row], 2)
        top, left, bottom, right = (rows["boxes"][row, :count] * scale).T
        wanted = np.array([a["bbox"] for a in annotations])
        np.testing.assert_allclose(
            np.stack([left, top, right - left, bottom - top], 1), wanted, atol=2e-4
        )
        ratio = rows["ratios"][row]
        shown = [api.annToMask(a) for a in annotations]
        ys = ((np.arange(round(height * ratio[0])) + 0.5) / ratio[0]).astype(int)
        xs = ((np.arange(round(width * ratio[1])) + 0.5) / ratio[1]).astype(int)
        expected = np.stack(shown)[:, ys][:, :, xs]
        got = rows["masks"][row, :count]
        # A sample that falls on a pixel's border may be either neighbor's.
        assert (got[:, : len(ys), : len(xs)] != expected).mean() < 0.002
        assert got.sum() == got[:, : len(ys), : len(xs)].sum()


@pytest.mark.shared_data
def test_an_epoch_is_decided_by_seed_and_epoch(coco, config):
    info = coco[2]
    config = override(config, ["data.augment=random_scale_crop(0.8, 1.25), flip"])

    def epoch(number, config=config):
        return list(detection_batches(config, info, "train", epoch=number))

    first, again, other = epoch(0), epoch(0), epoch(1)
    assert len(first) == 3
    assert "masks" not in first[0]
    assert first[0]["images"].shape == (4, 96, 128, 3)
    for one, two in zip(first, again, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])
    images = [
        {image.tobytes() for part in run for image in part["images"].numpy()}
        for run in (first, other, epoch(0, override(config, ["train.seed=4"])))
    ]
    assert all(len(one) == 12 for one in images)
    assert not images[0] & images[1]
    assert not images[0] & images[2]
    ids = [one for part in first for one in part["object_ids"].numpy().ravel() if one]
    assert len(set(ids)) == len(ids) > 50


def test_what_foreign_records_lack_is_filled_in():
    sample = parse_sample(tf.constant(example(small())), tiny(), masks=True)
    np.testing.assert_array_equal(sample.classes, [0, 1, 2])
    np.testing.assert_array_equal(sample.is_crowd, [False] * 3)
    np.testing.assert_array_equal(sample.ids, [0, 1, 2])
    np.testing.assert_allclose(sample.area, [24.0] * 3, rtol=1e-5)
    assert sample.masks.numpy().sum() == 3 * 24
    np.testing.assert_array_equal(sample.image, np.full((20, 10, 3), 90))


@pytest.mark.parametrize("masks", [True, False])
def test_an_image_without_objects_is_kept(masks):
    nothing = {key: [] for key in small() if key != "image/encoded" and "label" not in key}
    record = {"image/encoded": small()["image/encoded"], **nothing}
    sample = parse_sample(tf.constant(example(record)), tiny(), masks=masks)
    assert sample.boxes.shape == (0, 4)
    assert sample.masks.shape == ((0, 20, 10) if masks else (0, 0, 0))
    padded, mask = pad_objects(sample, 2)
    assert padded.boxes.shape == (2, 4)
    assert mask.numpy().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({f"{OBJECT}class/label": [1, 2, 6]}, "label out of range"),
        ({f"{OBJECT}class/label": [0, 1, 2]}, "label out of range"),
        ({f"{OBJECT}bbox/xmin": [0.1]}, "box edges must match object labels"),
        ({f"{OBJECT}mask": [png(np.zeros((20, 10), np.uint8))]}, "masks must match object labels"),
        (
            {f"{OBJECT}mask": [png(np.zeros((9, 10), np.uint8))] * 3},
            "another size than the image",
        ),
    ],
)
def test_wrong_records_are_named(changed, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        parse_sample(tf.constant(example(small(**changed))), tiny(), masks=True)


@pytest.mark.parametrize(("key", "value"), [("is_crowd", [0, 1]), ("area", [4.0] * 4), ("id", [7])])
def test_what_may_be_absent_is_there_for_all_objects(key, value):
    record = example(small(**{f"{OBJECT}{key}": value}))
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{key}: must match object labels"):
        parse_sample(tf.constant(record), tiny())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bbox/xmin", [0.1]),
        ("bbox/xmax", [0.1] * 4),
        ("bbox/ymin", []),
        ("bbox/ymax", [0.1] * 2),
        ("is_crowd", [0, 1]),
        ("area", [4.0] * 4),
        ("id", [7]),
        ("mask", [b"", b""]),
    ],
)
def test_a_list_of_another_length_is_the_reason(key, value):
    info = dataclasses.replace(tiny(), foreign=True)
    assert check_example(example(small()), info) == ""
    reason = check_example(example(small(**{f"{OBJECT}{key}": value})), info)
    assert f"'{OBJECT}{key}' has {len(value)} values" in reason
    assert f"'{OBJECT}class/label' has 3" in reason


def test_objects_are_padded_or_cut_to_a_fixed_number():
    sample = parse_sample(tf.constant(example(small(4))), tiny(), masks=True)
    padded, mask = pad_objects(sample, 6)
    assert mask.numpy().tolist() == [1, 1, 1, 1, 0, 0]
    for one, before in zip(padded[1:], sample[1:], strict=True):
        assert one.shape == (6, *before.shape[1:])
        np.testing.assert_array_equal(one[:4], before)
        assert not np.any(one[4:])
    cut, mask = pad_objects(sample, 3)
    assert mask.numpy().tolist() == [1, 1, 1]
    np.testing.assert_array_equal(cut.ids, [0, 1, 2])


@pytest.mark.parametrize("foreign", [True, False])
def test_identities_slices_and_limits_of_small_records(tmp_path, foreign):
    extra = {} if foreign else {"image/key/sha256": [b"ab"], "slice/size": [b"small"]}
    info = write(tmp_path / "r", [[small(**extra)] * 3], tuple("abcde"), foreign=foreign)
    data = DataConfig(dir=str(tmp_path / "r"), image_size=(8, 8), max_boxes=3)
    config = Config(
        name="t", data=data, eval=EvalConfig(batch=3), train=TrainConfig(global_batch=3)
    )
    (part,) = detection_batches(config, info, "train")
    assert part["slices"]["slice/size"].numpy().tolist() == ([b""] if foreign else [b"small"]) * 3
    assert len(set(part["ids"].numpy())) == 1
    assert part["ids"].numpy()[0] == b"ab" or len(part["ids"].numpy()[0]) == 16
    few = override(config, ["data.max_boxes=2"])
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match=r"more objects than data.max_boxes"),
        named_errors(few, info, "train"),
    ):
        list(detection_batches(few, info, "train"))
    (trained,) = detection_batches(few, info, "train", epoch=0)
    assert trained["boxes"].shape == (3, 2, 4)
    with pytest.raises(DataError, match=r"less than one batch of 4; set train.global_batch"):
        detection_batches(override(config, ["train.global_batch=4"]), info, "train", epoch=0)
    with pytest.raises(ConfigError, match="unknown augmentation 'shift'"):
        detection_batches(override(config, ["data.augment=shift"]), info, "train", epoch=0)
