"""Curves against scikit-learn, and their intervals in a simulation."""

import numpy as np
import pytest
from scipy import optimize, special, stats
from sklearn import metrics

from trainers.evaluation import curves
from trainers.evaluation.curves import (
    calibration_curve,
    precision_recall,
    rates_at,
    rates_table,
    roc,
    temperature,
    thinned,
    threshold_for_specificity,
)
from trainers.evaluation.metrics import classification_metrics


def sample(seed, ours, others, *, separation=1.0, ties=False):
    random = np.random.default_rng(seed)
    scores = np.concatenate([random.normal(separation, 1, ours), random.normal(0, 1, others)])
    return np.round(scores) if ties else scores, np.arange(ours + others) < ours


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("ours", "others"), [(1, 1), (1, 40), (30, 3), (80, 200)])
def test_curves_are_those_of_scikit_learn(ours, others, ties):
    scores, positive = sample(ours, ours, others, ties=ties)
    found = roc(scores, positive)
    false, true, thresholds = metrics.roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(found.false_positive_rate, false)
    np.testing.assert_allclose(found.true_positive_rate, true)
    np.testing.assert_allclose(found.thresholds[1:], thresholds[1:])
    assert found.area.value == pytest.approx(metrics.roc_auc_score(positive, scores))
    curve = precision_recall(scores, positive)
    precision, recall, _ = metrics.precision_recall_curve(positive, scores)
    np.testing.assert_allclose(curve.precision, precision[-2::-1])
    np.testing.assert_allclose(curve.recall, recall[-2::-1])
    average = metrics.average_precision_score(positive, scores)
    assert curve.average_precision.value == pytest.approx(average)
    for interval in (found.area, curve.average_precision):
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_a_perfect_order_has_an_interval_that_is_not_a_point():
    scores, positive = np.arange(20.0), np.arange(20) >= 10
    area = roc(scores, positive).area
    assert area.value == area.high == 1
    assert 0.6 < area.low < 0.9
    assert precision_recall(scores, positive).average_precision.low < 0.95
    assert roc(-scores, positive).area.value == 0


@pytest.mark.slow
@pytest.mark.parametrize("separation", [0.3, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(("ours", "others"), [(15, 15), (30, 100), (20, 480), (300, 300)])
def test_intervals_cover_the_true_area_and_precision(separation, ours, others):
    area = stats.norm.cdf(separation / np.sqrt(2))
    many = 400_000 // (ours + others)
    average = precision_recall(*sample(1, ours * many, others * many, separation=separation))
    average = average.average_precision.value
    held = np.zeros(2)
    for seed in range(300):
        scores, positive = sample(seed, ours, others, separation=separation)
        first = roc(scores, positive).area
        second = precision_recall(scores, positive).average_precision
        held += [first.low <= area <= first.high, second.low <= average <= second.high]
    assert (held / 300 >= 0.93).all(), held / 300


def test_rates_at_a_threshold_are_counts():
    scores, positive = sample(3, 40, 60, ties=True)
    found = rates_at(scores, positive, 1.0)
    matrix = metrics.confusion_matrix(positive, scores >= 1.0)
    (true_negative, false_positive), (false_negative, true_positive) = matrix
    assert found.precision.value == true_positive / (true_positive + false_positive)
    assert found.recall.value == true_positive / 40
    assert found.false_positive_rate.value == false_positive / 60
    assert found.false_negative_rate.value == false_negative / 40
    exact = stats.binomtest(int(true_positive), 40).proportion_ci(method="exact")
    assert (found.recall.low, found.recall.high) == pytest.approx((exact.low, exact.high))
    assert true_negative + false_positive == 60


def test_rates_without_images_are_absent():
    found = rates_at([0.2, 0.3], [True, True], 0.9)
    assert found.precision is None
    assert found.false_positive_rate is None
    assert found.recall.value == 0


@pytest.mark.parametrize("specificity", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("ties", [False, True])
def test_the_threshold_is_the_lowest_that_keeps_the_specificity(specificity, ties):
    scores, positive = sample(4, 60, 100, ties=ties)
    threshold = threshold_for_specificity(scores, positive, specificity)
    others = scores[~positive]
    assert (others < threshold).mean() >= specificity
    lower = scores[scores < threshold]
    if len(lower):
        # The next lower threshold keeps the specificity only if it calls no other image positive.
        below = lower.max()
        assert (others < below).mean() < specificity or not (positive & (scores == below)).any()


@pytest.mark.parametrize(("ours", "others"), [(20, 60), (60, 20), (100, 400)])
def test_the_interval_of_sensitivity_holds_for_a_threshold_from_the_same_images(ours, others):
    held = 0
    for seed in range(300):
        scores, positive = sample(seed, ours, others)
        threshold = threshold_for_specificity(scores, positive, 0.9)
        # The cut lies anywhere above the highest score of another class that it leaves below.
        below = scores[~positive & (scores < threshold)].max()
        found = rates_at(scores, positive, threshold).recall
        held += found.low <= stats.norm.sf(below - 1.0) <= found.high
    assert held / 300 >= 0.93


def test_calibration_bins_hold_every_image_once():
    random = np.random.default_rng(0)
    scores = random.dirichlet([0.3] * 4, 500)
    labels = random.integers(0, 4, 500)
    found = calibration_curve(scores, labels, bins=10)
    assert sum(one.images for one in found) == 500
    confidence, right = scores.max(1), scores.argmax(1) == labels
    for one in found:
        inside = (confidence > one.low) & (confidence <= one.high)
        assert one.images == inside.sum()
        assert one.confidence == pytest.approx(confidence[inside].mean())
        assert one.accuracy.value == pytest.approx(right[inside].mean())
    (top,) = calibration_curve([[1.0, 0.0]], [0], bins=10)
    assert (top.low, top.high, top.images) == (0.9, 1.0, 1)
    # The bins are those of the calibration error.
    gaps = [
        one.images * abs(one.confidence - one.accuracy.value)
        for one in calibration_curve(scores, labels)
    ]
    assert sum(gaps) / 500 == pytest.approx(classification_metrics(scores, labels)["ece"])


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_is_found_again(true):
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (4000, 5))
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([random.choice(5, p=row) for row in softmax])
    wrong = np.exp(logits * true) / np.exp(logits * true).sum(1, keepdims=True)
    found = temperature(wrong, labels)
    assert found == pytest.approx(true, rel=0.07)

    def loss(value):
        scaled = special.log_softmax(np.log(np.maximum(wrong, 1e-7)) / value[0], axis=1)
        return -scaled[np.arange(len(labels)), labels].mean()

    expected = optimize.minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-6}).x[0]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("scores", "positive", "words"),
    [
        ([0.1, 0.2], [True, True], "images of the class and of others, got 2 of 2"),
        ([0.1, 0.2], [False, False], "got 0 of 2"),
        ([0.1, np.nan], [True, False], "must be finite"),
        ([0.1], [True, False], r"got \(1,\) and \(2,\)"),
    ],
)
def test_what_has_no_curve_is_refused(scores, positive, words):
    for curve in (roc, precision_recall):
        with pytest.raises(ValueError, match=words):
            curve(scores, positive)


def test_settings_out_of_range():
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 95"):
        threshold_for_specificity([0.1, 0.2], [True, False], 95)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        calibration_curve([[1.0, 0.0]], [0], bins=0)
    with pytest.raises(ValueError, match="at least one image"):
        temperature(np.zeros((0, 3)), [])


def test_a_table_of_rates_is_counted_by_hand_at_each_threshold():
    scores, positive = sample(3, 40, 60, ties=True)
    thresholds = [-1.0, *np.unique(scores)[::7].tolist(), 0.5, scores.max(), scores.max() + 1]
    for at, found in zip(thresholds, rates_table(scores, positive, thresholds), strict=True):
        called = scores >= at
        matrix = metrics.confusion_matrix(positive, called, labels=[False, True])
        (true_negative, false_positive), (missed, hits) = matrix
        assert found.threshold == at
        assert found.recall.value == pytest.approx(hits / 40)
        assert found.false_negative_rate.value == pytest.approx(missed / 40)
        assert found.false_positive_rate.value == pytest.approx(false_positive / 60)
        assert true_negative + false_positive == 60
        for rate, part, whole in (
            (found.recall, hits, 40),
            (found.false_positive_rate, false_positive, 60),
            (found.precision, hits, hits + false_positive),
        ):
            if not whole:
                assert rate is None
                continue
            exact = stats.binomtest(int(part), int(whole)).proportion_ci(method="exact")
            assert (rate.low, rate.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize(("right", "limit"), [(True, 0.05), (False, 20.0)])
def test_the_temperature_stops_at_the_limits_of_the_search(right, limit):
    scores = np.tile([0.7, 0.2, 0.1], (40, 1))
    labels = np.full(40, 0 if right else 2)
    assert temperature(scores, labels) == pytest.approx(limit, rel=1e-6)


def test_the_temperature_of_many_scores_is_that_of_a_fit_of_all_at_once(monkeypatch):
    monkeypatch.setattr(curves, "_CHUNK", 700)  # 100 images at a time.
    random = np.random.default_rng(5)
    scores = random.dirichlet([0.2] * 7, 950).astype(np.float32)
    labels = np.array([random.choice(7, p=row / row.sum()) for row in scores.astype(float)])
    logits = np.log(np.maximum(scores.astype(np.float64), 1e-7))

    def loss(inverse):
        return -special.log_softmax(logits * inverse, axis=1)[np.arange(950), labels].mean()

    best = optimize.minimize_scalar(loss, bounds=(0.05, 20), options={"xatol": 1e-10})
    assert temperature(scores, labels) == pytest.approx(1 / best.x, abs=1e-6)


def test_a_thinned_curve_keeps_its_ends_and_points():
    x, y = np.arange(5000.0), np.arange(5000.0) ** 2
    short, high = thinned(x, y)
    assert len(short) == 1000
    assert (short[0], short[-1]) == (0, 4999)
    np.testing.assert_array_equal(high, short**2)
    assert len(thinned(x[:1000])[0]) == 1000
