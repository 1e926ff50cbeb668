"""The figures of the sections agree with scikit-learn, and small slices have none."""

import re

import numpy as np
import pytest
from sklearn import metrics

from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.sections import sections
from trainers.evaluation.analysis import AnalysisOptions, analyze
from trainers.evaluation.comparison import ModelPredictions

NAMES = ("cat", "dog")


@pytest.fixture
def section(make_evaluation):
    """Makes a section of 300 images of two classes."""
    return lambda name, evaluation=None: sections.get(name)(evaluation or make_evaluation())


@pytest.fixture
def many(predictions):
    """An evaluation of 400 images and eight classes."""
    model = predictions(tuple("abcdefgh"), 400)
    return Evaluation(analyze(model), model, "test")


def percent(value):
    return f"{value * 100:.1f} %"


def test_the_summary_has_each_metric_of_the_registry(section, make_evaluation):
    model = make_evaluation().model
    body = section("summary").body
    tiles = dict(re.findall(r"<dt>([^<]+)</dt><dd><b>([^<]+)</b>", body))

    assert tiles["top-1"] == percent(metrics.accuracy_score(model.labels, model.predicted))
    f1 = metrics.f1_score(model.labels, model.predicted, average="macro")
    assert tiles["macro F1"] == percent(f1)
    loss = -np.log(model.scores[np.arange(300), model.labels]).mean()
    assert tiles["cross entropy"] == f"{loss:.3f}"
    assert "top-5" not in tiles
    assert "micro" not in body
    assert "in nats, lower is better" in body


def test_top5_is_shown_with_more_classes(section, many):
    assert "<dt>top-5</dt>" in section("summary", many).body


def test_each_class_has_its_figures(section, make_evaluation, tables_of):
    model = make_evaluation().model
    ((header, *rows),) = tables_of(section("classes").body)

    assert [row[0] for row in rows] == list(NAMES)
    guess = model.predicted
    precision, recall, f1, images = metrics.precision_recall_fscore_support(model.labels, guess)
    for i, row in enumerate(rows):
        cells = dict(zip(header, row, strict=True))
        assert cells["images"] == str(images[i])
        assert cells["recall"].startswith(percent(recall[i]))
        assert cells["precision"].startswith(percent(precision[i]))
        assert cells["F1"] == f"{f1[i]:.3f}"
        area = metrics.roc_auc_score(model.labels == i, model.scores[:, i])
        assert cells["ROC area"].startswith(percent(area))
        average = metrics.average_precision_score(model.labels == i, model.scores[:, i])
        assert cells["average precision"].startswith(percent(average))
        false, true, _ = metrics.roc_curve(
            model.labels == i, model.scores[:, i], drop_intermediate=False
        )
        sensitivity = true[false <= 0.05 + 1e-12].max()
        assert cells["sensitivity at 95 % specificity"].startswith(percent(sensitivity))


def test_columns_that_no_class_has_are_left_out(predictions, section, tables_of):
    model = predictions(tuple(f"c{i}" for i in range(101)), 300)
    found = section("classes", Evaluation(analyze(model), model, "test"))
    assert tables_of(found.body)[0][0] == ["class", "images", "recall", "precision", "F1"]
    assert "With more than 100 classes" in found.lead
    assert "No curves" in section("curves", Evaluation(analyze(model), model, "test")).body


def test_ages_are_in_order_and_few_images_are_said_to_be_few(section, make_evaluation, tables_of):
    model = make_evaluation().model
    ((header, *rows),) = tables_of(section("slices").body)

    ages = model.slices["slice/age"]
    assert [row[0] for row in rows] == ["0-2", "3-9", "10-19", "20-29"]
    assert [int(row[1]) for row in rows] == [(ages == row[0]).sum() for row in rows]
    assert rows[0][2:] == ["fewer than 30 images"]
    for row in rows[1:]:
        assert row[2].startswith(percent(model.correct[ages == row[0]].mean()))
        assert len(row) == len(header)


def test_a_cross_of_many_small_slices_lists_them(section, predictions):
    model = predictions(NAMES, 200)
    model.slices["slice/camera"] = np.array([f"c{i % 10}" for i in range(200)], object)
    found = analyze(model, AnalysisOptions(slices=("age*camera",)))
    body = section("slices", Evaluation(found, model, "test")).body

    small = [one for one in found.slices if not one.metrics]
    assert len(small) == len(found.slices) > 20
    assert f"<summary>{len(small)} values with fewer than 30 images</summary>" in body
    assert f"{small[0].value} ({small[0].images})" in body
    assert "<table" not in body


def test_weak_slices_have_adjusted_p_values(section, tables_of):
    random = np.random.default_rng(0)
    dark = np.arange(400) < 100
    labels = random.integers(0, 2, 400).astype(np.int32)
    right = np.where(dark, random.random(400) < 0.6, random.random(400) < 0.95)
    guess = np.where(right, labels, 1 - labels)
    scores = np.where(np.arange(2) == guess[:, None], 0.9, 0.1).astype(np.float32)
    slices = {"slice/light": np.where(dark, "dark", "bright").astype(object)}
    ids = np.array([f"{i:064x}" for i in range(400)], object)
    model = ModelPredictions(ids, labels, scores, slices, "m", NAMES)

    found = section("weak-slices", Evaluation(analyze(model), model, "test"))

    ((_, row, *others),) = tables_of(found.body)
    assert row[:2] == ["light=dark", "100"]
    assert row[3] == percent(right[~dark].mean())
    assert float(row[5]) < 1e-6
    assert not others
    assert "Slices below 0.05: 1." in found.lead


def test_calibration_has_a_point_per_bin(section, make_evaluation):
    model = make_evaluation().model
    body = section("calibration").body
    confidence = model.scores.max(axis=1)
    bins = np.unique(np.clip(np.ceil(confidence * 15), 1, 15))
    assert body.count("<circle") == len(bins)
    highest = np.ceil(confidence * 15) == 15
    text = f"{highest.sum()} images: confidence {percent(confidence[highest].mean())}"
    assert f"{text}, accuracy {percent(model.correct[highest].mean())}" in body


def test_curves_have_their_areas(section, make_evaluation, many):
    model = make_evaluation().model
    body = section("curves").body
    area = metrics.roc_auc_score(model.labels == 1, model.scores[:, 1])
    average = metrics.average_precision_score(model.labels == 1, model.scores[:, 1])
    assert re.search(rf"<b>dog</b>: ROC area {area:.3f} \(.*average precision {average:.3f}", body)

    found = section("curves", many)
    areas = [
        metrics.roc_auc_score(many.model.labels == i, s) for i, s in enumerate(many.model.scores.T)
    ]
    worst = [many.classes[i] for i in np.argsort(areas)[:6]]
    assert re.findall(r"<b>(\w)</b>", found.body) == worst
    assert "The 6 of 8 classes with the smallest ROC area" in found.lead


def test_thresholds_have_their_rates(section, make_evaluation, tables_of):
    model = make_evaluation().model
    ((_, *rows),) = tables_of(section("thresholds").body)
    row = next(row for row in rows if row[0] == "0.50")
    called, ours = model.scores[:, 1] >= 0.5, model.labels == 1
    assert row[1].startswith(percent(ours[called].mean()))
    assert row[2].startswith(percent(called[ours].mean()))
    assert row[3].startswith(percent(called[~ours].mean()))
    assert row[4].startswith(percent((~called)[ours].mean()))


def test_slices_have_the_rates_of_each_threshold(section, make_evaluation, tables_of):
    model = make_evaluation().model
    found = section("slice-rates")
    tables = tables_of(found.body)
    assert len(tables) == 3
    assert [row[0] for row in tables[0][1:]] == ["age=3-9", "age=10-19", "age=20-29"]
    assert "fewer than 30 images: 1." in found.lead
    for (_, *rows), threshold in zip(tables, (0.25, 0.5, 0.75), strict=True):
        for row in rows:
            inside = model.slices["slice/age"] == row[0].removeprefix("age=")
            ours, scores = model.labels[inside] == 1, model.scores[inside, 1]
            assert row[3].startswith(percent(metrics.roc_auc_score(ours, scores)))
            assert row[5].startswith(percent(ours[scores >= threshold].mean()))
            assert row[6].startswith(percent((scores >= threshold)[ours].mean()))
            assert row[7].startswith(percent((scores >= threshold)[~ours].mean()))
