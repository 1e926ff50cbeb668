import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from serving.benchmark.loadtest.quantiles import (
    interval,
    meets_bound,
    percentile,
    queries_for_claim,
    queries_for_margin,
)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300),
    st.sampled_from([1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 100.0]),
)
def test_percentile_is_numpys(values, percent):
    expected = np.percentile(values, percent, method="inverted_cdf")
    assert percentile(np.sort(values), percent) == expected


def test_percentile_of_exact_ranks():
    hundred = np.arange(1.0, 101.0)
    assert [percentile(hundred, p) for p in (1, 50, 99, 99.9, 100)] == [1, 50, 99, 100, 100]
    assert np.isnan(percentile(np.array([]), 50))


@pytest.mark.parametrize("count", [1, 5, 50, 1000, 20_000])
@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9])
def test_interval_holds_the_binomial_probability(count, percent):
    # Ranks as values, so that the interval's ends are the order statistics chosen.
    found = interval(np.arange(1.0, count + 1), percent)
    below = stats.binom(count, percent / 100).cdf
    outside_low = 0.0 if found.low is None else below(found.low - 1)
    outside_high = 0.0 if found.high is None else 1 - below(found.high - 1)
    assert outside_low <= 0.025
    assert outside_high <= 0.025
    # And no order statistic closer to the percentile would do.
    if found.low is not None:
        assert below(found.low) > 0.025
    if found.high is not None and found.high > 1:
        assert 1 - below(found.high - 2) > 0.025


def test_too_few_values_have_no_upper_end():
    assert interval(np.arange(100.0), 99).high is None
    assert interval(np.arange(1000.0), 99).high is not None
    assert interval(np.array([]), 99)[1:] == (None, None)


@pytest.mark.parametrize("percent", [50.0, 99.0])
def test_interval_covers_the_truth_as_often_as_it_says(percent):
    random = np.random.default_rng(0)
    truth = -np.log(1 - percent / 100)
    runs = 1000
    samples = np.sort(random.exponential(size=(runs, 2000)), axis=1)
    covered = sum(low <= truth < high for _, low, high in (interval(s, percent) for s in samples))
    assert 0.93 <= covered / runs <= 0.98


@given(st.integers(1, 5000), st.integers(0, 60), st.sampled_from([90.0, 99.0]))
def test_meets_bound_is_an_exact_binomial_test(queries, over, percent):
    over = min(over, queries)
    test = stats.binomtest(over, queries, 1 - percent / 100, alternative="less")
    assert meets_bound(queries, over, percent) == (test.pvalue <= 1 - 0.99)


@pytest.mark.parametrize(
    ("percent", "over", "queries"),
    [(99.0, 0, 459), (99.0, 1, 662), (99.0, 5, 1307), (90.0, 1, 64), (99.9, 0, 4603)],
)
def test_queries_for_a_claim_are_mlperfs(percent, over, queries):
    assert queries_for_claim(percent, over=over) == queries
    assert meets_bound(queries, over, percent)
    assert not meets_bound(queries - 1, over, percent)


def test_queries_for_a_margin_are_those_of_mlperfs_rules():
    assert queries_for_margin(90) == 23_886
    assert queries_for_margin(99) == 262_742
