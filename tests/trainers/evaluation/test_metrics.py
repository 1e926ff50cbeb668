import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn import metrics as oracle

from trainers.evaluation import metrics, stats
from trainers.evaluation.bootstrap import Resamples
from trainers.evaluation.macro import means_of_classes, resampled_counts
from trainers.evaluation.metric import Metric, Sampling, guesses, mean_of
from trainers.evaluation.scores import (
    confusion_matrix,
    cross_entropy,
    per_class_accuracy,
    top_k_correct,
)
from trainers.registry import metrics as registry


def _softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def _example(size=300, classes=10, skill=2.0, seed=0):
    """Scores that are right more often than not, and labels in unequal numbers."""
    generator = np.random.default_rng(seed)
    shares = np.linspace(1, 3, classes) / np.linspace(1, 3, classes).sum()
    labels = generator.choice(classes, size=size, p=shares)
    logits = generator.normal(size=(size, classes))
    logits[np.arange(size), labels] += skill
    return _softmax(logits), labels


@pytest.fixture(params=[(300, 10, 2.0), (40, 3, 0.5), (25, 60, 1.0)], ids=str)
def example(request):
    return _example(*request.param)


def test_averages_match_scikit_learn(example):
    scores, labels = example
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


def test_top5_and_cross_entropy_match_scikit_learn(example):
    scores, labels = example
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


def test_confusion_and_per_class_accuracy_match_scikit_learn(example):
    scores, labels = example
    guess, every_class = scores.argmax(axis=1), np.arange(scores.shape[1])

    confusion = confusion_matrix(scores, labels)

    np.testing.assert_array_equal(
        confusion, oracle.confusion_matrix(labels, guess, labels=every_class)
    )
    accuracy = per_class_accuracy(confusion)
    for label in every_class:
        if np.any(labels == label):
            assert accuracy[label] == pytest.approx(np.mean(guess[labels == label] == label))
        else:
            assert np.isnan(accuracy[label])


def test_calibration_error_by_hand(example):
    scores, labels = example
    confidence = scores.max(axis=1).astype(np.float64)
    right = scores.argmax(axis=1) == labels

    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.sum() / len(labels) * gap

    assert metrics.classification_metrics(scores, labels)["ece"] == pytest.approx(expected)


def test_calibration_at_full_confidence():
    certain = np.eye(4, dtype=np.float32)
    assert metrics.classification_metrics(certain, [0, 1, 2, 3])["ece"] == 0.0
    assert metrics.classification_metrics(certain, [1, 2, 3, 0])["ece"] == 1.0
    assert metrics.classification_metrics(certain, [0, 1, 0, 0])["ece"] == 0.5


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_ties_go_to_the_lower_class(k, classes, seed):
    generator = np.random.default_rng(seed)
    # Three levels over up to six classes: nearly every row has ties.
    scores = generator.integers(0, 3, size=(20, classes)) / 2
    labels = generator.integers(0, classes, size=20)

    highest = np.argsort(-scores, axis=1, kind="stable")[:, :k]

    expected = (highest == labels[:, None]).any(axis=1)
    np.testing.assert_array_equal(top_k_correct(scores, labels, k), expected)


def test_cross_entropy_is_clipped_at_both_ends():
    values = cross_entropy([[1.0, 0.0], [1.0, 0.0]], [0, 1])
    np.testing.assert_allclose(values, [-np.log1p(-1e-7), -np.log(1e-7)], rtol=1e-6)


def test_no_examples_have_empty_columns_but_no_metric():
    none = np.zeros((0, 3))
    assert top_k_correct(none, np.zeros(0, int), 1).shape == (0,)
    assert confusion_matrix(none, np.zeros(0, int)).sum() == 0
    with pytest.raises(ValueError, match="no examples"):
        metrics.classification_metrics(none, np.zeros(0, int))


def test_every_metric_gets_an_interval_around_its_value():
    scores, labels = _example()

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
            lambda labels, guess: [registry.get("macro_recall").figure(labels, guess)],
            labels,
            guess,
            resamples=300,
            seed=trial,
        )
        covered.append(interval.low <= recalls.mean() <= interval.high)
    # 200 trials: 3 standard errors either side of 95 %.
    assert 0.904 <= np.mean(covered) <= 0.996


def test_the_intervals_of_a_perfect_classifier_have_a_width():
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
def test_errors_name_the_invalid_input(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.classification_metrics(scores, labels)


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        top_k_correct([[0.5, 0.5]], [0], 0)


def _fixed(size, classes, skill, seed):
    """Scores made from integers, so that no platform's `exp` matters."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size)
    weights = generator.integers(1, 64, (size, classes)).astype(np.float64)
    weights[np.arange(size), labels] += generator.integers(0, skill, size)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32), labels


# Values and intervals of `_fixed`, from the version before each metric had its own file.
EARLIER = {
    (200, 8, 160, 0): {
        "top1": [0.83, 0.770628399606, 0.879304376764],
        "top5": [0.965, 0.929219001649, 0.985814474102],
        "macro_precision": [0.825703151194, 0.764770315844, 0.878346961707],
        "macro_recall": [0.827627314815, 0.763637828945, 0.878731031355],
        "macro_f1": [0.823691518054, 0.761407924409, 0.879810281027],
        "micro_precision": [0.83, 0.770628399606, 0.879304376764],
        "micro_recall": [0.83, 0.770628399606, 0.879304376764],
        "micro_f1": [0.83, 0.770628399606, 0.879304376764],
        "cross_entropy": [1.23118423334, 1.16646803366, 1.32366111582],
        "ece": [0.496256951913, 0.392918627681, 0.54011986317],
    },
    (25, 60, 100, 2): {
        "top1": [0.68, 0.464999282503, 0.850504577386],
        "top5": [0.72, 0.506123178194, 0.879283311496],
        "macro_precision": [0.549382716049, 0.377344916573, 0.901608241437],
        "macro_recall": [0.555555555556, 0.378350541943, 0.880543354093],
        "macro_f1": [0.537037037037, 0.319427510515, 0.890867214314],
        "micro_precision": [0.68, 0.464999282503, 0.850504577386],
        "micro_recall": [0.68, 0.464999282503, 0.850504577386],
        "micro_f1": [0.68, 0.464999282503, 0.850504577386],
        "cross_entropy": [3.31396034909, 3.13450953522, 3.66339651528],
        "ece": [0.637029984966, 0.35083425221, 0.786431216218],
    },
}


@pytest.mark.parametrize("example", EARLIER, ids=str)
def test_values_and_intervals_equal_those_of_the_previous_version(example):
    found = metrics.metrics_with_intervals(*_fixed(*example))
    assert list(found) == list(EARLIER[example])
    for name, expected in EARLIER[example].items():
        assert found[name].as_list() == pytest.approx(expected, abs=1e-9), name


def test_the_interval_of_a_share_equals_scipys_exact_one():
    scores, labels = _fixed(200, 8, 160, 0)
    found = metrics.metrics_with_intervals(scores, labels)
    for name, k in (("top1", 1), ("top5", 5)):
        highest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        right = int((highest == labels[:, None]).any(axis=1).sum())
        exact = scipy_stats.binomtest(right, 200).proportion_ci(0.95, method="exact")
        expected = [right / 200, exact.low, exact.high]
        assert found[name].as_list() == pytest.approx(expected)


@pytest.mark.parametrize(("classes", "hidden"), [(2, ["top5"]), (5, ["top5"]), (6, []), (1000, [])])
def test_tables_omit_top5_for_few_classes(classes, hidden):
    names = ["top1", "top5", "macro_precision", "macro_recall", "macro_f1", "cross_entropy", "ece"]
    found = metrics.metric_facts(classes)
    assert list(found) == [name for name in names if name not in hidden]
    assert found["macro_f1"]["title"] == "macro F1"
    assert found["cross_entropy"] == {
        "title": "cross entropy",
        "unit": "nats",
        "higher_is_better": False,
        "note": "is in nats",
    }


@pytest.fixture
def add(monkeypatch):
    """Registers metrics for one test only."""
    registry.names()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_origins", dict(registry._origins))
    return lambda name, metric: registry.register(name)(metric)


def test_a_custom_metric_needs_a_function_and_a_title(add):
    scores, labels = _example(120, 4, 1.0)
    add("balanced", Metric(oracle.balanced_accuracy_score, "balanced accuracy", guesses))
    add("kappa", Metric(oracle.cohen_kappa_score, "kappa", guesses, unit="kappa"))
    add("margin", mean_of(lambda scores, labels: scores.max(axis=1), "confidence"))
    add("auc", Metric(_auc, "AUC"))

    found = metrics.metrics_with_intervals(scores, labels, resamples=200)

    guess = scores.argmax(axis=1)
    assert found["balanced"].value == pytest.approx(found["macro_recall"].value)
    assert found["kappa"].value == pytest.approx(oracle.cohen_kappa_score(labels, guess))
    assert found["margin"].value == pytest.approx(scores.max(axis=1).mean())
    assert found["auc"].value == pytest.approx(_auc(scores, labels))
    for name in ("balanced", "kappa", "margin", "auc"):
        assert found[name].low < found[name].value < found[name].high, name
    assert list(found)[-4:] == ["auc", "balanced", "kappa", "margin"]


def _auc(scores, labels):
    """The chance that a random example of class 0 has the higher score for it."""
    scores, is_first = np.asarray(scores)[:, 0], np.asarray(labels) == 0
    return oracle.roc_auc_score(is_first, scores)


def test_the_interval_of_a_perfect_custom_metric_has_a_width(add):
    labels = np.arange(60) % 3
    add("balanced", Metric(oracle.balanced_accuracy_score, "balanced accuracy", guesses))
    found = metrics.metrics_with_intervals(np.eye(3)[labels], labels, resamples=100)["balanced"]
    exact = scipy_stats.binomtest(60, 60).proportion_ci(0.95, method="exact")
    assert found.as_list() == pytest.approx([1.0, exact.low, 1.0])


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Metric(lambda *_: 1 / 0, "t"), "fails on a split of 30 examples: ZeroDivisionError"),
        (Metric(lambda *_: float("nan"), "t"), "must be finite, got nan for 30 examples"),
        (len, r"must be a Metric, got .*write metrics\.register"),
    ],
)
def test_the_error_of_a_failing_metric_names_its_file(add, metric, words):
    scores, labels = _example(30, 3)
    add("mine", metric)
    with pytest.raises(metrics.MetricError, match=rf"metric 'mine' \(.*test_metrics\.py.*{words}"):
        metrics.metrics_with_intervals(scores, labels, resamples=100)


def test_macro_intervals_are_those_of_each_metric_resampled_alone(example):
    scores, labels = example
    guess = scores.argmax(1)
    found = metrics.metrics_with_intervals(scores, labels, resamples=200, seed=3)
    for name, score in (
        ("macro_precision", oracle.precision_score),
        ("macro_recall", oracle.recall_score),
        ("macro_f1", oracle.f1_score),
    ):

        def figure(actual, predicted, score=score):
            return [score(actual, predicted, average="macro", zero_division=0)]

        (alone,) = stats.bootstrap_statistics(figure, labels, guess, resamples=200, seed=3)
        assert found[name].value == pytest.approx(alone.value, abs=1e-9)
        # The closed form can only widen the interval.
        assert found[name].low <= alone.low + 1e-9
        assert found[name].high >= alone.high - 1e-9
        (narrow,) = stats.bca_intervals(resampled_macro(name, labels, guess, 200, 3))
        assert (narrow.low, narrow.high) == pytest.approx((alone.low, alone.high), abs=1e-9)


def resampled_macro(name, labels, guess, resamples, seed):
    """The figures that `macro_average` computes from the counts that all averages share."""
    figure = {
        "macro_precision": lambda hits, actual, predicted: hits / np.maximum(predicted, 1),
        "macro_recall": lambda hits, actual, predicted: hits / np.maximum(actual, 1),
        "macro_f1": lambda hits, actual, predicted: 2 * hits / (predicted + actual),
    }[name]
    counts = resampled_counts(labels, guess, Sampling(resamples, 0.95, seed))
    estimates, *parts = (means_of_classes(figure, part) for part in vars(counts).values())
    return Resamples(estimates[0], *parts)


def test_metrics_of_parts_are_those_of_the_parts_alone(example):
    scores, labels = example
    half = np.arange(len(labels)) % 2 == 0
    parts = metrics.metrics_of_parts(scores, labels, [half, ~half], Sampling(200))
    for inside, found in zip((half, ~half), parts, strict=True):
        alone = metrics.metrics_with_intervals(scores[inside], labels[inside], resamples=200)
        assert found == alone
