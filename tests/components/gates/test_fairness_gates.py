"""Gates on gaps between groups, against SciPy's exact intervals, and their settings."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from components.gates import GateSettings, Verdict
from components.gates.decide import judge
from components.gates.fairness import fairness_figures, fairness_gates
from components.gates.settings import CRITERIA
from tfx_pipeline.config import PipelineConfig
from tfx_pipeline.request.settings import check_fairness, with_settings
from trainers.config import ConfigError
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.evaluation.predictions import Predictions

CLASSES = ("no", "yes")
FIGURES = {
    name: {"latency_ms_p50": 1.0, "size_bytes": 400, "gzip_bytes": 390}
    for name in ("saved_model", "none_fp32")
}


def predictions(*groups):
    """Of (name, images of each class, wrong `no`, wrong `yes`)."""
    labels, guess, names = [], [], []
    for name, images, wrong_no, wrong_yes in groups:
        labels += [0] * images + [1] * images
        guess += [1] * wrong_no + [0] * (images - wrong_no)
        guess += [0] * wrong_yes + [1] * (images - wrong_yes)
        names += [name] * (2 * images)
    scores = np.full((len(labels), 2), 0.1, np.float32)
    scores[np.arange(len(labels)), guess] = 0.9
    ids = np.array([f"{i:064x}" for i in range(len(labels))], dtype=object)
    slices = {"slice/race": np.array(names, dtype=object)}
    slices["slice/age"] = np.where(np.arange(len(labels)) % 2, "old", "young").astype(object)
    return Predictions(ids, np.array(labels, np.int32), scores, slices)


def gates(found, *criteria, classes=CLASSES, groups=("race",), **settings):
    chosen = GateSettings(fairness=criteria, fairness_groups=groups, **settings)
    return fairness_gates(fairness_figures(found, chosen, classes), chosen, "saved_model")


def interval(*shares):
    """The gap of two shares (hits, images), bounded by exact intervals at 97.5 %."""
    ends = [stats.binomtest(k, n).proportion_ci(0.975, method="exact") for k, n in shares]
    low = max(one.low for one in ends) - min(one.high for one in ends)
    return max(0.0, low), max(one.high for one in ends) - min(one.low for one in ends)


def test_no_group_of_equal_rates_is_highest():
    (gate,) = gates(predictions(("a", 500, 9, 4), ("b", 500, 9, 4)), "accuracy")
    assert gate.detail.startswith("2 groups have the same rate, 95 % interval of the gap 0.0000 to")
    assert "highest" not in gate.detail


@pytest.mark.parametrize(
    ("wrong", "max_gap", "verdict"),
    [
        (12, 0.15, Verdict.HELD),
        (150, 0.1, Verdict.FAILED),
        (55, 0.1, Verdict.UNDECIDED),
    ],
)
def test_equal_opportunity_has_three_verdicts(wrong, max_gap, verdict):
    found = predictions(("a", 500, 90, 10), ("b", 500, 0, wrong))
    low, high = interval((490, 500), (500 - wrong, 500))
    (gate,) = gates(found, "equal_opportunity", max_gap=max_gap)
    expected = (
        Verdict.HELD if high <= max_gap else Verdict.FAILED if low > max_gap else Verdict.UNDECIDED
    )
    assert gate.verdict is verdict is expected
    assert gate.value == pytest.approx((wrong - 10) / 500)
    assert (gate.name, gate.slice) == ("fairness/equal_opportunity", "race")
    assert gate.threshold == f"a gap above {max_gap:g} excluded"
    assert f"95 % interval of the gap {low:.4f} to {high:.4f}" in gate.detail
    assert "positive class yes" in gate.detail
    assert bool(gate.images_needed) == (verdict is Verdict.UNDECIDED)


def test_each_criterion_has_its_own_rate():
    # Equal errors, but of different kinds: only the accuracy is equal.
    found = predictions(("a", 2000, 400, 0), ("b", 2000, 0, 400))
    verdicts = {gate.name.removeprefix("fairness/"): gate for gate in gates(found, *CRITERIA)}
    assert {name: gate.verdict.value for name, gate in verdicts.items()} == {
        "accuracy": "held",
        "equal_opportunity": "failed",
        "equalized_odds": "failed",
        "demographic_parity": "failed",
    }
    assert verdicts["demographic_parity"].value == pytest.approx(0.2)
    assert "positive class" not in verdicts["accuracy"].detail
    # The other class: errors on `no` count, and parity is the same.
    other = {gate.name: gate for gate in gates(found, *CRITERIA, fairness_positive="no")}
    assert other["fairness/equal_opportunity"].value == pytest.approx(0.2)
    assert "positive class no" in other["fairness/equal_opportunity"].detail


def test_an_undecided_gap_passes_only_where_the_estimate_is_within_the_margin():
    above = predictions(("a", 100, 0, 0), ("b", 100, 0, 15))
    below = predictions(("a", 100, 0, 0), ("b", 100, 0, 5))
    for found, acceptable in ((above, False), (below, True)):
        (refused,) = gates(found, "equal_opportunity")
        (accepted,) = gates(found, "equal_opportunity", undecided="accept")
        assert refused.verdict is accepted.verdict is Verdict.UNDECIDED
        assert refused.acceptable is accepted.acceptable is acceptable
        assert not refused.passed
        assert accepted.passed is acceptable
        assert ("--accept-undecided lets it pass" in refused.detail) is acceptable
        assert ("above the margin, so it cannot" in accepted.detail) is not acceptable
        assert f"about {refused.images_needed:,} images would decide it" in refused.detail


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([("a", 100, 0, 0)], "all images are of one group, a"),
        (
            [("a", 100, 0, 0), ("b", 1, 0, 0)],
            "1 of 2 groups have 30 images for this rate, and a gap needs two: "
            "a (200 images), b (2 images)",
        ),
        ([("a", 1, 0, 0), ("b", 1, 1, 1)], "0 of 2 groups have 30 images"),
        # 58 images, but only 29 of the positive class.
        ([("a", 29, 0, 0), ("b", 29, 0, 0)], "0 of 2 groups have 30 images for this rate"),
    ],
)
def test_too_few_groups_are_not_decided(groups, words):
    (gate,) = gates(predictions(*groups), "equal_opportunity", undecided="accept")
    assert gate.verdict is Verdict.UNDECIDED
    assert gate.value is None
    assert not gate.passed
    assert words in gate.detail
    assert "no estimate, so it cannot be accepted" in gate.detail
    assert (gate.images_needed > 0) == (len(groups) > 1)


def test_small_groups_are_listed_and_not_judged():
    found = predictions(("a", 2000, 0, 0), ("b", 2000, 0, 0), ("two", 1, 1, 1))
    (gate,) = gates(found, "accuracy")
    assert gate.verdict is Verdict.HELD
    assert "not compared: two (2 images); groups with fewer than 30 images" in gate.detail


def test_crosses_and_several_keys():
    found = predictions(("a", 500, 0, 0), ("b", 500, 0, 0))
    both = gates(found, "accuracy", groups=("race", "race*age"))
    assert [gate.slice for gate in both] == ["race", "race*age"]
    assert {gate.name for gate in both} == {"fairness/accuracy"}


def test_one_class_in_the_labels_has_no_false_positive_rate():
    found = predictions(("a", 100, 0, 0), ("b", 100, 0, 0))
    found = replace(found, labels=np.ones_like(found.labels))
    (gate,) = gates(found, "equalized_odds")
    assert (gate.verdict, gate.images_needed) == (Verdict.UNDECIDED, 0)


def test_the_verdict_of_a_model_has_the_gates_and_the_figures():
    found = predictions(("a", 500, 0, 0), ("b", 500, 0, 150))
    table = dict.fromkeys(("saved_model", "none_fp32"), found)
    chosen = GateSettings(fairness=("equal_opportunity",), fairness_groups=("race",))
    verdict = judge(table, FIGURES, chosen, classes=CLASSES)
    assert [gate["name"] for gate in verdict["gates"] if not gate["passed"]] == [
        "fairness/equal_opportunity"
    ]
    assert verdict["verdict"] == "failed"
    (figures,) = json.loads(json.dumps(verdict))["fairness"]
    assert [group["rates"]["true_positive_rate"][0] for group in figures["groups"]] == [1.0, 0.7]
    assert verdict["max_gap"] == 0.1
    without = judge(table, FIGURES, GateSettings(), classes=CLASSES)
    assert without["fairness"] == []
    assert not any(gate["name"].startswith("fairness/") for gate in without["gates"])


def info(classes=CLASSES, slices=("slice/race", "slice/age")):
    return DatasetInfo(
        "faces", "classification", classes, 0, {"test": SplitInfo(1, 1, {})}, "", slices=slices
    )


def checked(*overrides, model_gates=None, **facts):
    pipeline = PipelineConfig("p", ("digits_cnn",), model_gates=model_gates or {})
    changed, _ = with_settings(pipeline, overrides)
    check_fairness(changed, info(**facts))
    return GateSettings(**json.loads(json.dumps(changed.gates_of("digits_cnn"))))


def test_settings_of_the_command_line():
    found = checked(
        "gates.fairness=equal_opportunity,accuracy",
        "gates.fairness_groups=race, slice/race*age",
        "gates.fairness_positive=yes",
        "gates.max_gap=0.2",
    )
    assert found.fairness == ("equal_opportunity", "accuracy")
    assert found.fairness_groups == ("race", "slice/race*age")
    assert (found.fairness_positive, found.max_gap) == ("yes", 0.2)
    # As a pipeline's file may state them.
    given = {"fairness": "accuracy", "fairness_groups": "race,age"}
    expected = {"fairness": ("accuracy",), "fairness_groups": ("race", "age")}
    assert expected.items() <= asdict(GateSettings(**given)).items()


MANY = {"classes": ("cat", "dog", "eel")}


@pytest.mark.parametrize(
    ("overrides", "facts", "words"),
    [
        (["fairness=equal_oportunity"], {}, "unknown criterion 'equal_oportunity'; did you mean"),
        (["max_gap=10"], {}, r"gates.max_gap must be in \(0, 1\], got 10.0; 10 points"),
        (["max_gap=0"], {}, r"gates.max_gap must be in \(0, 1\], got 0"),
        (["fairness=accuracy"], {}, "needs gates.fairness_groups.*the data set has race, age"),
        (
            ["fairness_groups=race"],
            {},
            "gates.fairness_groups has no effect without",
        ),
        (["fairness_positive=yes"], {}, "gates.fairness_positive has no effect"),
        (["fairness=accuracy", "fairness_groups=rase"], {}, "no slice 'rase'; did you mean race"),
        (
            ["fairness=accuracy", "fairness_groups=age*rcae"],
            {},
            "no slice 'rcae'; did you mean",
        ),
        (
            ["fairness=accuracy", "fairness_groups=race", "fairness_positive=yess"],
            {},
            "gates.fairness_positive: no class 'yess'; did you mean yes",
        ),
        (
            ["fairness=accuracy,equalized_odds", "fairness_groups=race"],
            MANY,
            "equalized_odds of 3 classes needs gates.fairness_positive, one of cat, dog, eel",
        ),
    ],
)
def test_mistakes_are_found_before_training(overrides, facts, words):
    with pytest.raises(ConfigError, match=words):
        checked(*(f"gates.{one}" for one in overrides), **facts)


def test_accuracy_of_many_classes_needs_no_positive_class():
    assert checked("gates.fairness=accuracy", "gates.fairness_groups=race", **MANY).fairness


def test_the_gates_of_single_models_are_checked_too():
    own = {"digits_cnn": {"fairness": "accuracy", "fairness_groups": "rase"}}
    with pytest.raises(ConfigError, match="no slice 'rase'"):
        checked(model_gates=own)
