"""Lists for relabeling, read by pycocotools and against FiftyOne's documented format."""

import csv
import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools.coco import COCO

from components.data_validation.anomaly import Anomaly, Location
from tfx_pipeline.cli.views.relabeling import listed_images, write_lists
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.thumbnails import Thumbnails, index_images
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.evaluation.analysis import analyze
from trainers.evaluation.comparison import ModelPredictions

NAMES = ("kitten, small", "собака", "=bird")
IMAGES = 120


def image_bytes(number):
    buffer = io.BytesIO()
    Image.new("RGB", (20 + number % 7, 30), (number, 255 - number, 90)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Images of several sizes; every tenth has no file name."""
    folder = tmp_path_factory.mktemp("relabeling")
    (folder / "Split-test").mkdir()
    shard = folder / "Split-test" / "data_tfrecord-00000-of-00001"
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for number in range(IMAGES):
            encoded = image_bytes(number)
            values = {
                "image/encoded": encoded,
                "image/key/sha256": hashlib.sha256(encoded).hexdigest().encode(),
            }
            if number % 10:
                values["image/filename"] = f"some folder/{number}.png".encode()
            feature = {
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for key, value in values.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    splits = {"test": SplitInfo(IMAGES, 1, {})}
    info = DatasetInfo("d", "classification", NAMES, 0, splits, "f" * 64)
    (folder / "dataset.json").write_text(info.to_json())
    return folder


@pytest.fixture(scope="module")
def evaluation(records):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, IMAGES).astype(np.int32)
    logits = random.normal(0, 1, (IMAGES, 3))
    logits[np.arange(IMAGES), labels] += 1.5
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ids = [hashlib.sha256(image_bytes(number)).hexdigest() for number in range(IMAGES)]
    light = random.choice(["dark", "bright"], IMAGES).astype(object)
    model = ModelPredictions(
        np.array(ids, object),
        labels,
        scores.astype(np.float32),
        {"slice/light": light},
        name="pets",
        classes=NAMES,
    )
    images = Thumbnails(index_images(records, "test"))
    return Evaluation(analyze(model), model, "test", records, thumbnails=images)


def wrong_numbers(evaluation):
    model = evaluation.model
    return np.flatnonzero(model.scores.argmax(1) != model.labels)


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_csv_files_have_every_image_and_pair(evaluation, tmp_path):
    write_lists(evaluation, tmp_path)
    errors = rows_of(tmp_path / "errors.csv")
    assert len(errors) == len(wrong_numbers(evaluation))
    by_id = {one: number for number, one in enumerate(evaluation.model.ids)}
    for row in errors:
        number = by_id[row["image_sha256"]]
        assert row["file"] == (f"some folder/{number}.png" if number % 10 else "")
        assert row["label"] == NAMES[evaluation.model.labels[number]]
    pairs = rows_of(tmp_path / "confusions.csv")
    assert sum(int(row["images"]) for row in pairs) == len(errors)
    for row in pairs:
        ours = [
            one
            for one in errors
            if (one["label"], one["predicted"]) == (row["label"], row["predicted"])
        ]
        assert len(ours) == int(row["images"])
        assert float(row["share"]) == pytest.approx(len(ours) / int(row["images_of_label"]))
        assert row["most_confident_file"] == ours[0]["file"]
    weak = rows_of(tmp_path / "weak_slices.csv")
    assert {row["slices_tried"] for row in weak} <= {"2"}
    assert len(rows_of(tmp_path / "suspect_labels.csv")) == len(evaluation.analysis.suspects)
    assert not (tmp_path / "near_duplicates.csv").exists(), "they were not searched"


def test_coco_tools_read_labels_sizes_and_names(evaluation, tmp_path, capsys):
    write_lists(evaluation, tmp_path)
    coco = COCO(str(tmp_path / "coco.json"))
    capsys.readouterr()
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(NAMES)
    model = evaluation.model
    images = coco.loadImgs(coco.getImgIds())
    assert len(images) == len([one for one in listed_images(evaluation) if one.position % 10])
    for image in images:
        number = int(image["file_name"].split("/")[1].removesuffix(".png"))
        with Image.open(io.BytesIO(image_bytes(number))) as opened:
            assert (image["width"], image["height"]) == opened.size
        (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert coco.cats[annotation["category_id"]]["name"] == NAMES[model.labels[number]]
        assert annotation["bbox"] == [0, 0, image["width"], image["height"]]
        extra = annotation["attributes"]
        assert extra["predicted"] == NAMES[model.scores[number].argmax()]
        assert extra["score"] == pytest.approx(model.scores[number].max())
        assert ("error" in extra["tags"].split(",")) == (number in wrong_numbers(evaluation))


def test_fiftyone_gets_its_documented_format(evaluation, tmp_path):
    """`Dataset.write_json` of FiftyOne 1.22: samples with typed labels, declared in the schema."""
    left_out = write_lists(evaluation, tmp_path)
    found = json.loads((tmp_path / "fiftyone.json").read_text(encoding="utf-8"))
    assert found["media_type"] == "image"
    assert found["default_classes"] == list(NAMES)
    assert found["samples"]
    label = "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.Classification)"
    schema = found["sample_fields"]
    for sample in found["samples"]:
        assert set(sample) == set(schema)
        assert sample["filepath"].startswith("some folder/")
        assert isinstance(sample["tags"], list)
        for key, value in sample.items():
            if isinstance(value, dict):
                assert schema[key] == label
                assert value["_cls"] == "Classification"
                assert value["label"] in NAMES
        assert 0 < sample["predictions"]["confidence"] <= 1
        assert (sample["suggested"] is not None) == ("suspect_label" in sample["tags"])
    unnamed = [one for one in listed_images(evaluation) if one.position % 10 == 0]
    total = len(found["samples"]) + len(unnamed)
    assert left_out == [
        f"{len(unnamed):,} of {total:,} images have no file name in the records, so fiftyone.json "
        "and coco.json leave them out."
    ]


def test_near_duplicates_are_listed_by_their_record(evaluation, tmp_path):
    shard = "data_tfrecord-00000-of-00001"
    right = int(np.flatnonzero(evaluation.model.correct)[0])
    offset = evaluation.thumbnails.images.records[evaluation.model.ids[right]][1]
    here = Location("test", shard, right, offset, "a.png", NAMES[0])
    other = Location("train", shard, 0, 0, "b.png", NAMES[1])
    pairs = (Anomaly("near_leakage", "difference 0.020", here, other),)
    with_pairs = replace(evaluation, duplicates=pairs)
    write_lists(with_pairs, tmp_path)
    (row,) = rows_of(tmp_path / "near_duplicates.csv")
    assert (row["kind"], row["split"], row["file"]) == ("near_leakage", "test", "a.png")
    assert (row["other_split"], row["other_label"]) == ("train", NAMES[1])
    (one,) = [one for one in listed_images(with_pairs) if one.position == right]
    assert one.tags[-1] == "near_duplicate"


def test_without_records_there_are_no_imports(evaluation, tmp_path):
    write_lists(replace(evaluation, duplicates=()), tmp_path)
    alone = replace(evaluation, data=None, thumbnails=Thumbnails(index_images(None, "test")))
    (text,) = write_lists(alone, tmp_path)
    assert text.startswith("fiftyone.json and coco.json are not written, as they need file names.")
    assert "give their folder with --data" in text
    assert {file.name for file in tmp_path.iterdir()} == {
        *("errors.csv", "suspect_labels.csv", "confusions.csv", "weak_slices.csv")
    }, "those of the first call are gone"
    assert {row["file"] for row in rows_of(tmp_path / "errors.csv")} == {""}


def test_a_model_without_errors_has_empty_lists(evaluation, tmp_path):
    model = replace(evaluation.model, scores=np.eye(3, dtype=np.float32)[evaluation.model.labels])
    perfect = replace(evaluation, model=model, analysis=analyze(model))
    assert write_lists(perfect, tmp_path) == []
    assert rows_of(tmp_path / "errors.csv") == rows_of(tmp_path / "confusions.csv") == []
    assert json.loads((tmp_path / "fiftyone.json").read_text())["samples"] == []
