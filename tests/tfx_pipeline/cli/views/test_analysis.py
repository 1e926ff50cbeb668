"""`sightline evaluate --out` on real predictions and on a real model."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics
from typer.testing import CliRunner

from core import figures
from core.bundle import SAVED_MODEL
from tfx_pipeline.cli import app
from tfx_pipeline.cli.shared import console
from trainers.data.features import DatasetInfo
from trainers.evaluation.analysis import AnalysisError
from trainers.evaluation.predictions import Predictions, write_table
from trainers.training.evaluate import predict_trained
from trainers.training.forward import Forward
from trainers.training.trained import load_trained

ENDS = ("estimate", "low", "high")
CLASSES = ("no [small]", "yes")
FILES = {
    *(
        "index.html",
        "evaluation.json",
        "classes.csv",
        "confusion.csv",
        "slices.csv",
        "groups.csv",
        "gaps.csv",
    ),
    *("calibration.csv", "thresholds.csv", "curves.csv", "errors.csv", "suspect_labels.csv"),
    *("slice_areas.csv", "slice_thresholds.csv"),
}


@pytest.fixture(scope="module")
def predicted():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400).astype(np.int32)
    first = np.clip(np.where(labels == 1, 0.7, 0.3) + random.normal(0, 0.2, 400), 0.01, 0.99)
    scores = np.stack([1 - first, first], axis=1).astype(np.float32)
    slices = {
        "slice/age": random.choice(["3-9", "10-19"], 400).astype(object),
        "slice/light": random.choice(["dark", "bright"], 400).astype(object),
    }
    ids = np.array([f"{i:064d}" for i in range(400)], dtype=object)
    return Predictions(ids, labels, scores, slices)


@pytest.fixture
def table(predicted, tmp_path):
    path = tmp_path / "predictions.tfrecord"
    write_table(path, {SAVED_MODEL: predicted}, CLASSES)
    return path


def evaluate(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def slice_of(predicted, key, value):
    inside = np.ones(len(predicted.labels), bool)
    for name, part in zip(key.split("*"), value.split(", "), strict=True):
        inside &= predicted.slices[f"slice/{name}"] == part
    return inside


def test_all_files_agree_with_scikit_learn(table, predicted, tmp_path):
    out = tmp_path / "out"
    options = ("--groups", "age,age*light", "--slices", "light,age*light", "--positive", "yes")
    result = evaluate(table, "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert {file.name for file in out.iterdir()} == FILES
    guess = predicted.scores.argmax(1)
    found = json.loads((out / "evaluation.json").read_text())
    assert found["images"] == 400
    assert found["metrics"]["top1"][0] == pytest.approx((guess == predicted.labels).mean())
    assert found["confusion"] == metrics.confusion_matrix(predicted.labels, guess).tolist()
    areas = [float(row["roc_area"]) for row in rows_of(out / "classes.csv")]
    area = metrics.roc_auc_score(predicted.labels, predicted.scores[:, 1])
    assert areas == pytest.approx([area, area])
    light = {row["value"] for row in rows_of(out / "slices.csv") if row["key"] == "light"}
    assert light == {"dark", "bright"}
    for row in rows_of(out / "slice_areas.csv"):
        inside = slice_of(predicted, row["key"], row["value"])
        area = metrics.roc_auc_score(predicted.labels[inside], predicted.scores[inside, 1])
        assert float(row["roc_area"]) == pytest.approx(area, abs=1e-6)
    rows = [row for row in rows_of(out / "slice_thresholds.csv") if row["threshold"] == "0.4"]
    assert {row["value"] for row in rows} == {"dark", "bright"} | {
        f"{age}, {light}" for age in ("3-9", "10-19") for light in ("dark", "bright")
    }
    for row in rows:
        inside = slice_of(predicted, row["key"], row["value"])
        called, actual = predicted.scores[inside, 1] >= 0.4, predicted.labels[inside] == 1
        assert float(row["recall"]) == pytest.approx(called[actual].mean())
        assert float(row["false_positive_rate"]) == pytest.approx(called[~actual].mean())
        assert float(row["precision"]) == pytest.approx(actual[called].mean())
    row = rows_of(out / "thresholds.csv")[49]
    assert row["threshold"] == "0.5"
    called = predicted.scores[:, 1] >= 0.5
    assert float(row["recall"]) == pytest.approx(called[predicted.labels == 1].mean())
    groups = [row["group"] for row in rows_of(out / "groups.csv") if row["rate"] == "accuracy"]
    assert groups[:2] == ["3-9", "10-19"]
    assert len(groups) == 2 + 4
    assert {row["key"] for row in rows_of(out / "gaps.csv")} == {"age", "age*light"}
    gap = rows_of(out / "gaps.csv")[0]
    assert (gap["rate"], gap["compared"], gap["left_out"]) == ("accuracy", "2", "")
    errors = rows_of(out / "errors.csv")
    assert len(errors) == (guess != predicted.labels).sum() == found["errors"]
    scores = [float(row["score"]) for row in errors]
    assert scores == sorted(scores, reverse=True)
    page = (out / "index.html").read_text()
    assert f"<dt>top-1</dt><dd><b>{100 * found['metrics']['top1'][0]:.1f} %" in page
    assert "The records are not known: give their folder with --data." in page
    assert found["lineage"]["model"] == found["model"] == str(table)
    assert f"<h1>{table.parent.name}/predictions.tfrecord</h1>" in page
    assert found["lineage"]["split"] == "test, 400 images"
    assert "age, positive: yes" in result.output
    assert "no [small]" in result.output, "brackets are no markup"
    assert "micro" not in result.output


def test_small_groups_are_shown_and_explained(predicted, tmp_path):
    age = predicted.slices["slice/age"].copy()
    age[:2] = "old [2]"
    age[2:9] = ""
    path = tmp_path / "few.tfrecord"
    slices = predicted.slices | {"slice/age": age, "slice/one": np.full(400, "all", object)}
    write_table(path, {SAVED_MODEL: replace(predicted, slices=slices)}, CLASSES)
    result = evaluate(path, "--out", tmp_path / "out", "--groups", "age,one")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "not compared: not recorded (7); old [2] (2), see groups.csv" in text
    assert "groups with fewer than 30 images are shown, not compared" in text
    assert "no gap between groups of one: fewer than two have 30 images" in text
    notes = {row["group"]: row["note"] for row in rows_of(tmp_path / "out" / "groups.csv")}
    assert "with 2 images an interval is about" in notes["old [2]"]
    assert notes["not recorded"] == "no value: shown, not compared"
    assert notes["3-9"] == ""
    (gap, *_) = rows_of(tmp_path / "out" / "gaps.csv")
    assert (gap["compared"], gap["left_out"]) == ("2", "not recorded; old [2]")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["groups"][0]
    assert "fewer than 30 images" in found["minimum"]
    assert len(found["limits"]) == 5


@pytest.mark.parametrize("width", [60, 120])
def test_intervals_of_groups_stay_on_one_line(predicted, tmp_path, monkeypatch, width):
    race = np.array(["Southeast Asian", "Middle Eastern"], object)[np.arange(400) % 2]
    predicted = replace(predicted, slices=predicted.slices | {"slice/race": race})
    path = tmp_path / "predictions.tfrecord"
    write_table(path, {SAVED_MODEL: predicted}, CLASSES)
    monkeypatch.setattr(console, "_width", width)
    result = evaluate(path, "--out", tmp_path / "out", "--groups", "race*age", "--slices", "age")
    assert result.exit_code == 0, result.output
    rates = {
        (row["group"], row["rate"]): [f"{100 * float(row[end]):.1f}" for end in ENDS]
        for row in rows_of(tmp_path / "out" / "groups.csv")
    }
    shown = ("accuracy", "true_positive_rate", "false_positive_rate", "positive_rate")
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    for group in ("Southeast Asian, 3-9", "Middle Eastern, 10-19"):
        cells = [rates[group, rate] for rate in (*shown, "overconfidence")]
        row = " ".join(f"{value} [{low}, {high}]" for value, low, high in cells)
        assert [line for line in lines if line.endswith(row)], (row, lines)


def test_groups_with_equal_rates_have_no_highest(tmp_path):
    count = 160
    scores = np.where(np.arange(2) == np.arange(count)[:, None] % 2, 0.75, 0.25)
    slices = {"slice/side": np.repeat(np.array(["left", "right"], object), count // 2)}
    ids = np.array([f"{i:064d}" for i in range(count)], object)
    labels = np.arange(count, dtype=np.int32) % 2
    path = tmp_path / "predictions.tfrecord"
    found = Predictions(ids, labels, scores.astype(np.float32), slices)
    write_table(path, {SAVED_MODEL: found}, CLASSES)
    result = evaluate(path, "--out", tmp_path / "out", "--groups", "side")
    assert result.exit_code == 0, result.output
    (line,) = [one for one in result.output.splitlines() if one.startswith("equalized odds")]
    assert line.split()[-2:] == [figures.DASH] * 2
    page = (tmp_path / "out" / "index.html").read_text()
    assert "left" not in page.split("Gaps of side")[1].split("</table>")[0]
    gaps = rows_of(tmp_path / "out" / "gaps.csv")
    assert "\nfalse positive rate " in result.output
    assert "false_positive_rate" not in result.output
    assert "false_positive_rate" in {row["rate"] for row in gaps}
    assert {(row["highest"], row["lowest"]) for row in gaps} == {("left", "left")}


def test_small_slices_are_one_line_for_each_key(predicted, tmp_path):
    camera = np.array([f"c{i % 40}" for i in range(400)], object)
    camera[:100] = "c0"
    odd = np.where(np.arange(400) < 5, "odd", "even").astype(object)
    slices = predicted.slices | {"slice/camera": camera, "slice/odd": odd}
    path = tmp_path / "predictions.tfrecord"
    write_table(path, {SAVED_MODEL: replace(predicted, slices=slices)}, CLASSES)
    result = evaluate(path, "--out", tmp_path / "out", "--slices", "camera,odd")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    small = [row for row in rows_of(tmp_path / "out" / "slices.csv") if row["metric"] == ""]
    images = sum(int(row["images"]) for row in small if row["key"] == "camera")
    assert len(small) == 39 + 1
    assert f"camera {images} 39 values with fewer than 30 images: slices.csv" in lines
    assert "odd=odd 5 fewer than 30 images" in lines
    assert result.output.count("fewer than 30 images") == 2
    assert [line for line in lines if line.startswith("camera=c0 ")]


def test_a_bundle_is_analyzed_on_its_records_with_file_names(earlier, tmp_path):
    old = earlier("b54914a")
    out = tmp_path / "out"
    options = ("--variant", "ptq_int8", "--data", old / "data", "--out", out)
    result = evaluate(old / "bundles/tiny/1", *options)
    assert result.exit_code == 0, result.output
    found = json.loads((out / "evaluation.json").read_text())
    assert found["model"].endswith("ptq_int8")
    assert {one["name"] for one in found["classes"]} == {str(i) for i in range(10)}
    assert all(row["file"] for row in rows_of(out / "errors.csv"))


@pytest.mark.onednn
@pytest.mark.parametrize("subject", ["trained", "bundles/tiny/1"])
def test_several_splits_are_evaluated_as_one(earlier, tmp_path, subject):
    old = earlier("b54914a")
    options = ("--data", old / "data", "--out")
    counts, right = {}, {}
    for split in ("validation", "test", "validation,test"):
        result = evaluate(old / subject, "--split", split, *options, tmp_path / split)
        assert result.exit_code == 0, result.exception
        found = json.loads((tmp_path / split / "evaluation.json").read_text())
        counts[split] = found["images"]
        right[split] = np.trace(found["confusion"])
        assert all(row["file"] for row in rows_of(tmp_path / split / "errors.csv"))
    assert counts["validation,test"] == counts["validation"] + counts["test"]
    assert right["validation,test"] == right["validation"] + right["test"]
    result = evaluate(old / subject, "--split", "test,test", *options, tmp_path / "out")
    assert "give different splits" in str(result.exception)


@pytest.mark.onednn
def test_a_small_split_is_not_padded_to_the_batch_of_the_model(earlier, monkeypatch):
    old, sizes = earlier("b54914a"), []
    run = Forward.__call__

    def counted(self, images):
        sizes.append(len(images))
        return run(self, images)

    monkeypatch.setattr(Forward, "__call__", counted)
    trained = load_trained(old / "trained")
    large = replace(trained.config, eval=replace(trained.config.eval, batch=24))
    count = DatasetInfo.load(old / "data").splits["test"].examples
    found = predict_trained(replace(trained, config=large), old / "data", "test")
    assert len(found.ids) == count == 30
    assert sizes == [15, 15]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--slices", "lite"), "no slice 'lite'; did you mean light?"),
        (("--groups", "xyz"), "no slice 'xyz'; known: age, class, light"),
        (("--positive", "yess"), "no class 'yess'; did you mean yes?"),
    ],
)
def test_what_does_not_exist_is_named(table, tmp_path, options, words):
    result = evaluate(table, "--out", tmp_path / "out", *options)
    assert result.exit_code == 1
    assert isinstance(result.exception, AnalysisError)
    assert words in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_report_is_another_name_of_out(table, tmp_path):
    result = evaluate(table, "--report", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "out/index.html" in result.output.replace("\n", "")
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES


def test_options_of_the_analysis_need_a_folder(table):
    result = evaluate(table, "--slices", "light", "--tfma")
    assert result.exit_code == 2
    assert "need --out FOLDER: --slices, --tfma" in result.output
    assert "--groups" not in result.output
