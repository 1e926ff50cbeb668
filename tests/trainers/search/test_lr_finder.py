"""The range test: on curves with a known result, and on real digits."""

import numpy as np
import pytest

from trainers.config import ConfigError, override
from trainers.search import lr_finder
from trainers.search.lr_finder import find_learning_rate, has_exploded, make_curve, smooth
from trainers.training.epoch import TrainingError

pytestmark = pytest.mark.onednn

RATES = np.geomspace(1e-6, 10, 100)


def sigmoidal(at):
    """A loss that falls from 2 to 1, fastest in log(rate) at `at`."""
    return 1.0 + 1.0 / (1.0 + (RATES / at) ** 2)


def test_smoothing_is_adams_moment():
    losses = np.random.default_rng(0).normal(1, 0.3, 30)
    for count in (1, 2, 30):
        weights = 0.9 ** np.arange(count)[::-1]
        wanted = (weights * losses[:count]).sum() / weights.sum()
        assert smooth(losses)[count - 1] == pytest.approx(wanted)


@pytest.mark.parametrize("at", [1e-4, 1e-2])
def test_the_steepest_rate_is_found(at):
    curve = make_curve(RATES, sigmoidal(at))
    # A step is a factor of 1.18.
    assert at / 1.18 < curve.steepest < at * 1.18
    assert curve.exploded is None
    assert curve.suggested == curve.steepest


def test_noise_is_not_taken_for_a_fall():
    noise = np.random.default_rng(2).normal(0, 0.05, 100)
    noise[:3] = 0.3, -0.1, 0.2
    assert 2e-3 < make_curve(RATES, sigmoidal(1e-2) + noise).steepest < 5e-2


def test_slopes_are_those_of_numpys_fit():
    losses = np.random.default_rng(3).normal(0, 1, 32)
    found = lr_finder._slopes(RATES[:32], losses)
    fitted = np.polyfit(np.log(RATES[7:16]), losses[7:16], 1)[0]
    assert found[11] == pytest.approx(fitted)
    assert found.shape == (32,)


def test_at_most_a_tenth_of_what_explodes():
    losses = sigmoidal(1.0)[:85]
    losses[84] = np.nan
    curve = make_curve(RATES[:85], losses)
    assert curve.exploded == RATES[84]
    assert curve.suggested == pytest.approx(RATES[84] / 10)
    assert curve.suggested < curve.steepest
    assert len(curve.rates) == len(curve.losses) == 84
    assert f"explodes at {RATES[84]:.2g}" in curve.to_text()


def test_four_times_the_least_is_an_explosion():
    flat = [1.0] * 50
    assert not has_exploded([*flat, 20.0])
    assert has_exploded([*flat, 40.0])
    assert has_exploded([*flat, float("inf")])
    assert not has_exploded([9.0, 1.0])


def test_a_loss_that_never_falls_suggests_nothing():
    with pytest.raises(TrainingError, match=r"fell at no rate from 1e-06 to 10"):
        make_curve(RATES, np.linspace(1, 2, 100))
    with pytest.raises(TrainingError, match="from the first steps on"):
        make_curve(RATES[:1], np.array([np.nan]))


def test_the_table_is_short_and_ends_with_what_to_set():
    lines = make_curve(RATES, sigmoidal(1e-3)).to_text().splitlines()
    assert len(lines) == 1 + 20 + 2
    assert lines[1].split()[0] == "1.00e-06"
    assert lines[20].split()[0] == "1.00e+01"
    # A full bar is a quarter more than the whole fall.
    assert lines[1].count("#") == 32
    assert lines[20].count("#") == 1
    assert lines[-1].startswith("optim.learning_rate=")
    assert override_of(lines[-1]) < 0.02


def override_of(line):
    return float(line.split()[0].partition("=")[2])


@pytest.fixture(scope="module")
def curve(config):
    # Of a schedule, nothing must be left in the test. Forty steps teach a smaller net next to
    # nothing.
    hard = [
        "optim.schedule=step",
        "optim.warmup_steps=50",
        "model.dropout=0",
        "model.options.stages=3",
    ]
    return find_learning_rate(override(config, hard), low=1e-4, high=1e3, steps=40)


def test_real_digits_have_a_rate_between_nothing_and_too_much(curve):
    ratios = curve.rates[1:] / curve.rates[:-1]
    np.testing.assert_allclose(ratios, 10 ** (7 / 39), rtol=1e-6)
    # A tiny rate leaves the loss of ten classes where it begins; a huge one explodes.
    assert curve.losses[0] == pytest.approx(np.log(10), abs=1.0)
    assert curve.exploded is not None
    assert 1e-3 < curve.suggested < 3
    assert curve.smoothed.min() < curve.smoothed[0] - 0.1


@pytest.mark.parametrize("wrong", [{"low": 0.0}, {"low": 2.0, "high": 1.0}, {"steps": 3}])
def test_no_range_is_refused(wrong, config):
    with pytest.raises(ConfigError, match="needs 0 < low < high and at least 10 steps"):
        find_learning_rate(config, **wrong)
