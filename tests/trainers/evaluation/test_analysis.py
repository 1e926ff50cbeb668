"""The whole analysis of one model's predictions, against scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from trainers.evaluation.analysis import AnalysisError, AnalysisOptions, analyze
from trainers.evaluation.comparison import ModelPredictions

CLASSES = ("cat", "dog", "eel")


def predicted(count=300, classes=CLASSES, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(classes), count)
    logits = random.normal(0, 1, (count, len(classes)))
    logits[np.arange(count), labels] += 2
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slices = {
        "slice/age": random.choice(["0-2", "3-9", "10-19"], count).astype(object),
        "slice/light": random.choice(["dark", "bright"], count).astype(object),
        "slice/rare": np.array(["few"] * 9 + ["many"] * (count - 9), dtype=object),
    }
    return ModelPredictions(
        np.arange(count).astype(str), labels, scores, slices, name="model", classes=classes
    )


@pytest.fixture(scope="module")
def given():
    return predicted()


@pytest.fixture(scope="module")
def found(given):
    return analyze(given, AnalysisOptions(slices=["age", "slice/rare", "age*light"]))


def test_figures_of_classes_are_those_of_scikit_learn(given, found):
    report = metrics.classification_report(
        given.labels, given.predicted, target_names=CLASSES, output_dict=True
    )
    for index, one in enumerate(found.classes):
        expected = report[one.name]
        assert one.images == expected["support"]
        assert one.recall.value == pytest.approx(expected["recall"], abs=1e-9)
        assert one.precision.value == pytest.approx(expected["precision"], abs=1e-9)
        assert one.f1 == pytest.approx(expected["f1-score"], abs=1e-9)
        area = metrics.roc_auc_score(given.labels == index, given.scores[:, index])
        assert one.roc_area.value == pytest.approx(area, abs=1e-9)
        others = given.scores[given.labels != index, index]
        assert (others < one.threshold).mean() >= 0.95
    np.testing.assert_array_equal(
        found.confusion, metrics.confusion_matrix(given.labels, given.predicted)
    )
    assert found.metrics["top1"].value == pytest.approx(given.correct.mean())


def test_slices_crosses_and_small_slices(given, found):
    keys = list(dict.fromkeys(one.key for one in found.slices))
    assert keys == ["age", "rare", "age*light"]
    assert [one.value for one in found.slices if one.key == "age"] == ["0-2", "3-9", "10-19"]
    for one in found.slices:
        inside = np.ones(300, bool)
        for key, value in zip(one.key.split("*"), one.value.split(", "), strict=True):
            inside &= given.slices[f"slice/{key}"] == value
        assert one.images == inside.sum()
        if one.images >= 30:
            assert one.metrics["top1"].value == pytest.approx(given.correct[inside].mean())
        else:
            assert one.metrics == {}
    assert {one.value for one in found.slices if not one.metrics} >= {"few"}


def test_the_class_is_a_slice_also_in_crosses(given):
    found = analyze(given, AnalysisOptions(slices=["class", "light*class"])).slices
    assert {one.value for one in found if one.key == "class"} == set(CLASSES)
    for one in found:
        *light, name = one.value.split(", ")
        inside = given.labels == CLASSES.index(name)
        if light:
            inside &= given.slices["slice/light"] == light[0]
        assert one.images == inside.sum()
        assert one.metrics["top1"].value == pytest.approx(given.correct[inside].mean())


def test_a_slice_named_class_is_that_of_the_data(given):
    named = replace(given, slices={"slice/class": given.slices["slice/light"]})
    found = analyze(named, AnalysisOptions(slices=["class"])).slices
    assert [one.value for one in found] == ["bright", "dark"]


def test_rates_of_slices_are_those_of_their_images(given):
    keys = ["light", "rare", "class"]
    found = analyze(given, AnalysisOptions(slices=keys, positive="dog")).slice_rates
    assert [(one.key, one.value) for one in found] == [
        *(("light", value) for value in ("bright", "dark")),
        *(("rare", value) for value in ("few", "many")),
        *(("class", value) for value in CLASSES),
    ]
    bright, _, few, _, cat, dog, _ = found
    inside = given.slices["slice/light"] == "bright"
    actual, scores = given.labels[inside] == 1, given.scores[inside, 1]
    area, average = metrics.roc_auc_score, metrics.average_precision_score
    assert bright.roc_area.value == pytest.approx(area(actual, scores), abs=1e-9)
    assert bright.average_precision.value == pytest.approx(average(actual, scores), abs=1e-9)
    rates = bright.rates[49]
    assert rates.threshold == 0.5
    assert rates.recall.value == pytest.approx((scores[actual] >= 0.5).mean())
    assert rates.false_positive_rate.value == pytest.approx((scores[~actual] >= 0.5).mean())
    assert (few.images, few.rates, few.roc_area) == (9, [], None)
    assert few.note == "fewer than 30 images"
    assert (cat.note, cat.roc_area, cat.rates[0].recall) == ("no image of dog", None, None)
    assert (dog.note, dog.roc_area) == ("all images are of dog", None)
    assert dog.rates[0].false_positive_rate is None
    assert dog.rates[49].recall.value == pytest.approx(
        (given.scores[given.labels == 1, 1] >= 0.5).mean()
    )
    assert analyze(given).slice_rates == [], "three classes have no single positive one"


def test_all_slices_and_every_class_unless_chosen(given):
    found = analyze(given)
    assert {one.key for one in found.slices} == {"age", "light", "rare"}
    assert list(found.thresholds) == list(found.curves) == list(CLASSES)
    assert [rates.threshold for rates in found.thresholds["dog"]][::49] == [0.01, 0.5, 0.99]
    assert found.groups == []
    errors = np.flatnonzero(~given.correct)
    assert set(found.errors.tolist()) == set(errors.tolist())


def test_groups_of_a_positive_class(given):
    options = AnalysisOptions(groups=["age", "age*light"], positive="dog")
    found = analyze(given, options)
    assert [(one.key, one.positive) for one in found.groups] == [
        ("age", "dog"),
        ("age*light", "dog"),
    ]
    assert [group.name for group in found.groups[0].groups] == ["0-2", "3-9", "10-19"]
    inside = (given.slices["slice/age"] == "3-9") & (given.labels == 1)
    recall = found.groups[0].groups[1].rates["true_positive_rate"]
    assert recall.value == pytest.approx((given.predicted[inside] == 1).mean())
    assert list(found.thresholds) == ["dog"]


def test_groups_of_several_classes_begin_with_rates_that_need_no_positive_one(given):
    found = analyze(given, AnalysisOptions(groups=["age"])).groups
    assert [one.positive for one in found] == ["", *CLASSES]
    inside = given.slices["slice/age"] == "3-9"
    assert found[0].groups[1].rates["accuracy"].value == pytest.approx(given.correct[inside].mean())
    assert set(found[0].groups[1].rates) == {"accuracy", "overconfidence"}


def test_two_classes_have_one_positive():
    assert list(analyze(predicted(classes=("no", "yes"))).curves) == ["yes"]


def test_a_class_without_images_has_no_figures():
    given = predicted(classes=("cat", "dog", "eel", "owl"))
    labels = np.where(given.labels == 3, 0, given.labels)
    found = analyze(
        ModelPredictions(given.ids, labels, given.scores, {}, name="m", classes=given.classes)
    )
    owl = found.classes[3]
    assert (owl.images, owl.recall, owl.roc_area, owl.sensitivity) == (0, None, None, None)
    assert "owl" not in found.curves
    assert found.slices == []
    assert found.slices_tried == 0


def test_many_classes_have_curves_and_groups_of_a_positive_class_only():
    given = predicted(classes=tuple(f"class{i}" for i in range(101)))
    assert analyze(given).thresholds == {}
    (without,) = analyze(given, AnalysisOptions(groups=["age"])).groups
    assert without.positive == ""
    assert {gap.rate for gap in without.gaps} == {"accuracy", "overconfidence"}
    found = analyze(given, AnalysisOptions(groups=["age"], positive="class3"))
    assert list(found.curves) == ["class3"]
    assert found.groups[0].positive == "class3"
    assert found.classes[3].roc_area is not None
    assert found.classes[4].roc_area is None
    with pytest.raises(ValueError, match=r"`specificity` must be in \(0, 1\), got 95"):
        analyze(given, AnalysisOptions(specificity=95))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slices": ["agee"]}, "no slice 'agee'; did you mean age?"),
        ({"slices": ["age*lite"]}, "no slice 'lite'; did you mean light?"),
        ({"groups": ["race"]}, "no slice 'race'; "),
        ({"positive": "dogs"}, "no class 'dogs'; did you mean dog?"),
    ],
)
def test_what_does_not_exist_is_named_with_the_nearest(given, options, words):
    with pytest.raises(AnalysisError, match=words):
        analyze(given, AnalysisOptions(**options))
