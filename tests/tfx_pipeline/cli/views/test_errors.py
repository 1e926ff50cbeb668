"""`sightline errors` on a model of an earlier version, on planted faults, and on bad input."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from typer.testing import CliRunner

from components.data_validation.cross_split import duplicates_of_split
from core.bundle import SAVED_MODEL
from tfx_pipeline.cli import app
from trainers.data.features import DatasetInfo
from trainers.evaluation.analysis import AnalysisError
from trainers.evaluation.comparison import ComparisonError
from trainers.evaluation.predictions import Predictions, write_table

LISTS = {
    *("errors.csv", "suspect_labels.csv", "confusions.csv", "weak_slices.csv"),
    *("near_duplicates.csv", "fiftyone.json", "coco.json"),
}
# Without weak slices: the test split is too small.
SECTIONS = ["errors", "confused-pairs", "suspect-labels", "near-duplicates", "embeddings"]


@pytest.fixture(scope="module")
def old(earlier):
    """Records, a trained folder and a bundle without embeddings."""
    return earlier("b54914a")


@pytest.fixture(scope="module")
def gallery(old, tmp_path_factory):
    """(folder, output) of the trained folder."""
    out = tmp_path_factory.mktemp("gallery")
    result = run(old / "trained", "--data", old / "data", "--out", out)
    assert result.exit_code == 0, result.output
    return out, result.output


def run(*arguments):
    return CliRunner().invoke(app, ["errors", *map(str, arguments)])


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def anchors(folder):
    return re.findall(r'<section id="([\w-]+)"', (folder / "index.html").read_text("utf-8"))


def records_of(folder, split):
    """(name, class, encoded image) of each record, read without our reader."""
    found = []
    (shard,) = (folder / f"Split-{split}").glob("data_tfrecord-*")
    for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        keys = ("image/filename", "image/class/text", "image/encoded")
        name, text, encoded = (feature[key].bytes_list.value[0] for key in keys)
        found.append((name.decode(), text.decode(), encoded))
    return found


def test_the_gallery_has_all_sections_and_lists(gallery, old):
    out, output = gallery
    assert {file.name for file in out.iterdir()} == {"index.html", *LISTS}
    assert anchors(out) == [*SECTIONS, "lineage"]
    assert "open " in output
    info = DatasetInfo.load(old / "data")
    page = (out / "index.html").read_text("utf-8")
    points = len(re.findall(r'class="pt ', page))
    assert points == info.splits["test"].examples


def test_errors_are_those_of_the_exported_graph(gallery, old):
    """The bundle of the same network, run by TensorFlow on the encoded images."""
    serve = tf.saved_model.load(str(old / "bundles/tiny/1")).signatures["serving_default"]
    images = records_of(old / "data", "test")
    found = serve(image_bytes=tf.constant([one[2] for one in images]))["labels"].numpy()
    wrong = {
        (name, label)
        for (name, label, _), labels in zip(images, found, strict=True)
        if labels[0].decode() != label
    }
    rows = rows_of(gallery[0] / "errors.csv")
    assert {(row["file"], row["label"]) for row in rows} == wrong
    assert len(rows) == len(wrong)


def test_a_bundle_of_an_earlier_version_has_no_map_and_says_why(old, tmp_path):
    result = run(old / "bundles/tiny/1", "--data", old / "data", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    text = "There is no map of the embeddings: "
    assert f"{text}the bundle tiny has no signature predict_embeddings" in result.output
    assert "export the model again, or give its folder of `sightline train`" in result.output
    page = (tmp_path / "index.html").read_text("utf-8")
    assert text in page
    assert "<svg" not in page.split('<section id="embeddings"')[1].split("</section>")[0]


def predicted(count=80, classes=2, wrong=0.2):
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count).astype(np.int32)
    best = np.where(random.random(count) < wrong, (labels + 1) % classes, labels)
    scores = np.full((count, classes), 0.2 / max(classes - 1, 1), np.float32)
    scores[np.arange(count), best] = 0.8
    light = random.choice(["dark", "bright"], count).astype(object)
    ids = np.array([f"{i:064d}" for i in range(count)], object)
    return Predictions(ids, labels, scores, {"slice/light": light})


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "predictions.tfrecord"
    write_table(path, {SAVED_MODEL: predicted()}, ("no", "yes"))
    return path


def test_predictions_without_records_have_no_thumbnails(table, tmp_path):
    out = tmp_path / "out"
    result = run(table, "--out", out)
    assert result.exit_code == 0, result.output
    assert "The records are not known: give their folder with --data." in result.output
    assert {file.name for file in out.iterdir()} == {
        *("index.html", "errors.csv", "suspect_labels.csv", "confusions.csv", "weak_slices.csv")
    }
    page = (out / "index.html").read_text("utf-8")
    assert "data:image/jpeg" not in page
    assert "The page has no thumbnails of" in page
    assert (
        len(rows_of(out / "errors.csv"))
        == (predicted().scores.argmax(1) != predicted().labels).sum()
    )


def test_the_model_of_a_run_is_found_by_its_lineage(table, old, tmp_path):
    """Its bundle is of an earlier version, which the message about embeddings names."""
    bundle = tmp_path / "bundle/7/Format-Serving"
    row = {"producer": "Compressor.pets.bundle", "uri": str(bundle.parent)}
    model = {"name": "pets", "predictions": str(table), "config": {}}
    summary = {"models": [model], "data": {"classes": ["no", "yes"]}, "lineage": [row]}
    (tmp_path / "summary.json").write_text(json.dumps(summary))

    def output():
        result = run(tmp_path, "--data", old / "data", "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        return result.output

    assert "predictions alone do not have them" in output(), "the bundle was deleted"
    shutil.copytree(old / "bundles/tiny/1", bundle)
    assert "There is no map of the embeddings: the bundle tiny has no signature" in output()
    (bundle / "manifest.json").unlink()
    assert f"There is no map of the embeddings: {bundle / 'manifest.json'} is missing" in output()


def test_ids_that_the_records_lack_are_counted(table, old, tmp_path):
    out = tmp_path / "out"
    result = run(table, "--data", old / "data", "--out", out)
    assert result.exit_code == 0, result.output
    assert "not in the records" in (out / "index.html").read_text("utf-8")
    assert "not written, as they need file names" in result.output
    assert "predictions alone do not have them. Give the bundle" in result.output


@pytest.mark.parametrize(("classes", "names"), [(2, ("no", "yes")), (1, ("only",))])
def test_a_model_without_errors(classes, names, tmp_path):
    path, out = tmp_path / "p.tfrecord", tmp_path / "out"
    write_table(path, {SAVED_MODEL: predicted(classes=classes, wrong=0.0)}, names)
    result = run(path, "--out", out)
    assert result.exit_code == 0, result.output
    page = (out / "index.html").read_text("utf-8")
    assert "The model classifies all images correctly." in page
    assert "confused-pairs" not in anchors(out)
    assert rows_of(out / "errors.csv") == []


def test_one_class_in_the_data(tmp_path):
    found = predicted(classes=3)
    labels = np.zeros_like(found.labels)
    path, out = tmp_path / "p.tfrecord", tmp_path / "out"
    one = Predictions(found.ids, labels, found.scores, {})
    write_table(path, {SAVED_MODEL: one}, ("a", "b", "c"))
    result = run(path, "--out", out)
    assert result.exit_code == 0, result.output
    pairs = rows_of(out / "confusions.csv")
    assert {row["label"] for row in pairs} == {"a"}
    assert rows_of(out / "weak_slices.csv") == []


def test_slices_limit_the_search(table, tmp_path):
    result = run(table, "--slices", "lite", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert isinstance(result.exception, AnalysisError)
    assert str(result.exception) == "no slice 'lite'; did you mean light?"
    assert not (tmp_path / "out").exists()
    assert run(table, "--slices", "light", "--out", tmp_path / "out").exit_code == 0


def test_other_bad_input(table, old, tmp_path):
    result = run(table, "--map", "umap", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "takes pca or tsne, got" in result.output
    result = run(table, "--split", "validation,test", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "--split takes one split, got 'validation,test'" in " ".join(result.output.split())
    result = run(tmp_path / "nothing", "--out", tmp_path / "out")
    assert isinstance(result.exception, ComparisonError)
    result = run(old / "trained", "--data", old / "data", "--split", "dev", "--out", tmp_path / "o")
    assert result.exit_code == 1
    assert "dev" in str(result.exception)


def test_planted_duplicates_of_the_split_are_found(tmp_path):
    random = np.random.default_rng(5)

    def image(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    source = tmp_path / "images"
    pixels = [np.kron(random.integers(0, 256, (6, 6, 3)), np.ones((8, 8, 1))) for _ in range(30)]
    for number, one in enumerate(pixels[:24]):
        kind = ("a", "b")[number % 2]
        image(source / "train" / kind / f"{number}.png", one.astype(np.uint8))
    for number, one in enumerate(pixels[24:]):
        image(source / "test" / ("a", "b")[number % 2] / f"{number}.png", one.astype(np.uint8))
    near = np.clip(pixels[0] + random.normal(0, 2, pixels[0].shape), 0, 255).astype(np.uint8)
    image(source / "test" / "b" / "near.png", near)  # Its twin is labeled a.
    out = tmp_path / "data"
    result = CliRunner().invoke(app, ["ingest", "folder", str(source), "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = duplicates_of_split(out, "test")
    names = {one.kind: {one.location.filename, one.other.filename} for one in found}
    assert names == {"near_leakage": {"train/a/0.png", "test/b/near.png"}}
    assert len(found) == 1, "the pair is listed once, though its labels differ, too"
