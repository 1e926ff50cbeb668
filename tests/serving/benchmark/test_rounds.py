"""Intervals over a few rounds against SciPy's t-test, and how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from serving.benchmark.rounds import range_over_rounds, ratio_over_rounds


def test_a_ratio_has_the_t_interval_of_its_logarithm():
    ours, base = [6.23, 6.15, 5.26, 5.79], [5.95, 5.77, 6.05, 5.11]
    found = ratio_over_rounds(ours, base)
    logs = np.log(np.divide(ours, base))
    limits = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
    assert found.value == pytest.approx(stats.gmean(np.divide(ours, base)))
    assert found[1:] == pytest.approx(np.exp([limits.low, limits.high]))
    narrow = stats.ttest_1samp(logs, 0.0).confidence_interval(0.8)
    assert ratio_over_rounds(ours, base, level=0.8)[1:] == pytest.approx(np.exp(narrow))


def test_a_ratio_and_its_inverse_agree():
    found, inverse = (
        ratio_over_rounds([2, 8, 3], [1, 1, 2]),
        ratio_over_rounds([1, 1, 2], [2, 8, 3]),
    )
    assert found == pytest.approx((1 / inverse.value, 1 / inverse.high, 1 / inverse.low))


def _noisy(generator, rounds, held_up):
    """Seconds of one thing: 8 % noise, and some turns held up to three times as long."""
    late = 1 + 2 * generator.random(rounds) * (generator.random(rounds) < held_up)
    return np.exp(generator.normal(0, 0.08, rounds)) * late


@pytest.mark.parametrize("rounds", [2, 4, 5, 7, 10])
@pytest.mark.parametrize("held_up", [0.0, 0.1])
def test_a_ratio_of_few_rounds_is_covered(rounds, held_up):
    generator, trials, truth = np.random.default_rng(rounds), 2000, 0.8
    covered = 0
    for _ in range(trials):
        ours = truth * _noisy(generator, rounds, held_up)
        _, low, high = ratio_over_rounds(ours, _noisy(generator, rounds, held_up))
        covered += low <= truth <= high
    # Four standard errors below the 94 % of the docstring; above 98.5 % it would say too little.
    assert 0.94 - 4 * np.sqrt(0.94 * 0.06 / trials) <= covered / trials <= 0.985


def test_a_range_is_the_median_and_the_ends():
    assert range_over_rounds([5.0, 1.0, 9.0, 2.0]) == (3.5, 1.0, 9.0)
    with pytest.raises(ValueError, match="at least one round"):
        range_over_rounds([])


@pytest.mark.parametrize(
    ("values", "base", "message"),
    [
        ([1.0], [2.0], "at least 2, got 1 and 1"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "at least 2, got 2 and 3"),
        ([1.0, 0.0], [1.0, 2.0], r"values above 0, got \[1.0, 0.0\]"),
        ([1.0, 2.0], [1.0, np.nan], "values above 0, got"),
    ],
)
def test_rounds_that_make_no_ratio_are_refused(values, base, message):
    with pytest.raises(ValueError, match=message):
        ratio_over_rounds(values, base)
