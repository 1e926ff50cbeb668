import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from trainers.evaluation import metrics, stats


def _softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def _answers(size=300, classes=10, skill=2.0, seed=0):
    """Scores that are right more often than not, and labels in unequal numbers."""
    generator = np.random.default_rng(seed)
    shares = np.linspace(1, 3, classes) / np.linspace(1, 3, classes).sum()
    labels = generator.choice(classes, size=size, p=shares)
    logits = generator.normal(size=(size, classes))
    logits[np.arange(size), labels] += skill
    return _softmax(logits), labels


@pytest.fixture(params=[(300, 10, 2.0), (40, 3, 0.5), (25, 60, 1.0)], ids=str)
def answers(request):
    return _answers(*request.param)


def test_averages_match_scikit_learn(answers):
    scores, labels = answers
    guess = scores.argmax(axis=1)

    ours = metrics.classification_metrics(scores, labels)

    assert ours["top1"] == pytest.approx(oracle.accuracy_score(labels, guess))
    for average in ("macro", "micro"):
        precision, recall, f1, _ = oracle.precision_recall_fscore_support(
            labels, guess, average=average, zero_division=0
        )
        assert ours[f"{average}_precision"] == pytest.approx(precision)
        assert ours[f"{average}_recall"] == pytest.approx(recall)
        assert ours[f"{average}_f1"] == pytest.approx(f1)


def test_top5_and_cross_entropy_match_scikit_learn(answers):
    scores, labels = answers
    every_class = np.arange(scores.shape[1])
    exact = scores.astype(np.float64)

    ours = metrics.classification_metrics(scores, labels)

    assert ours["cross_entropy"] == pytest.approx(
        oracle.log_loss(labels, exact / exact.sum(axis=1, keepdims=True), labels=every_class),
        rel=1e-5,
    )
    if len(every_class) > 5:
        assert ours["top5"] == pytest.approx(
            oracle.top_k_accuracy_score(labels, scores, k=5, labels=every_class)
        )
    else:
        assert ours["top5"] == 1.0


def test_confusion_and_per_class_accuracy_match_scikit_learn(answers):
    scores, labels = answers
    guess, every_class = scores.argmax(axis=1), np.arange(scores.shape[1])

    confusion = metrics.confusion_matrix(scores, labels)

    np.testing.assert_array_equal(
        confusion, oracle.confusion_matrix(labels, guess, labels=every_class)
    )
    accuracy = metrics.per_class_accuracy(confusion)
    for label in every_class:
        if np.any(labels == label):
            assert accuracy[label] == pytest.approx(np.mean(guess[labels == label] == label))
        else:
            assert np.isnan(accuracy[label])


def test_calibration_error_by_hand(answers):
    scores, labels = answers
    confidence = scores.max(axis=1).astype(np.float64)
    right = scores.argmax(axis=1) == labels

    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.sum() / len(labels) * gap

    assert metrics.expected_calibration_error(scores, labels) == pytest.approx(expected)


def test_calibration_of_certain_answers():
    certain = np.eye(4, dtype=np.float32)
    assert metrics.expected_calibration_error(certain, [0, 1, 2, 3]) == 0.0
    assert metrics.expected_calibration_error(certain, [1, 2, 3, 0]) == 1.0
    assert metrics.expected_calibration_error(certain, [0, 1, 0, 0]) == 0.5


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_ties_go_to_the_lower_class(k, classes, seed):
    generator = np.random.default_rng(seed)
    # Three levels over up to six classes: nearly every row has ties.
    scores = generator.integers(0, 3, size=(20, classes)) / 2
    labels = generator.integers(0, classes, size=20)

    highest = np.argsort(-scores, axis=1, kind="stable")[:, :k]

    expected = (highest == labels[:, None]).any(axis=1)
    np.testing.assert_array_equal(metrics.top_k_correct(scores, labels, k), expected)


def test_cross_entropy_is_clipped_at_both_ends():
    values = metrics.cross_entropy([[1.0, 0.0], [1.0, 0.0]], [0, 1])
    np.testing.assert_allclose(values, [-np.log1p(-1e-7), -np.log(1e-7)], rtol=1e-6)


def test_no_examples_have_empty_columns_but_no_metric():
    none = np.zeros((0, 3))
    assert metrics.top_k_correct(none, np.zeros(0, int), 1).shape == (0,)
    assert metrics.confusion_matrix(none, np.zeros(0, int)).sum() == 0
    with pytest.raises(ValueError, match="no examples"):
        metrics.classification_metrics(none, np.zeros(0, int))


def test_every_metric_gets_an_interval_around_its_value():
    scores, labels = _answers()

    values = metrics.classification_metrics(scores, labels)
    intervals = metrics.metrics_with_intervals(scores, labels)

    assert intervals.keys() == values.keys()
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(values[name]), name
        assert interval.low <= interval.high, name
    for name in ("top1", "macro_f1", "macro_precision", "macro_recall", "cross_entropy"):
        assert intervals[name].low < values[name] < intervals[name].high


@pytest.mark.slow
def test_intervals_of_macro_recall_cover_95_percent():
    generator = np.random.default_rng(1)
    recalls = np.array([0.95, 0.85, 0.9, 0.8])
    covered = []
    for trial in range(200):
        labels = generator.integers(0, 4, size=300)
        right = generator.random(300) < recalls[labels]
        guess = np.where(right, labels, (labels + generator.integers(1, 4, size=300)) % 4)
        (interval,) = stats.bootstrap_statistics(
            lambda labels, guess: metrics._macro_figures(labels, guess, 4)[1:2],
            labels,
            guess,
            resamples=300,
            seed=trial,
        )
        covered.append(interval.low <= recalls.mean() <= interval.high)
    # 200 trials: 3 standard errors either side of 95 %.
    assert 0.904 <= np.mean(covered) <= 0.996


def test_a_perfect_classifier_is_not_certain():
    labels = np.arange(60) % 3
    scores = np.where(np.eye(3)[labels] > 0, 0.9, 0.05)

    intervals = metrics.metrics_with_intervals(scores, labels)

    for name in ("top1", "macro_f1", "macro_recall", "micro_f1"):
        assert intervals[name].value == 1.0
        assert 0.9 < intervals[name].low < 0.96


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.ones((2, 3)) / 3, [0, 3], "label 3 at index 1.*label_offset"),
        (np.ones((2, 3)) / 3, [0, -1], "label -1 at index 1"),
        (np.ones((2, 3)) / 3, [0], r"got \(2, 3\) and \(1,\)"),
        (np.ones(3) / 3, [0, 1, 2], r"`scores` must be \(N, C\)"),
        (np.ones((2, 3)) / 3, [0.0, 1.0], "must be integers"),
        ([[0.5, np.nan]], [0], "must be finite, row 0"),
        ([[5.0, -2.0]], [0], "apply softmax"),
    ],
)
def test_bad_input_names_what_was_got(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.classification_metrics(scores, labels)


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        metrics.top_k_correct([[0.5, 0.5]], [0], 0)
    with pytest.raises(ValueError, match="`bins` must be at least 1, got 0"):
        metrics.expected_calibration_error([[0.5, 0.5]], [0], bins=0)
