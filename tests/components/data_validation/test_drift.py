"""The distance between two samples' shares, against its published bounds and simulated samples."""

import numpy as np
import pytest

from components.data_validation.drift import ValueCounts, distance, restricted


def sample(counts):
    counts = np.round(counts).astype(int)
    return ValueCounts({f"v{i}": int(c) for i, c in enumerate(counts) if c}, int(counts.sum()))


@pytest.mark.parametrize("seed", range(20))
def test_the_distance_lies_between_total_variation_and_its_root(seed):
    """Le Cam 1986: TV^2 <= LC^2 <= TV. Large samples, whose noise is nothing."""
    rng = np.random.default_rng(seed)
    x, y = rng.dirichlet([0.3] * 8, 2)
    found = distance(sample(1e7 * x), sample(1e7 * y), 0.0)
    variation = 0.5 * np.abs(x - y).sum()
    assert variation - 1e-4 <= found.value <= variation**0.5 + 1e-4
    assert found.exceeded


def test_disjoint_and_equal_samples_are_at_the_ends():
    far = distance(sample([10**7, 0]), sample([0, 10**7]), 0.99)
    assert far.value == pytest.approx(1, abs=1e-4)
    assert far.exceeded
    assert not distance(sample([10**7, 0]), sample([0, 10**7]), 1.0).exceeded
    same = distance(sample([5, 5]), sample([5, 5]), 0.0)
    assert same.value == 0
    assert not same.exceeded
    assert same.changed == ""
    assert not distance(sample([5]), sample([7]), 0.0).exceeded


def test_what_changed_most_is_named_first():
    found = distance(sample([100, 100, 100, 100]), sample([90, 0, 110, 100]), 0.0)
    assert found.changed.startswith("v1 25.00% -> 0.00%, ")
    assert found.changed.count("->") == 3


@pytest.mark.parametrize(
    ("classes", "n", "m", "pairs"),
    [(10, 1000, 300, 300), (100, 2000, 500, 100), (1000, 9000, 3000, 30)],
)
def test_samples_of_one_distribution_are_not_apart_and_halved_ones_are(classes, n, m, pairs):
    """With nothing allowed, chance alone is exceeded in at most 1 % of these pairs."""
    rng = np.random.default_rng(classes)
    tail = 1 / np.arange(1, classes + 1)
    alarms = 0
    for number in range(pairs):
        p = np.full(classes, 1 / classes) if number % 2 else tail / tail.sum()
        alarms += distance(sample(rng.multinomial(n, p)), sample(rng.multinomial(m, p)), 0).exceeded
    assert alarms <= 0.01 * pairs
    p = np.full(classes, 1 / classes)
    half = np.where(np.arange(classes) % 2, 2 / classes, 0)
    for _ in range(10):
        found = distance(sample(rng.multinomial(n, p)), sample(rng.multinomial(m, half)), 0.1)
        assert found.exceeded


def test_the_threshold_is_not_so_wide_that_it_says_nothing():
    """Near the 99th percentile of what chance gives, for the sizes of the digits data set."""
    rng = np.random.default_rng(0)
    p = np.full(10, 0.1)
    drawn = []
    for _ in range(2000):
        x, y = rng.multinomial(1077, p) / 1077, rng.multinomial(360, p) / 360
        drawn.append(0.5 * ((x - y) ** 2 / (x + y)).sum())
    threshold = distance(sample(1077 * p), sample(360 * p), 0.0).threshold
    excess = np.quantile(drawn, 0.99) - np.mean(drawn)
    assert excess**0.5 <= threshold <= 1.6 * excess**0.5


def test_a_restricted_sample_is_smaller():
    found = restricted(sample([50, 30, 20]), {"v1", "v2", "absent"})
    assert found == ValueCounts({"v1": 30, "v2": 20}, 50)
    objects = restricted(ValueCounts({"v0": 50, "v1": 50}, 20), {"v1"})
    assert objects == ValueCounts({"v1": 50}, 10)
    assert restricted(sample([1]), {"absent"}) is None


def test_objects_that_come_together_are_no_more_evidence_than_their_images():
    """Each image holds five objects of one class: a difference of images, counted five times."""
    x, y = np.array([60, 40]), np.array([40, 60])
    images = distance(sample(x), sample(y), 0.0)
    objects = [ValueCounts({f"v{i}": 5 * int(c) for i, c in enumerate(one)}, 100) for one in (x, y)]
    found = distance(*objects, 0.0)
    assert found.exceeded == images.exceeded
    assert found.threshold == pytest.approx(images.threshold, rel=0.2)
    alone = distance(sample(5 * x), sample(5 * y), 0.0)
    assert alone.threshold < 0.6 * found.threshold
