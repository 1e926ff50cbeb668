"""Data with classes in another order, fewer or unknown classes, or another EXIF policy."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tfx_pipeline.cli.views.evaluate import evaluate_model
from trainers.bundles.build import build_bundle
from trainers.bundles.saved_model import write_saved_model
from trainers.config import ConfigError
from trainers.data.features import DATASET_FILE, REPORT_FILE, DatasetError, DatasetInfo, SplitInfo
from trainers.loop import fit
from trainers.training.forward import Forward, predict_split

LABEL = "image/class/label"


def relabelled(records, folder, order, **changed):
    """The test split of `records` with classes in another order, or with some of them only."""
    whole = DatasetInfo.load(records[0])
    kept = []
    for serialized in records[1]["test"]:
        example = tf.train.Example.FromString(serialized)
        label = example.features.feature[LABEL].int64_list.value
        if label[0] - 1 in order:
            label[0] = order.index(label[0] - 1) + 1
            kept.append(example.SerializeToString())
    (folder / "Split-test").mkdir(parents=True)
    with tf.io.TFRecordWriter(
        str(folder / "Split-test" / "data_tfrecord-00000-of-00001")
    ) as writer:
        for one in kept:
            writer.write(one)
    info = replace(
        whole,
        classes=tuple(whole.classes[place] for place in order),
        splits={"test": SplitInfo(len(kept), 1, {})},
        **changed,
    )
    (folder / DATASET_FILE).write_text(info.to_json(), encoding="utf-8")
    return folder


def figures(model, data):
    return evaluate_model(model, data, "test")


def test_a_bundle_pairs_classes_by_name(built, records, tmp_path):
    straight = figures(built[0], records[0])
    back = relabelled(records, tmp_path / "back", [*range(9, -1, -1)])
    assert figures(built[0], back) == straight
    some = [7, 2, 5]
    labels = [
        tf.train.Example.FromString(one).features.feature[LABEL].int64_list.value[0] - 1
        for one in records[1]["test"]
    ]
    part = evaluate_model(built[0], relabelled(records, tmp_path / "some", some), "test")
    images = [one for one, label in zip(records[1]["test"], labels, strict=True) if label in some]
    signature = tf.saved_model.load(str(built[0])).signatures["predict_examples"]
    best = signature(examples=tf.constant(images))["classes"].numpy()[:, 0]
    right = np.mean(best == [label for label in labels if label in some])
    assert part["saved_model"]["top1"][0] == pytest.approx(right)


def test_a_trained_model_pairs_classes_by_name(trained, config, records, tmp_path):
    folder = relabelled(records, tmp_path / "back", [*range(9, -1, -1)])
    back = replace(config, data=replace(config.data, dir=str(folder)))
    forward = Forward(trained.model, config)
    straight = predict_split(forward, config, trained.info, "test")
    found = predict_split(
        forward, back, DatasetInfo.load(folder), "test", classes=trained.info.classes
    )
    np.testing.assert_array_equal(found.labels, straight.labels)
    np.testing.assert_array_equal(found.scores, straight.scores)


def test_unknown_names_are_refused_regardless_of_their_number(built, records, tmp_path):
    folder = relabelled(records, tmp_path / "data", [*range(10)])
    raw = json.loads((folder / DATASET_FILE).read_text())
    raw["classes"][3] = "three"
    (folder / DATASET_FILE).write_text(json.dumps(raw))
    with pytest.raises(DatasetError, match=r"lacks 1 of the 10 classes .*: 'three'"):
        evaluate_model(built[0], folder, "test")


def test_records_in_another_order_are_refused_for_fine_tuning(trained, tmp_path):
    other = replace(trained, info=replace(trained.info, classes=trained.info.classes[::-1]))
    with pytest.raises(DatasetError, match="the same in another order, than when tiny was trained"):
        build_bundle(other, tmp_path / "draft")


def test_names_in_another_unicode_form_are_the_same():
    info = DatasetInfo("d", "classification", ("cafe\u0301", "tea"), 1, {}, fingerprint="")
    assert info.class_positions(("tea", "caf\u00e9"), "the model") == (1, 0)


@pytest.mark.parametrize("turned", [0, 5])
def test_another_exif_policy_is_refused(built, records, tmp_path, turned):
    folder = relabelled(records, tmp_path / "d", [*range(10)], exif="upright", turned=turned)
    if not turned:
        assert figures(built[0], folder)
        return
    with pytest.raises(DatasetError, match=r"as they are stored .*`--exif upright`: 5 of its"):
        evaluate_model(built[0], folder, "test")


@pytest.mark.parametrize("verb", [["train", "digits_cnn"], ["evaluate", "BUNDLE"]])
def test_data_of_another_task_are_refused_before_tensorflow_loads(built, tmp_path, verb):
    info = DatasetInfo("boxes", "detection", ("a",), 1, {"test": SplitInfo(1, 1, {})}, "")
    (tmp_path / DATASET_FILE).write_text(info.to_json())
    words = [str(built[0]) if word == "BUNDLE" else word for word in verb]
    code = (
        "import sys; from tfx_pipeline.cli import main\n"
        f"try: main({[*words, '--data', str(tmp_path)]!r})\n"
        "finally: print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        "is for classification, but the data set 'boxes' holds images with objects" in done.stderr
    )
    assert done.stdout.split() == ["False"]


def test_fit_refuses_data_of_another_task(config, tmp_path):
    info = DatasetInfo("boxes", "detection", ("a",), 1, {"train": SplitInfo(1, 1, {})}, "")
    (tmp_path / DATASET_FILE).write_text(info.to_json())
    other = replace(config, data=replace(config.data, dir=str(tmp_path)))
    with pytest.raises((DatasetError, ConfigError), match="holds images with objects"):
        fit(other, tmp_path / "work")


def photograph(orientation, kind):
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((45, 30), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


def test_the_graph_of_upright_records_rotates_images(trained, config, tmp_path):
    info = replace(trained.info, exif="upright")
    write_saved_model(trained.model, config, info, tmp_path / "model")
    preprocess = tf.saved_model.load(str(tmp_path / "model")).signatures["preprocess"]
    for kind in ("JPEG", "PNG"):
        sent = [photograph(orientation, kind) for orientation in range(1, 9)]
        found = preprocess(image_bytes=tf.constant(sent))["images"].numpy()
        stored = []
        for data in sent:
            # As `ingest --exif upright` stores them: the decoder's pixels, turned, as PNG.
            pixels = tf.io.decode_image(data, channels=3).numpy()
            image = Image.fromarray(pixels)
            image.getexif()[0x0112] = Image.open(io.BytesIO(data)).getexif()[0x0112]
            buffer = io.BytesIO()
            Image.fromarray(np.asarray(ImageOps.exif_transpose(image))).save(buffer, "PNG")
            stored.append(buffer.getvalue())
        expected = preprocess(image_bytes=tf.constant(stored))["images"].numpy()
        np.testing.assert_array_equal(found, expected)
        assert len({one.tobytes() for one in found}) == 8


def test_the_policy_of_older_records_is_in_their_report(tmp_path):
    raw = json.loads(
        DatasetInfo("d", "classification", ("a", "b"), 1, {}, fingerprint="").to_json()
    )
    for key in ("exif", "turned", "group"):
        del raw[key]
    (tmp_path / DATASET_FILE).write_text(json.dumps(raw))
    assert DatasetInfo.load(tmp_path).exif == "as_stored"
    (tmp_path / REPORT_FILE).write_text(json.dumps({"job": "folder", "exif": "upright"}, indent=1))
    found = DatasetInfo.load(tmp_path)
    assert (found.exif, found.turned) == ("upright", 1)
