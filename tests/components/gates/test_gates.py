"""Values, slices, budgets, agreement and recommendation, on handmade tables."""

import numpy as np
import pytest

from components.evaluation.columns import compare, differing
from components.gates import Gate, GateSettings, Verdict
from components.gates.agreement import AllImages
from components.gates.decide import judge, slice_rows
from components.gates.recommend import recommend, recommend_model
from components.gates.significance_gate import anomaly_gate
from components.gates.verdicts import overall
from trainers.config import ConfigError
from trainers.evaluation.predictions import Predictions

FIGURES = {
    "saved_model": {"latency_ms_p50": 2.0, "size_bytes": 900, "gzip_bytes": 800},
    "none_fp32": {"latency_ms_p50": 1.0, "size_bytes": 400, "gzip_bytes": 390},
    "ptq_int8": {"latency_ms_p50": 0.5, "size_bytes": 100, "gzip_bytes": 90},
    "pqat_int8": {"latency_ms_p50": 0.52, "size_bytes": 100, "gzip_bytes": 30},
    "qat_int8": {"latency_ms_p50": 0.5, "size_bytes": 100, "gzip_bytes": 60},
}
CLASSES = tuple(str(digit) for digit in range(10))
IMAGES = 400


def table(predictions_of, **accuracies):
    return {name: predictions_of(value) for name, value in accuracies.items()}


def failed(verdict):
    return {gate["name"] for gate in verdict["gates"] if not gate["passed"]}


def gate_of(verdict, name):
    (found,) = [gate for gate in verdict["gates"] if gate["name"] == name]
    return found


def changed(found, rows, to=None):
    """`found` with other predictions for `rows`: a wrong class, or the given one."""
    guess = found.scores.argmax(axis=1)
    guess[rows] = (found.labels[rows] + 1) % 10 if to is None else to
    return from_guess(guess, found)


def from_guess(guess, like):
    scores = np.full(like.scores.shape, 0.01, np.float32)
    scores[np.arange(len(guess)), guess] = 0.91
    return Predictions(like.ids, like.labels, scores, like.slices)


def shortened(found, images):
    slices = {key: values[:images] for key, values in found.slices.items()}
    return Predictions(found.ids[:images], found.labels[:images], found.scores[:images], slices)


def test_a_good_model_is_blessed_and_the_smallest_of_the_fast_variants_chosen(predictions_of):
    found = judge(
        table(predictions_of, saved_model=0.99, none_fp32=0.99, ptq_int8=0.99, pqat_int8=0.99),
        FIGURES,
        GateSettings(min_top1=0.95, min_slice_top1=0.9),
        classes=CLASSES,
    )
    assert found["blessed"]
    assert found["verdict"] == "held"
    assert found["recommended"] == "pqat_int8"
    assert "13.0x below float" in found["reason"]
    assert found["variants"]["pqat_int8"]["metrics"]["top1"][0] == pytest.approx(0.99)


def test_without_a_sound_variant_the_float_file_ships(predictions_of):
    accuracies = table(
        predictions_of, saved_model=0.99, none_fp32=0.99, ptq_int8=0.9, pqat_int8=0.9
    )
    found = judge(accuracies, FIGURES, GateSettings(), classes=CLASSES)
    assert found["recommended"] == "none_fp32"
    assert "no compressed variant" in found["reason"]


@pytest.mark.parametrize(
    ("settings", "gate"),
    [
        ({"min_top1": 0.999}, "value/top1"),
        ({"min_slice_top1": 0.999}, "slice/top1"),
        ({"max_latency_ms": 0.1}, "budget/latency_ms_p50"),
        ({"max_size_bytes": 10}, "budget/size_bytes"),
    ],
)
def test_each_gate_refuses(predictions_of, settings, gate):
    accuracies = table(predictions_of, saved_model=0.97, none_fp32=0.97)
    found = judge(accuracies, FIGURES, GateSettings(**settings), classes=CLASSES)
    assert not found["blessed"]
    assert found["verdict"] == "failed"
    assert failed(found) == {gate}


def test_other_checks_count(predictions_of):
    bad = Gate("serving/round_trip", 1.0, "<= 1e-5", Verdict.FAILED)
    accuracies = table(predictions_of, saved_model=0.99, none_fp32=0.99)
    found = judge(accuracies, FIGURES, GateSettings(), classes=CLASSES, checks=[bad])
    assert failed(found) == {"serving/round_trip"}


def test_a_boolean_is_not_a_verdict():
    held = Gate("a", 1.0, "", Verdict.HELD)
    failed_ = Gate("b", 1.0, "", Verdict.FAILED)
    open_ = Gate("c", 1.0, "", Verdict.UNDECIDED)
    waived = Gate("d", 1.0, "", Verdict.UNDECIDED, waived="accepted")
    assert overall([held, waived]) is Verdict.HELD
    assert overall([held, open_]) is Verdict.UNDECIDED
    assert overall([open_, failed_]) is Verdict.FAILED
    assert (open_.to_dict()["verdict"], open_.to_dict()["passed"]) == ("not decided", False)
    assert (waived.to_dict()["verdict"], waived.to_dict()["passed"]) == ("not decided", True)
    with pytest.raises(TypeError, match=r"Verdict.of\(met\)"):
        Gate("e", 1.0, "", True)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_top1": 95},
        {"max_drop": 0.0},
        {"min_agreement": -0.1},
        {"max_size_bytes": -1},
        {"undecided": "pass"},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=f"gates.{name} must be"):
        GateSettings(**settings)


def test_compare_is_paired(predictions_of):
    found = compare(predictions_of(0.9), predictions_of(0.95))
    assert found["top1"][0] == pytest.approx(-0.05)
    # 20 images changed, all in one direction: exact binomial, two-sided.
    assert found["mcnemar_p"] == pytest.approx(2 * 0.5**20)
    assert found["agreement"] == pytest.approx(0.95)


def test_slices_cover_every_example_once_per_key(predictions_of):
    rows = slice_rows(predictions_of(0.9), CLASSES)
    for key in ("class", "slice/brightness"):
        mine = [row for row in rows if row["key"] == key]
        assert sum(row["examples"] for row in mine) == 400
        hits = sum(row["examples"] * row["top1"][0] for row in mine)
        assert hits == pytest.approx(360)


# Agreement: a variant against its own float pass, counted in images.


def tied(found, row, gap=0.0):
    """`found` with two high scores on `row`, `gap` apart; the label has the higher one."""
    scores = found.scores.copy()
    label = found.labels[row]
    scores[row] = 0.01
    scores[row, label], scores[row, (label + 3) % 10] = 0.46, 0.46 - gap
    return Predictions(found.ids, found.labels, scores, found.slices)


def swapped(found, row):
    scores = found.scores.copy()
    label = found.labels[row]
    other = (label + 3) % 10
    scores[row, [label, other]] = scores[row, [other, label]]
    return Predictions(found.ids, found.labels, scores, found.slices)


@pytest.mark.parametrize(
    ("gap", "expected"), [(2e-6, (0, 1)), (5e-6, (0, 1)), (1e-4, (1, 0)), (0.3, (1, 0))]
)
def test_a_tie_between_two_runtimes_is_not_a_difference(predictions_of, gap, expected):
    first = tied(predictions_of(1.0), 7, gap)
    assert differing(first, swapped(first, 7)) == expected


def test_one_tie_among_fewer_than_1000_images_does_not_refuse_the_saved_model(predictions_of):
    first = tied(predictions_of(0.99), 7, 2e-6)
    accuracies = {"saved_model": swapped(first, 7), "none_fp32": first}
    found = judge(accuracies, FIGURES, GateSettings(), classes=CLASSES)
    assert found["blessed"], failed(found)
    assert "1 ties not counted" in gate_of(found, "agreement/saved_model")["detail"]


@pytest.mark.parametrize("images", [1, 16])
def test_a_saved_model_that_disagrees_with_tflite_is_refused(predictions_of, images):
    accuracies = table(predictions_of, none_fp32=0.97)
    accuracies["saved_model"] = changed(accuracies["none_fp32"], np.arange(images), to=3)
    assert (accuracies["saved_model"].labels[:images] != 3).any()
    found = judge(accuracies, FIGURES, GateSettings(), classes=CLASSES)
    assert failed(found) == {"agreement/saved_model"}


def test_a_retrained_variant_is_compared_with_its_own_float_pass(predictions_of):
    # Better than the float model by 4 points, on other images: 92 % agreement with it.
    float_file = predictions_of(0.90)
    wrong = np.flatnonzero(float_file.scores.argmax(1) != float_file.labels)
    right = np.flatnonzero(float_file.scores.argmax(1) == float_file.labels)
    guess = float_file.scores.argmax(1)
    guess[wrong[:24]] = float_file.labels[wrong[:24]]
    guess[right[:8]] = (float_file.labels[right[:8]] + 1) % 10
    better = from_guess(guess, float_file)
    assert compare(better, float_file)["top1"][0] == pytest.approx(0.04)
    assert compare(better, float_file)["agreement"] == pytest.approx(0.92)
    columns = {"saved_model": float_file, "none_fp32": float_file, "qat_int8": better}

    columns["float/qat"] = changed(better, np.arange(5))
    found = judge(columns, FIGURES, GateSettings(), classes=CLASSES)
    assert found["blessed"]
    assert found["recommended"] == "qat_int8"
    assert "float/qat" in gate_of(found, "agreement/float")["detail"]
    assert "float/qat" not in found["variants"]

    # As accurate as before, but unfaithful to its own float pass: not recommended.
    columns["float/qat"] = changed(better, np.arange(40))
    assert judge(columns, FIGURES, GateSettings(), classes=CLASSES)["recommended"] == "none_fp32"


def test_recommend_ignores_a_variant_that_disagrees_with_its_float_pass(predictions_of):
    accuracies = table(predictions_of, saved_model=0.9, none_fp32=0.9, ptq_int8=0.9, pqat_int8=0.9)
    wrong = np.flatnonzero(accuracies["none_fp32"].scores.argmax(1) != predictions_of(0.9).labels)
    guess = accuracies["none_fp32"].scores.argmax(1)
    guess[wrong] = (predictions_of(0.9).labels[wrong] + 2) % 10  # Also wrong, but another class.
    accuracies["ptq_int8"] = from_guess(guess, predictions_of(0.9))
    chosen = recommend(accuracies, FIGURES, GateSettings(min_agreement=0.95)).variant
    assert chosen == "pqat_int8"
    assert (
        recommend(
            accuracies,
            {**FIGURES, "pqat_int8": FIGURES["saved_model"]},
            GateSettings(min_agreement=0.95),
        ).variant
        == "none_fp32"
    )


# Agreement over all images excludes a drop that the test split cannot.


def test_a_post_training_variant_of_a_small_set_is_judged_by_all_images(predictions_of):
    few = {
        name: shortened(predictions_of(0.95), 40)
        for name in ("saved_model", "none_fp32", "ptq_int8")
    }
    alone = judge(few, FIGURES, GateSettings(), classes=CLASSES)
    assert alone["recommended"] == "none_fp32"
    counted = AllImages(images=300, total=300, differing={"ptq_int8": 0})
    found = judge(few, FIGURES, GateSettings(), classes=CLASSES, all_images=counted)
    assert found["recommended"] == "ptq_int8"
    gate = gate_of(found, "compression/top1_drop")
    # 1 - 0.025^(1/300), the exact bound of no disagreement among 300.
    assert (gate["verdict"], "any drop is at most 0.0122" in gate["detail"]) == ("held", True)
    # 3 of 300 give a bound of 2.9 points; a variant with new weights has no such bound.
    for name, differing_images in (("ptq_int8", 3), ("pqat_int8", 0)):
        columns = {**few, name: few["ptq_int8"]}
        counts = AllImages(images=300, total=300, differing={name: differing_images})
        other = judge(columns, FIGURES, GateSettings(), classes=CLASSES, all_images=counts)
        assert other["recommended"] == "none_fp32"


def test_an_undecided_variant_ships_only_if_accepted_and_not_lower(predictions_of):
    few = {
        name: shortened(predictions_of(0.95), 40)
        for name in ("saved_model", "none_fp32", "qat_int8")
    }
    accept = GateSettings(undecided="accept")
    assert judge(few, FIGURES, GateSettings(), classes=CLASSES)["recommended"] == "none_fp32"
    found = judge(few, FIGURES, accept, classes=CLASSES)
    assert found["recommended"] == "qat_int8"
    gate = gate_of(found, "compression/top1_drop")
    assert (gate["verdict"], gate["passed"]) == ("not decided", True)
    assert gate["waived"].startswith("accepted")
    few["qat_int8"] = changed(few["qat_int8"], [3])
    assert judge(few, FIGURES, accept, classes=CLASSES)["recommended"] == "none_fp32"


# Chosen on validation, confirmed on test.


def test_the_variant_is_chosen_on_validation(predictions_of):
    names = ("saved_model", "none_fp32", "ptq_int8", "pqat_int8")
    test = table(predictions_of, **dict.fromkeys(names, 0.97))
    validation = table(predictions_of, **dict.fromkeys(names, 0.97))
    validation["pqat_int8"] = predictions_of(0.80)
    assert recommend(test, FIGURES, GateSettings()).variant == "pqat_int8"
    choice = recommend(test, FIGURES, GateSettings(), validation=validation)
    assert (choice.variant, choice.split) == ("ptq_int8", "validation")
    assert "on 400 validation images" in choice.reason
    assert "no validation split" in recommend(test, FIGURES, GateSettings()).reason


def test_the_test_split_rejects_a_choice_with_a_reason(predictions_of):
    names = ("saved_model", "none_fp32", "ptq_int8", "pqat_int8")
    validation = table(predictions_of, **dict.fromkeys(names, 0.97))
    test = {**validation, "pqat_int8": predictions_of(0.90)}
    found = judge(test, FIGURES, GateSettings(), classes=CLASSES, validation=validation)
    assert found["blessed"]
    assert found["recommended"] == "ptq_int8"
    assert list(found["selection"]["unconfirmed"]) == ["pqat_int8"]
    assert "pqat_int8 was preferred, but the test split does not confirm it" in found["reason"]


def test_the_fastest_model_among_those_as_good_as_the_best_is_recommended(predictions_of):
    models = {"a": predictions_of(0.99), "b": predictions_of(0.985), "c": predictions_of(0.90)}
    latency = {"a": 3.0, "b": 2.0, "c": 1.0}
    chosen, reason = recommend_model(models, latency, GateSettings(), "validation")
    assert chosen == "b"
    assert "none more than 2 points below a (99.0% of 400 validation images)" in reason
    assert "provably less accurate: c" in reason
    few = {name: shortened(found, 60) for name, found in models.items()}
    few["c"] = few["a"] = shortened(predictions_of(1.0), 60)
    few["b"] = changed(few["a"], [3])
    chosen, reason = recommend_model(few, latency, GateSettings(), "test")
    assert (chosen, "not decided on these images: b, c" in reason) == ("a", True)


def test_anomalies_are_listed(tmp_path):
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    anomalies = anomalies_pb2.Anomalies()
    anomalies.anomaly_info["image/width"].description = "missing in 3 examples"
    for split, content in (("train", anomalies_pb2.Anomalies()), ("test", anomalies)):
        (tmp_path / f"Split-{split}").mkdir()
        (tmp_path / f"Split-{split}/SchemaDiff.pb").write_bytes(content.SerializeToString())
    gate = anomaly_gate(str(tmp_path))
    assert gate.verdict is Verdict.FAILED
    assert gate.detail == "test image/width: missing in 3 examples"
