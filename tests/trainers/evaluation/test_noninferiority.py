"""Tango's score interval against brute force, published figures, exact levels and simulation."""

import itertools

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as scipy_stats

from trainers.evaluation.noninferiority import (
    Paired,
    disagreement_bound,
    excludable_drop,
    images_needed,
    pair,
    score_interval,
    score_statistic,
)

Z = scipy_stats.norm.ppf(0.975)
COUNTS = [(0, 0, 50), (2, 6, 400), (6, 2, 400), (1, 7, 21), (0, 9, 60), (30, 33, 90), (5, 0, 5)]


def brute_force_statistic(gained, lost, total, difference):
    """Maximizes the multinomial likelihood under the constraint numerically; no closed form."""
    low, high = max(0.0, -difference), (1 - difference) / 2

    def loss(only_second):
        shares = np.array([only_second + difference, only_second, 1 - 2 * only_second - difference])
        counts = np.array([gained, lost, total - gained - lost])
        return -np.sum(counts * np.log(np.maximum(shares, 1e-300)))

    found = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13, "maxiter": 2000}
    )
    only_second = min([low, high, found.x], key=loss)
    variance = total * (2 * only_second + difference - difference**2)
    return (gained - lost - total * difference) / np.sqrt(variance)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("difference", [-0.3, -0.05, -0.02, -0.001, 0.01, 0.2])
def test_the_statistic_is_that_of_the_constrained_likelihood(counts, difference):
    found = score_statistic(*np.array(counts, float), np.array(difference))
    assert found == pytest.approx(brute_force_statistic(*counts, difference), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("counts", COUNTS)
def test_the_interval_ends_where_the_brute_force_statistic_is_critical(counts):
    interval = Paired(*counts).interval()
    assert interval.low <= interval.value <= interval.high
    if interval.low > -0.999:
        assert brute_force_statistic(*counts, interval.low) == pytest.approx(Z, abs=1e-4)
    if interval.high < 0.999:
        assert brute_force_statistic(*counts, interval.high) == pytest.approx(-Z, abs=1e-4)


def test_the_published_interval_of_the_airway_example():
    # Bentur et al. 2009: 1 and 7 discordant pairs of 21; Fagerland, Lydersen & Laake 2014 give
    # -0.517 to -0.026 for Tango's method.
    interval = Paired(1, 7, 21).interval()
    assert (round(interval.low, 3), round(interval.high, 3)) == (-0.517, -0.026)


def test_the_interval_is_symmetric_and_takes_arrays():
    gained, lost = np.array([0, 3, 40]), np.array([5, 3, 1])
    low, high = score_interval(gained, lost, 100)
    mirrored = score_interval(lost, gained, 100)
    np.testing.assert_allclose(low, -mirrored[1], atol=1e-12)
    np.testing.assert_allclose(high, -mirrored[0], atol=1e-12)
    one = [Paired(int(b), int(c), 100).interval().low for b, c in zip(gained, lost, strict=True)]
    np.testing.assert_allclose(low, one)


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_counts_out_of_range_are_refused(counts):
    with pytest.raises(ValueError, match="`gained` and `lost`"):
        score_interval(*counts)


def test_columns_of_different_images_are_refused():
    with pytest.raises(ValueError, match="the same images"):
        pair([True, False], [True])
    assert pair([1, 1, 0, 0], [1, 0, 1, 0]) == Paired(1, 1, 4)


def exact_pass_rate(total, churn, margin):
    """P(low >= -margin) where the first is exactly `margin` worse, over all tables."""
    reach = scipy_stats.binom.ppf([1e-9, 1 - 1e-9], total, churn).astype(int)
    rate = 0.0
    for discordant in range(reach[0], reach[1] + 1):
        gained = np.arange(discordant + 1)
        low, _ = score_interval(gained, discordant - gained, total)
        chance = scipy_stats.binom.pmf(gained, discordant, (churn - margin) / 2 / churn)
        rate += scipy_stats.binom.pmf(discordant, total, churn) * chance[low >= -margin].sum()
    return rate


@pytest.mark.parametrize(
    ("total", "churn", "margin"),
    # The highest levels that an exact search over 4,141 corners found, and some everyday ones.
    [
        *((50, 0.1553, 0.005), (53, 0.1553, 0.005), (50, 0.2082, 0.005), (110, 0.0865, 0.01)),
        *((56, 0.1553, 0.02), (65, 0.12, 0.03), (50, 0.4, 0.05), (189, 0.02, 0.02)),
        *((373, 0.025, 0.02), (400, 0.06, 0.02)),
    ],
)
def test_the_exact_level_is_at_most_3_percent(total, churn, margin):
    assert exact_pass_rate(total, churn, margin) <= 0.03


SIZES = (50, 100, 189, 200, 373, 400, 1000, 2000, 5000, 10_000)
MARGINS = (0.005, 0.01, 0.02, 0.05)
CHURNS = (1.0, 1.02, 1.25, 1.5, 3.0, 10.0)  # In units of the margin; 1.0 is losses only.


@pytest.mark.parametrize("margin", MARGINS)
def test_at_most_3_percent_pass_of_those_exactly_the_margin_worse(margin):
    generator = np.random.default_rng(int(margin * 1000))
    rates = {}
    for total, factor in itertools.product(SIZES, CHURNS):
        churn = min(margin * factor, 0.9)
        shares = [(churn - margin) / 2, (churn + margin) / 2, 1 - churn]
        drawn = generator.multinomial(total, shares, size=10_000)
        # Few distinct tables among 10,000 draws: each is judged once.
        tables, inverse = np.unique(drawn[:, :2], axis=0, return_inverse=True)
        low, _ = score_interval(tables[:, 0], tables[:, 1], total)
        rates[total, round(churn, 4)] = (low >= -margin)[inverse.ravel()].mean()
    worst = max(rates, key=lambda key: rates[key])
    assert rates[worst] <= 0.03, f"{rates[worst]:.4f} at (images, churn) {worst}"
    assert max(rates.values()) >= 0.02, "the test has lost its power"


@pytest.mark.parametrize(("total", "churn"), [(50, 0.1), (180, 0.03), (400, 0.04), (2000, 0.02)])
def test_the_interval_covers_95_percent(total, churn):
    shares = [0.3 * churn, 0.7 * churn, 1 - churn]
    drawn = np.random.default_rng(total).multinomial(total, shares, size=10_000)
    low, high = score_interval(drawn[:, 0], drawn[:, 1], total)
    truth = -0.4 * churn
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.985


def test_what_a_test_set_can_exclude():
    assert excludable_drop(50) == pytest.approx(0.071, abs=5e-4)
    for total in (18, 50, 400):
        assert -Paired(0, 0, total).interval().low == pytest.approx(excludable_drop(total))
    assert excludable_drop(188) > 0.02 > excludable_drop(190)


@pytest.mark.parametrize(
    ("found", "margin"),
    [
        (Paired(2, 6, 400), 0.02),
        (Paired(3, 3, 100), 0.02),
        (Paired(0, 0, 50), 0.02),
        (Paired(1, 1, 50), 0.02),
        (Paired(3, 2, 150), 0.02),
        (Paired(3, 9, 300), 0.02),
        (Paired(10, 12, 500), 0.01),
    ],
)
def test_the_images_needed_decide_with_the_promised_probability(found, margin):
    interval = found.interval()
    assert interval.low < -margin
    assert interval.high >= 0, "the example is decided already"
    needed = images_needed(found, margin)
    assert needed > found.total
    # The truth is what was observed, with the half image on each side that the docstring states.
    shares = np.array([found.gained + 0.5, found.lost + 0.5]) / (found.total + 1)
    rates = []
    for total in (needed // 2, needed):
        drawn = np.random.default_rng(0).multinomial(total, [*shares, 1 - shares.sum()], 10_000)
        low, high = score_interval(drawn[:, 0], drawn[:, 1], total)
        rates.append(((low >= -margin) | (high < 0)).mean())
    assert 0.78 <= rates[1] <= 0.92
    assert rates[0] < 0.72, "half of them would nearly do"


def test_one_more_image_is_needed_at_least_and_as_many_as_can_exclude_the_margin():
    assert images_needed(Paired(0, 0, 5000), 0.02) == 5001
    assert images_needed(Paired(40, 0, 100), 0.02) == 189
    assert images_needed(Paired(0, 2, 10_000), 0.02) == 10_001
    with pytest.raises(ValueError, match=r"written 0\.02"):
        images_needed(Paired(0, 0, 50), 2.0)


@pytest.mark.parametrize(("differing", "total"), [(0, 180), (1, 180), (7, 500), (19, 20)])
def test_the_bound_of_disagreement_is_exact(differing, total):
    bound = disagreement_bound(differing, total)
    assert scipy_stats.binom.cdf(differing, total, bound) == pytest.approx(0.025)
    assert disagreement_bound(total, total) == 1.0
