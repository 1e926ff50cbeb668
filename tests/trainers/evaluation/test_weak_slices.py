"""Weak slices on data with and without an effect: power, level, and p-values by SciPy."""

import numpy as np
import pytest
from scipy import stats

from trainers.evaluation.weak_slices import CROSSES, weak_slices


def test_a_weak_cross_is_found_before_its_parts():
    random = np.random.default_rng(0)
    light = random.choice(["dark", "bright"], 2000)
    size = random.choice(["small", "large"], 2000)
    weak = (light == "dark") & (size == "small")
    right = random.random(2000) < np.where(weak, 0.5, 0.95)
    found, tried = weak_slices(right, {"light": light, "size": size})
    assert tried == 8
    assert found[0].values == {"light": "dark", "size": "small"}
    assert found[0].accuracy.value == right[weak].mean()
    assert found[0].outside == right[~weak].mean()
    table = [[right[weak].sum(), (~right[weak]).sum()], [right[~weak].sum(), (~right[~weak]).sum()]]
    assert found[0].p_adjusted == pytest.approx(8 * stats.fisher_exact(table).pvalue)


def test_equal_slices_are_rarely_called_weak():
    claims = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        slices = {key: random.choice(list("abc"), 600) for key in ("x", "y")}
        found, tried = weak_slices(random.random(600) < 0.9, slices)
        assert tried == 6 + 9
        claims += any(one.p_adjusted < 0.05 for one in found)
    assert claims <= 10


def test_small_slices_and_repetitions_are_not_tried():
    slices = {
        "rare": np.array(["x"] * 10 + ["y"] * 190),
        "twin": np.array(["u"] * 10 + ["v"] * 190),
    }
    assert weak_slices(np.ones(200), slices) == ([], 0)
    halves = np.array(["a", "b"] * 100)
    found, tried = weak_slices(np.ones(200), {"one": halves, "same": halves})
    assert (found, tried) == ([], 4)


def draw(random, count, keys="wxyz"):
    """Slices of three and two values."""
    return {
        key: random.choice(list("ab" if number % 2 else "abc"), count)
        for number, key in enumerate(keys)
    }


def test_at_most_five_percent_of_runs_report_a_slice_without_an_effect():
    """At a true rate of 5 %, more than 15 claims in 150 runs have a chance of 0.5 %."""
    claims = 0
    for seed in range(150):
        random = np.random.default_rng(1000 + seed)
        found, tried = weak_slices(random.random(600) < 0.8, draw(random, 600, "wxy"))
        assert tried == 8 + 21 + CROSSES
        claims += any(one.p_adjusted < 0.05 for one in found)
    print(f"{claims} of 150 runs report a slice")
    assert claims <= 15


def test_a_cross_of_three_values_is_found():
    hits = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        slices = draw(random, 3000)
        weak = (slices["w"] == "a") & (slices["x"] == "a") & (slices["y"] == "a")
        right = random.random(3000) < np.where(weak, 0.5, 0.9)
        significant = [one for one in weak_slices(right, slices)[0] if one.p_adjusted < 0.05]
        hits += any(one.values == {"w": "a", "x": "a", "y": "a"} for one in significant)
    assert hits >= 9


def test_a_cross_is_tested_on_images_that_the_search_did_not_use():
    """A cross that is weak only on the images of the search is not reported."""
    random = np.random.default_rng(0)
    searched = np.random.default_rng(0).permutation(2000)[:1000]  # The half that is searched.
    slices = draw(random, 2000)
    right = random.random(2000) < 0.9
    weak = (slices["w"] == "a") & (slices["x"] == "a") & (slices["y"] == "a")
    right[weak & np.isin(np.arange(2000), searched)] = False
    found, _ = weak_slices(right, slices)
    assert not [one for one in found if len(one.values) == 3 and one.p_adjusted < 0.05]


def test_p_values_of_values_leave_room_for_the_crosses():
    random = np.random.default_rng(3)
    slices = draw(random, 1200, "wxy")
    right = random.random(1200) < np.where(slices["w"] == "b", 0.6, 0.9)
    found, tried = weak_slices(right, slices)
    assert found[0].values == {"w": "b"}
    inside = slices["w"] == "b"
    table = [[right[at].sum(), (~right[at]).sum()] for at in (inside, ~inside)]
    assert found[0].p_adjusted == pytest.approx(tried * stats.fisher_exact(table).pvalue)


def test_one_image_short_of_the_least_number_is_not_tried():
    values = np.array(["a"] * 29 + ["b"] * 171)
    assert weak_slices(np.arange(200) % 3 > 0, {"x": values}) == ([], 0)
    assert weak_slices(np.ones(0), {}) == ([], 0)
