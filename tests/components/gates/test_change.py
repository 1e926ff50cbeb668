"""Gates against the live model and the best ever pushed; constant and collapsed variants."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from components.evaluation.predict_variants import BASELINE, BEST
from components.gates import GateSettings, Verdict
from components.gates.change import change_gates
from components.gates.decide import judge
from trainers.evaluation.predictions import Predictions

CLASSES = tuple(str(digit) for digit in range(10))
COST = {"latency_ms_p50": 1.0, "size_bytes": 1000, "gzip_bytes": 1000}


def predictions(guess, labels):
    scores = np.full((len(labels), 10), 0.01, np.float32)
    scores[np.arange(len(labels)), guess] = 0.91
    ids = np.array([f"{i:064x}" for i in range(len(labels))], dtype=object)
    return Predictions(ids, labels.astype(np.int32), scores, {})


def candidate(images, wrong, labels=None):
    """A column that is wrong on exactly the images of `wrong`."""
    labels = np.arange(images) % 10 if labels is None else labels
    guess = labels.copy()
    guess[list(wrong)] = (labels[list(wrong)] + 1) % 10
    return predictions(guess, labels)


def judged(column, *, settings=None, **others):
    table = {"saved_model": column, "none_fp32": column, **others}
    figures = dict.fromkeys(table, COST)
    return judge(table, figures, settings or GateSettings(), classes=CLASSES)


def gates(found):
    return {gate["name"]: gate for gate in found["gates"]}


def stopping(found):
    return {gate["name"]: gate["verdict"] for gate in found["gates"] if not gate["passed"]}


ACCEPT = GateSettings(undecided="accept")


def test_a_first_push_needs_the_absolute_gates_only():
    found = judged(candidate(18, [3]))
    assert found["blessed"]
    assert not any(name.startswith("change/") for name in gates(found))


def test_a_model_below_the_live_one_fails_even_if_undecided_is_accepted():
    found = judged(candidate(400, range(40)), baseline=candidate(400, range(4)), settings=ACCEPT)
    assert stopping(found) == {"change/top1": "failed"}
    assert found["verdict"] == "failed"


def test_a_model_within_the_margin_of_the_live_one_is_held():
    found = judged(candidate(600, range(6)), baseline=candidate(600, range(4, 9)))
    assert found["blessed"]
    assert gates(found)["change/top1"]["verdict"] == "held"


def test_50_images_do_not_decide_and_the_detail_has_the_number_needed():
    found = judged(candidate(50, [3]), baseline=candidate(50, [3]))
    assert stopping(found) == {"change/top1": "not decided"}
    assert (found["verdict"], found["blessed"]) == ("not decided", False)
    gate = gates(found)["change/top1"]
    assert 189 <= gate["images_needed"] <= 571
    assert f"about {gate['images_needed']} images would decide it" in gate["detail"]
    assert "--accept-undecided lets it pass" in gate["detail"]
    assert "95 % interval -0.0713 to +0.0713" in gate["detail"]


def test_an_undecided_model_is_accepted_only_if_its_estimate_is_not_lower():
    same = judged(candidate(50, [3]), baseline=candidate(50, [4]), settings=ACCEPT)
    assert same["blessed"]
    gate = gates(same)["change/top1"]
    assert (gate["verdict"], gate["passed"]) == ("not decided", True)
    assert gate["waived"].startswith("accepted")
    lower = judged(candidate(50, [3, 5]), baseline=candidate(50, [4]), settings=ACCEPT)
    assert stopping(lower) == {"change/top1": "not decided"}
    assert "cannot be accepted" in gates(lower)["change/top1"]["detail"]


@pytest.mark.parametrize("settings", [GateSettings(), ACCEPT], ids=["refuse", "accept"])
def test_a_series_of_pushes_does_not_degrade(settings):
    """Six candidates, each four net errors worse than the live model, on 400 images."""
    generator = np.random.default_rng(0)
    live = best = set(generator.permutation(400)[:6].tolist())
    pushed = []
    for _ in range(6):
        right = [i for i in range(400) if i not in live]
        lost = generator.permutation(right)[:6].tolist()
        worse = (live - set(list(live)[:2])) | set(lost)
        assert len(worse) == len(live) + 4
        found = judged(
            candidate(400, worse),
            baseline=candidate(400, live),
            best=candidate(400, best),
            settings=settings,
        )
        pushed.append(found["blessed"])
        live = worse  # Even after a manual push.
    assert pushed == [False] * 6


def test_a_slow_decline_within_the_margin_stops_at_the_best_ever_pushed():
    # 10,000 images show that each step of 0.4 points is within the margin of 2; the sum is not.
    best = candidate(10_000, range(100))
    verdicts = []
    for step in range(1, 8):
        columns = {
            "ours": candidate(10_000, range(100 + 40 * step)),
            BASELINE: candidate(10_000, range(100 + 40 * (step - 1))),
            BEST: best,
        }
        against_live, against_best = change_gates(columns, "ours", GateSettings())
        assert (against_live.name, against_best.name) == ("change/top1", "change/best")
        assert against_live.verdict is Verdict.HELD
        verdicts.append(against_best.verdict)
    # The 95 % interval's half width at 1.6 points is about 0.25: four steps fit, not five.
    assert verdicts == [Verdict.HELD] * 4 + [Verdict.FAILED] * 3


def test_the_best_ever_pushed_counts_without_a_live_model():
    found = judged(candidate(400, range(40)), best=candidate(400, range(4)))
    assert stopping(found) == {"change/best": "failed"}


def test_the_verdict_has_the_drop_that_the_test_images_can_exclude():
    found = judged(candidate(50, [3]), baseline=candidate(50, [3, 4]))["excludable_drop"]
    z = scipy_stats.norm.ppf(0.975)
    assert found["images"] == 50
    assert found["at_best"] == pytest.approx(z**2 / (50 + z**2))
    assert 0.03 < found["excluded"]["baseline"] < 0.071


# Constant predictions and collapse.


@pytest.mark.parametrize("images", [18, 50, 400])
def test_the_defaults_refuse_constant_predictions(images):
    labels = np.arange(images) % 10
    found = judged(predictions(np.zeros(images, int), labels))
    assert stopping(found) == {"value/above_majority": "failed"}
    accepted = judged(predictions(np.zeros(images, int), labels), settings=ACCEPT)
    assert not accepted["blessed"]


def test_the_least_accuracy_is_the_share_of_the_most_common_class():
    labels = np.where(np.arange(400) < 380, 0, np.arange(400) % 9 + 1)
    rare = np.flatnonzero(labels)
    # A constant prediction reaches 95 %, so 95.5 % is not good.
    found = judged(candidate(400, rare[:18], labels))
    gate = gates(found)["value/above_majority"]
    assert gate["value"] == pytest.approx(0.955)
    assert "above 0.9500" in gate["threshold"]
    assert gate["verdict"] == "not decided"
    assert gate["images_needed"] > 400
    assert not found["blessed"]
    assert judged(candidate(400, rare[:18], labels), settings=ACCEPT)["blessed"]
    assert judged(candidate(400, rare[:10], labels))["blessed"]


def collapse_table(column, **variants):
    return {"saved_model": column, "none_fp32": column, **variants}


def constant(images):
    return predictions(np.full(images, 4), np.arange(images) % 10)


def garbage(images):
    guess = np.random.default_rng(0).integers(0, 10, images)
    return predictions(guess, np.arange(images) % 10)


@pytest.mark.parametrize("broken", [constant, garbage])
def test_a_collapsed_variant_is_reported_and_left_out_of_a_blessed_bundle(broken):
    good = candidate(400, range(4))
    table = collapse_table(good, ptq_int8=broken(400), ptq_dynamic=good)
    found = judge(table, dict.fromkeys(table, COST), GateSettings(), classes=CLASSES)
    assert found["blessed"]
    assert found["dropped"] == ["ptq_int8"]
    assert found["recommended"] != "ptq_int8"
    gate = gates(found)["collapse/ptq_int8"]
    assert (gate["verdict"], gate["waived"]) == ("failed", "the variant is left out of the bundle")
    assert gate["value"] < 0.2
    assert "collapse/ptq_dynamic" not in gates(found)


def test_a_method_with_collapsed_fine_tuning_is_left_out():
    # Faithful to its own float pass, which is constant.
    table = collapse_table(
        candidate(400, range(4)), **{"qat_int8": constant(400), "float/qat": constant(400)}
    )
    found = judge(table, dict.fromkeys(table, COST), GateSettings(), classes=CLASSES)
    assert found["dropped"] == ["qat_int8"]
    assert "the lead of none_fp32" in gates(found)["collapse/qat_int8"]["detail"]


def test_a_variant_without_half_of_its_classes_collapsed_and_a_slightly_worse_one_did_not():
    good = candidate(400, range(4))
    guess = np.where(np.arange(400) % 10 < 4, np.arange(400) % 10, 3)
    table = collapse_table(
        good,
        ptq_int8=predictions(guess, np.arange(400) % 10),
        ptq_dynamic=candidate(400, range(120)),
    )
    found = judge(table, dict.fromkeys(table, COST), GateSettings(), classes=CLASSES)
    assert found["dropped"] == ["ptq_int8"]


def test_a_collapsed_saved_model_refuses():
    good = candidate(400, range(4))
    table = {"saved_model": constant(400), "none_fp32": good}
    found = judge(table, dict.fromkeys(table, COST), GateSettings(), classes=CLASSES)
    assert stopping(found) == {"agreement/saved_model": "failed"}
    both = judged(constant(400))
    assert stopping(both) == {"value/above_majority": "failed"}


def test_a_small_set_ships_int8_twice():
    """50 test images of a good model: int8 is recommended, and the second version passes."""
    first = candidate(50, [3, 7])
    table = {"saved_model": first, "none_fp32": first, "ptq_int8": candidate(50, [3, 7])}
    figures = {**dict.fromkeys(table, COST), "ptq_int8": {**COST, "latency_ms_p50": 0.4}}
    for column in (None, candidate(50, [3, 8])):
        columns = table if column is None else {**table, BASELINE: column, BEST: column}
        found = judge(columns, figures, ACCEPT, classes=CLASSES)
        assert found["recommended"] == "ptq_int8"
        assert found["blessed"], stopping(found)
    undecided = judge(columns, figures, GateSettings(), classes=CLASSES)
    assert undecided["recommended"] == "none_fp32"
    assert stopping(undecided) == {"change/top1": "not decided", "change/best": "not decided"}
