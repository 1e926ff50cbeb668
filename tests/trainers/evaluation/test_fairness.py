"""Rates of groups and gaps, against counts by hand and in a simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from trainers.evaluation.fairness import (
    ACCURACY,
    FALSE_NEGATIVE_RATE,
    FALSE_POSITIVE_RATE,
    LEAST_IMAGES,
    POSITIVE_RATE,
    TRUE_POSITIVE_RATE,
    crossed,
    gaps,
    group_rates,
    natural,
)


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
