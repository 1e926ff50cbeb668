"""Rates of groups and gaps, against counts by hand and in a simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from trainers.evaluation.fairness import (
    ACCURACY,
    EQUALIZED_ODDS,
    FALSE_NEGATIVE_RATE,
    FALSE_POSITIVE_RATE,
    LEAST_IMAGES,
    OVERCONFIDENCE,
    POSITIVE_RATE,
    RATES,
    TRUE_POSITIVE_RATE,
    gap_of,
    gaps,
    group_rates,
    images_needed,
    minimum_note,
    size_note,
)
from trainers.evaluation.groups import GroupError, crossed, group_keys, group_values, natural


def sample(seed, sizes, rates):
    """Two classes; each group is right with its own rate."""
    random = np.random.default_rng(seed)
    groups = np.repeat(list(sizes), list(sizes.values()))
    labels = random.integers(0, 2, len(groups))
    right = random.random(len(groups)) < np.array([rates[name] for name in groups])
    guess = np.where(right, labels, 1 - labels)
    scores = np.full((len(groups), 2), 0.3)
    scores[np.arange(len(groups)), guess] = 0.7
    return scores, labels, groups


def test_rates_are_those_of_a_confusion_matrix():
    scores, labels, groups = sample(0, {"a": 200, "b": 90}, {"a": 0.9, "b": 0.6})
    for found in group_rates(scores, labels, groups, positive=1):
        inside = groups == found.name
        matrix = metrics.confusion_matrix(labels[inside], scores[inside].argmax(1))
        (true_negative, false_positive), (false_negative, true_positive) = matrix
        expected = {
            ACCURACY: (true_positive + true_negative, matrix.sum()),
            TRUE_POSITIVE_RATE: (true_positive, true_positive + false_negative),
            FALSE_POSITIVE_RATE: (false_positive, true_negative + false_positive),
            FALSE_NEGATIVE_RATE: (false_negative, true_positive + false_negative),
            POSITIVE_RATE: (true_positive + false_positive, matrix.sum()),
        }
        for rate, (part, whole) in expected.items():
            exact = stats.binomtest(int(part), int(whole)).proportion_ci(method="exact")
            interval = found.rates[rate]
            assert interval.value == part / whole
            assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high))
        assert found.overconfidence == pytest.approx(0.7 - found.rates[ACCURACY].value)


def test_a_gap_is_between_the_extreme_groups():
    scores, labels, groups = sample(
        1, {"a": 400, "b": 400, "c": 400}, {"a": 0.95, "b": 0.8, "c": 0.6}
    )
    found = {gap.rate: gap for gap in gaps(group_rates(scores, labels, groups, positive=1))}
    accuracy = found[ACCURACY]
    right = scores.argmax(1) == labels
    share = {name: right[groups == name].mean() for name in "abc"}
    assert (accuracy.highest, accuracy.lowest) == ("a", "c")
    assert accuracy.size.value == pytest.approx(share["a"] - share["c"])
    assert 0 < accuracy.size.low < 0.35 < accuracy.size.high


@pytest.mark.parametrize(
    ("sizes", "rates"),
    [
        ({"a": 40, "b": 40}, {"a": 0.9, "b": 0.9}),
        ({"a": 500, "b": 40}, {"a": 0.95, "b": 0.8}),
        (dict.fromkeys("abcdefg", 60), dict.fromkeys("abcdefg", 0.85)),
        (dict.fromkeys("abcd", 60), {"a": 0.99, "b": 0.9, "c": 0.9, "d": 0.7}),
    ],
)
def test_the_interval_of_a_gap_covers(sizes, rates):
    true = max(rates.values()) - min(rates.values())
    held = 0
    for seed in range(200):
        (gap, *_) = gaps(group_rates(*sample(seed, sizes, rates), positive=1))
        held += gap.size.low <= true <= gap.size.high
    assert held / 200 >= 0.93


def test_small_groups_are_listed_and_not_compared():
    scores, labels, groups = sample(
        2, {"a": 100, "b": 100, "few": LEAST_IMAGES - 1}, {"a": 0.9, "b": 0.9, "few": 0.0}
    )
    found = {group.name: group for group in group_rates(scores, labels, groups, positive=0)}
    assert not found["few"].compared
    assert found["few"].rates[ACCURACY].value == 0
    assert "few" not in {
        gap.lowest for gap in gaps(group_rates(scores, labels, groups, positive=0))
    }


def test_a_group_of_one_class_has_no_rate_of_the_other():
    scores = np.tile([0.2, 0.8], (60, 1))
    (found,) = group_rates(scores, np.ones(60, int), ["a"] * 60, positive=1)
    assert FALSE_POSITIVE_RATE not in found.rates
    assert found.counts[FALSE_POSITIVE_RATE] == 0
    assert gaps([found]) == []


def test_a_cross_does_not_merge_groups_whose_values_hold_the_separator():
    slices = {"a": np.array(["x, y", "x"]), "b": np.array(["z", "y, z"])}
    with pytest.raises(ValueError, match=r"'x, y' of a contains ', '"):
        crossed(slices, ("a", "b"))
    assert crossed(slices, ("a",)).tolist() == ["x, y", "x"]


def test_crossed_groups_and_their_order():
    slices = {"race": np.array(["B", "A", "A"]), "age": np.array(["10-19", "3-9", "0-2"])}
    assert crossed(slices, ("race", "age")).tolist() == ["B, 10-19", "A, 3-9", "A, 0-2"]
    ages = ["10-19", "more than 70", "3-9", "0-2", "60-69"]
    assert sorted(ages, key=natural) == ["0-2", "3-9", "10-19", "60-69", "more than 70"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros((0, 2)), [], []), "M above 0"),
        ((np.zeros((2, 2)), [0, 1], ["a"]), r"got \(2, 2\), \(2,\) and \(1,\)"),
        ((np.zeros((2, 2)), [0], ["a", "b"]), r"got \(2, 2\), \(1,\) and \(2,\)"),
    ],
)
def test_arrays_that_do_not_fit(arguments, words):
    with pytest.raises(ValueError, match=words):
        group_rates(*arguments, positive=0)
    with pytest.raises(ValueError, match=r"`positive` must be in \[0, 2\), got 2"):
        group_rates(np.zeros((1, 2)), [0], ["a"], positive=2)


def calibrated(seed, sizes, accuracies, *, informative):
    """Two classes; the confidence is the probability of being right, or unrelated to it."""
    random = np.random.default_rng(seed)
    groups = np.repeat(list(sizes), list(sizes.values()))
    accuracy = np.array([accuracies[name] for name in groups])
    confidence = random.uniform(np.maximum(0.5, 2 * accuracy - 1), 1.0)
    if not informative:
        confidence = random.uniform(0.5, 1.0, len(groups))
    labels = random.integers(0, 2, len(groups))
    right = random.random(len(groups)) < (confidence if informative else accuracy)
    guess = np.where(right, labels, 1 - labels)
    scores = np.empty((len(groups), 2))
    scores[np.arange(len(groups)), guess] = confidence
    scores[np.arange(len(groups)), 1 - guess] = 1 - confidence
    return scores, labels, groups


def mean_confidence(accuracy, *, informative):
    return (max(0.5, 2 * accuracy - 1) + 1) / 2 if informative else 0.75


def test_overconfidence_has_an_interval_that_is_at_least_as_wide_as_the_accuracy_s():
    scores, labels, groups = calibrated(3, {"a": 40}, {"a": 0.8}, informative=False)
    (found,) = group_rates(scores, labels, groups)
    excess = scores.max(1) - (scores.argmax(1) == labels)
    interval = found.rates[OVERCONFIDENCE]
    assert interval.value == found.overconfidence == pytest.approx(excess.mean())
    low, high = stats.t.interval(0.95, 39, excess.mean(), stats.sem(excess))
    accuracy = found.rates[ACCURACY]
    assert interval.low == pytest.approx(min(low, scores.max(1).mean() - accuracy.high))
    assert interval.high == pytest.approx(max(high, scores.max(1).mean() - accuracy.low))


@pytest.mark.parametrize("right", [True, False])
def test_equal_confidence_in_equal_predictions_has_the_interval_of_the_accuracy(right):
    scores = np.tile([0.2, 0.8], (40, 1))
    (found,) = group_rates(scores, np.full(40, int(right)), ["a"] * 40)
    ends = stats.binomtest(40 * right, 40).proportion_ci(method="exact")
    interval = found.rates[OVERCONFIDENCE]
    assert (interval.low, interval.high) == pytest.approx((0.8 - ends.high, 0.8 - ends.low))


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 30, 100])
@pytest.mark.parametrize("accuracy", [0.75, 0.9, 0.99])
@pytest.mark.parametrize("informative", [True, False])
def test_intervals_cover_in_small_groups(size, accuracy, informative):
    """Rates, calibration and gaps; both groups are of this size, and the second is 10 points worse.

    Clopper and Pearson's and the simultaneous intervals are conservative: most cover above 97 %.
    """
    accuracies = {"a": accuracy, "b": accuracy - 0.1}
    confidence = {k: mean_confidence(v, informative=informative) for k, v in accuracies.items()}
    true = {k: (confidence[k] if informative else v) for k, v in accuracies.items()}
    over = {k: confidence[k] - true[k] for k in true}
    expected = {
        ACCURACY: abs(true["a"] - true["b"]),
        # Labels are balanced and errors symmetric.
        TRUE_POSITIVE_RATE: abs(true["a"] - true["b"]),
        POSITIVE_RATE: 0.0,
        OVERCONFIDENCE: abs(over["a"] - over["b"]),
        EQUALIZED_ODDS: abs(true["a"] - true["b"]),
    }
    held, seen = dict.fromkeys([*expected, "accuracy of a", "calibration of a"], 0), {}
    for seed in range(400):
        given = calibrated(seed, {"a": size, "b": size}, accuracies, informative=informative)
        groups = group_rates(*given, positive=1)
        first = groups[0].rates
        held["accuracy of a"] += first[ACCURACY].low <= true["a"] <= first[ACCURACY].high
        interval = first[OVERCONFIDENCE]
        held["calibration of a"] += interval.low - 1e-12 <= over["a"] <= interval.high + 1e-12
        # A sample may have no image of a class, and then no rate of it.
        for gap in gaps(groups, least=1):
            if gap.rate in expected:
                seen[gap.rate] = seen.get(gap.rate, 0) + 1
                held[gap.rate] += (
                    gap.size.low <= expected[gap.rate] + 1e-12 <= gap.size.high + 2e-12
                )
    covered = {name: count / seen.get(name, 400) for name, count in held.items()}
    assert min(covered.values()) >= 0.93, covered


def test_equalized_odds_is_the_larger_of_two_gaps():
    random = np.random.default_rng(5)
    labels, groups = random.integers(0, 2, 3000), np.repeat(["a", "b", "c"], 1000)
    wrong = random.random(3000) < np.where(
        groups == "a", np.where(labels == 1, 0.3, 0.02), np.where(groups == "b", 0.1, 0.15)
    )
    scores = np.eye(2)[np.where(wrong, 1 - labels, labels)]
    found = {one.rate: one for one in gaps(group_rates(scores, labels, groups, positive=1))}
    both = [found[TRUE_POSITIVE_RATE], found[FALSE_POSITIVE_RATE]]
    odds = found[EQUALIZED_ODDS]
    worst = max(both, key=lambda one: one.size.value)
    assert odds.size.value == worst.size.value
    assert (odds.highest, odds.lowest, odds.compared) == (worst.highest, worst.lowest, 3)
    assert odds.size.high > max(one.size.high for one in both)
    assert odds.size.low < max(one.size.low for one in both)
    assert gap_of(group_rates(scores, labels, groups, positive=1), EQUALIZED_ODDS) == odds


def test_accuracy_and_calibration_need_no_positive_class():
    scores, labels, groups = sample(4, {"a": 200, "b": 200}, {"a": 0.9, "b": 0.7})
    found = group_rates(scores, labels, groups)
    assert [set(one.rates) for one in found] == [{ACCURACY, OVERCONFIDENCE}] * 2
    assert [one.rate for one in gaps(found)] == [ACCURACY, OVERCONFIDENCE]
    assert gap_of(found, POSITIVE_RATE) is None
    assert images_needed(found, EQUALIZED_ODDS, 0.1) == 0


@pytest.mark.parametrize("rate", [ACCURACY, TRUE_POSITIVE_RATE, EQUALIZED_ODDS])
@pytest.mark.parametrize("distance", [-0.03, 0.05])
def test_the_number_of_images_that_would_decide(rate, distance):
    sizes = {"a": 90, "b": 120, "few": 10}
    scores, labels, groups = sample(6, sizes, {"a": 0.95, "b": 0.8, "few": 0.0})
    given = group_rates(scores, labels, groups, positive=1)
    size = gap_of(given, rate).size
    margin = size.value + distance
    assert size.low <= margin < size.high
    needed = images_needed(given, rate, margin)

    def grown(factor):
        times = np.full(len(labels), round(factor))
        return group_rates(
            np.repeat(scores, times, 0),
            np.repeat(labels, times),
            np.repeat(np.where(groups == "few", "", groups), times),
            positive=1,
        )

    factor = needed / 220
    assert factor > 2
    more, fewer = (
        gap_of(
            [g for g in grown(n) if g.name],
            rate,
        ).size
        for n in (np.ceil(factor), np.floor(0.98 * factor) - 1)
    )
    assert more.high <= margin or more.low > margin
    assert fewer.low <= margin < fewer.high


def test_groups_that_are_too_small_need_enough_images_first():
    scores, labels, groups = sample(7, {"a": 90, "b": 3, "c": 2}, dict.fromkeys("abc", 1.0))
    found = group_rates(scores, labels, groups)
    assert gap_of(found, ACCURACY) is None
    # b has 3 of 95 images, and needs 30 or more.
    assert images_needed(found, ACCURACY, 0.9) >= 950
    assert images_needed(found[:1], ACCURACY, 0.1) == 0


def test_an_estimate_on_the_margin_is_never_decided():
    labels = np.zeros(200, int)
    scores = np.eye(2)[np.r_[np.zeros(100, int), np.ones(50, int), np.zeros(50, int)]]
    found = group_rates(scores, labels, np.repeat(["a", "b"], 100))
    assert gap_of(found, ACCURACY).size.value == 0.5
    assert images_needed(found, ACCURACY, 0.5) == 0


def test_small_groups_are_explained():
    scores, labels, groups = sample(
        8, {"a": 100, "b": 40, "two": 2}, dict.fromkeys(("a", "b", "two"), 1.0)
    )
    found = {one.name: one for one in group_rates(scores, labels, groups)}
    half = stats.binomtest(1, 2).proportion_ci(method="exact")
    points = round(50 * (half.high - half.low))
    assert found["two"].note == size_note(2)
    assert f"with 2 images an interval is about \N{PLUS-MINUS SIGN}{points} points" in size_note(2)
    assert "fewer than 30 images: shown, not compared" in size_note(29)
    assert found["a"].note == size_note(30) == ""
    half = stats.binomtest(15, 30).proportion_ci(method="exact")
    assert f"{round(50 * (half.high - half.low))} points" in minimum_note()
    gap = gap_of(list(found.values()), ACCURACY)
    assert (gap.compared, gap.left_out) == (2, ("two",))


def test_images_without_a_value_are_shown_and_not_compared():
    scores, labels, _ = sample(9, {"a": 300}, {"a": 0.9})
    values = np.repeat(["x", "", "y"], 100)
    groups = group_values({"slice/race": values}, "race")
    found = group_rates(scores, labels, groups)
    assert [(one.name, one.compared) for one in found] == [
        ("not recorded", False),
        ("x", True),
        ("y", True),
    ]
    assert found[0].note == "no value: shown, not compared"
    assert gap_of(found, ACCURACY).left_out == ("not recorded",)


def test_keys_of_groups():
    known = ("slice/race", "slice/age")
    assert group_keys("slice/race * age", known) == ("slice/race", "slice/age")
    with pytest.raises(GroupError, match=r"no slice 'rase'; did you mean race"):
        group_keys("age*rase", known)


@pytest.mark.parametrize(("label", "shown"), [(-1, "got -1 at index 3"), (2, "got 2 at index 3")])
def test_images_without_a_label_are_an_error(label, shown):
    scores, labels, groups = sample(10, {"a": 20}, {"a": 1.0})
    labels[3] = labels[7] = label
    with pytest.raises(ValueError, match=rf"{shown}; leave out the 2 images"):
        group_rates(scores, labels, groups)


def test_one_class_has_no_gap_of_the_other():
    scores, _, groups = sample(11, {"a": 40, "b": 40}, {"a": 1.0, "b": 1.0})
    found = gaps(group_rates(scores, np.ones(80, int), groups, positive=1))
    assert {one.rate for one in found} == {*RATES, OVERCONFIDENCE} - {FALSE_POSITIVE_RATE}
