import numpy as np
import pytest
from scipy import stats as scipy_stats

from trainers.evaluation import stats
from trainers.evaluation.noninferiority import pair


def test_the_interval_of_a_mean_contains_the_studentized_and_the_bca_one():
    values = np.random.default_rng(0).exponential(size=120)
    mean, deviation = values.mean(), values.std()

    ours = stats.bootstrap_interval(values, resamples=20_000)
    bca = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", random_state=1
    ).confidence_interval
    # Efron & Tibshirani 1993, section 12.5, by SciPy's resampling of the t statistic.
    t = scipy_stats.bootstrap(
        (values,),
        lambda x, axis: (x.mean(axis=axis) - mean) / x.std(axis=axis),
        n_resamples=20_000,
        method="percentile",
        random_state=2,
        vectorized=True,
    ).confidence_interval
    studentized = mean - t.high * deviation, mean - t.low * deviation

    assert ours.value == pytest.approx(mean)
    assert ours.low == pytest.approx(min(bca.low, studentized[0]), abs=0.01)
    assert ours.high == pytest.approx(max(bca.high, studentized[1]), abs=0.01)


@pytest.mark.parametrize("levels", [2, 500])
def test_the_shortcut_for_few_levels_draws_the_same_distribution(levels):
    values = np.random.default_rng(1).integers(0, levels, size=300) / levels

    means, deviations = stats._resampled_moments(values, 4000, seed=2)

    assert deviations.mean() == pytest.approx(values.std(), rel=0.01)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(300 * 4000))
    assert means.std() == pytest.approx(values.std() / np.sqrt(300), rel=0.05)


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (3, 4), (29, 30), (354, 360)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_shares_have_the_exact_interval(right, total, level):
    oracle = scipy_stats.binomtest(right, total).proportion_ci(level, method="exact")

    ours = stats.bootstrap_interval(np.arange(total) < right, level=level)

    assert ours.as_list() == pytest.approx([right / total, oracle.low, oracle.high])
    assert stats.proportion_interval(right, total, level=level) == ours


@pytest.mark.slow
def test_intervals_of_skewed_values_cover_95_percent():
    generator = np.random.default_rng(3)
    covered = [
        interval.low <= 1.0 <= interval.high
        for interval in (
            stats.bootstrap_interval(generator.exponential(size=200), seed=trial)
            for trial in range(1500)
        )
    ]
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.slow
def test_intervals_at_another_level_cover_that_level():
    generator = np.random.default_rng(4)
    covered = [
        interval.low <= 0.0 <= interval.high
        for interval in (
            stats.bootstrap_interval(generator.normal(size=60), level=0.8, seed=trial)
            for trial in range(600)
        )
    ]
    assert 0.76 <= np.mean(covered) <= 0.84


@pytest.mark.parametrize("sign", [1, pytest.param(-1, marks=pytest.mark.slow)])
def test_intervals_of_paired_differences_cover_95_percent(sign):
    generator = np.random.default_rng(5)
    size, covered = 360, []
    for trial in range(1500):
        # Discordant shares of a compressed model: 2-8 % of the images, in either direction.
        discordant, share = generator.uniform(0.02, 0.08), generator.uniform(0.1, 0.9)
        chances = [discordant * share, discordant * (1 - share), 1 - discordant]
        side = generator.choice([sign, -sign, 0], p=chances, size=size)
        interval = stats.paired_difference(side >= 0, side <= 0, seed=trial)
        covered.append(interval.low <= sign * (chances[0] - chances[1]) <= interval.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_no_errors_still_give_a_width():
    interval = stats.bootstrap_interval(np.ones(360, bool))

    oracle = scipy_stats.binomtest(360, 360).proportion_ci(0.95, method="exact")
    assert interval.as_list() == pytest.approx([1.0, oracle.low, 1.0])
    assert stats.bootstrap_interval(np.zeros(360)).as_list() == pytest.approx(
        [0.0, 0.0, 1 - oracle.low]
    )


def test_the_interval_of_a_constant_has_no_width():
    assert stats.bootstrap_interval([0.5, 0.5, 0.5]).as_list() == [0.5, 0.5, 0.5]


def test_equal_models_get_a_difference_of_zero_with_a_width():
    right = np.random.default_rng(6).random(360) < 0.95

    interval = stats.paired_difference(right, right)

    assert interval.value == 0.0
    assert -0.01 < interval.low < 0 < interval.high < 0.01


def test_pairing_narrows_the_difference_of_correlated_models():
    generator = np.random.default_rng(7)
    a = generator.random(500) < 0.8
    b = np.where(generator.random(500) < 0.02, ~a, a)

    paired = stats.paired_difference(a, b)
    unpaired = np.hypot(a.std(), b.std()) / np.sqrt(500) * 1.96 * 2

    assert paired.value == pytest.approx(a.mean() - b.mean())
    assert paired.high - paired.low < unpaired / 2


def test_paired_difference_of_losses_is_the_interval_of_the_differences():
    generator = np.random.default_rng(8)
    a, b = generator.exponential(size=100), generator.exponential(size=100)
    assert stats.paired_difference(a, b) == stats.bootstrap_interval(a - b)


def test_one_model_always_correct_and_the_other_always_wrong():
    interval = stats.paired_difference(np.ones(50), np.zeros(50))
    assert interval.value == interval.high == 1.0
    assert 0.85 < interval.low < 1.0
    mirrored = stats.paired_difference(np.zeros(50), np.ones(50))
    assert mirrored.value == mirrored.low == -1.0


def test_the_interval_of_a_statistic_matches_scipys_bca():
    values = np.random.default_rng(9).normal(size=150)

    ours = stats.bootstrap_statistics(lambda x: [np.var(x)], values, resamples=5000)[0]
    theirs = scipy_stats.bootstrap(
        (values,), np.var, n_resamples=5000, method="BCa", random_state=2
    ).confidence_interval

    assert ours.value == pytest.approx(values.var())
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)


@pytest.mark.slow
def test_intervals_of_a_correlation_cover_95_percent():
    generator = np.random.default_rng(10)
    covariance = [[1.0, 0.6], [0.6, 1.0]]
    covered = []
    for trial in range(200):
        x, y = generator.multivariate_normal([0, 0], covariance, size=150).T
        (interval,) = stats.bootstrap_statistics(
            lambda x, y: [(x * y).mean() / np.sqrt((x * x).mean() * (y * y).mean())],
            x,
            y,
            resamples=300,
            seed=trial,
        )
        covered.append(interval.low <= 0.6 <= interval.high)
    # 200 trials: 3 standard errors either side of 95 %.
    assert 0.904 <= np.mean(covered) <= 0.996


def test_several_statistics_share_their_resamples():
    values = np.random.default_rng(11).normal(size=60)

    first, second = stats.bootstrap_statistics(lambda x: [x.mean(), 2 * x.mean()], values)

    assert np.multiply(2, first.as_list()) == pytest.approx(second.as_list())
    assert [first] == stats.bootstrap_statistics(lambda x: [x.mean()], values)


def test_one_example_has_a_statistic_without_width():
    (found,) = stats.bootstrap_statistics(lambda x: [x.mean()], [3.0])
    assert found.as_list() == [3.0, 3.0, 3.0]


def test_the_seed_decides_the_interval():
    values = np.random.default_rng(12).normal(size=50)
    assert stats.bootstrap_interval(values, seed=1) == stats.bootstrap_interval(values, seed=1)
    assert stats.bootstrap_interval(values, seed=1) != stats.bootstrap_interval(values, seed=2)


def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs():
    a = np.array([1] * 40 + [1] * 9 + [0] * 2 + [0] * 5)
    b = np.array([1] * 40 + [0] * 9 + [1] * 2 + [0] * 5)

    found = pair(a, b)

    assert (found.gained, found.lost) == (9, 2)
    tail = sum(scipy_stats.binom.pmf(k, 11, 0.5) for k in range(3))
    assert found.mcnemar_p == pytest.approx(2 * tail)
    assert pair(b, a).mcnemar_p == pytest.approx(found.mcnemar_p)


def test_mcnemar_of_equal_predictions_has_p_one():
    assert pair([True, False], [True, False]).mcnemar_p == 1.0


@pytest.mark.slow
def test_mcnemar_rejects_equal_models_at_most_5_percent_of_the_time():
    generator = np.random.default_rng(13)
    rejected = []
    for _ in range(2000):
        side = generator.choice([1, -1, 0], p=[0.05, 0.05, 0.9], size=400)
        rejected.append(pair(side >= 0, side <= 0).mcnemar_p < 0.05)
    assert 0.01 < np.mean(rejected) <= 0.055


def test_mcnemar_finds_a_real_difference():
    generator = np.random.default_rng(14)
    found = []
    for _ in range(300):
        side = generator.choice([1, -1, 0], p=[0.08, 0.02, 0.9], size=400)
        found.append(pair(side >= 0, side <= 0).mcnemar_p < 0.05)
    assert np.mean(found) > 0.9


def test_the_t_test_over_seeds_matches_scipy():
    a, b = [0.981, 0.986, 0.979, 0.984], [0.975, 0.983, 0.980, 0.977]

    test = stats.paired_t(a, b)
    oracle = scipy_stats.ttest_rel(a, b)

    assert test.statistic == pytest.approx(oracle.statistic)
    assert test.p_value == pytest.approx(oracle.pvalue)
    limits = oracle.confidence_interval(0.95)
    assert test.difference.as_list() == pytest.approx(
        [np.subtract(a, b).mean(), limits.low, limits.high]
    )


def test_seeds_with_equal_differences():
    assert stats.paired_t([0.5, 0.7], [0.5, 0.7]).p_value == 1.0
    certain = stats.paired_t([0.25, 0.5], [0.5, 0.75])
    assert (certain.statistic, certain.p_value) == (-np.inf, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.bootstrap_interval([]), "is empty.*check that the split"),
        (lambda: stats.bootstrap_interval([[1.0]]), "must be \\(N,\\)"),
        (lambda: stats.bootstrap_interval([1.0, np.nan]), "nan at index 1"),
        (lambda: stats.bootstrap_interval([1.0], resamples=10), "at least 100, got 10"),
        (lambda: stats.bootstrap_interval([1.0], level=95), "95 % is written 0.95"),
        (lambda: stats.bootstrap_statistics(np.mean, []), "is empty"),
        (lambda: stats.bootstrap_statistics(np.mean, [1.0], [1.0, 2.0]), "common first axis"),
        (lambda: stats.bootstrap_statistics(np.mean, 1.0), "common first axis"),
        (lambda: stats.proportion_interval(3, 2), "got 3 and 2"),
        (lambda: stats.proportion_interval(0, 0), "`total` above 0, got 0 and 0"),
        (lambda: stats.paired_difference([], []), "is empty"),
        (lambda: stats.paired_difference([1, 0], [1]), "same examples in the same order"),
        (lambda: stats.paired_t([1.0], [1.0]), "at least 2 seeds"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
