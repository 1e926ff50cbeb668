"""The sentences on an analysis agree with scikit-learn's and SciPy's figures."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score

from tfx_pipeline.report.evaluation.findings import findings
from trainers.evaluation.analysis import analyze
from trainers.evaluation.comparison import ModelPredictions

CLASSES = ("Male", "Female")


def sentences(labels, guess):
    labels, guess = np.asarray(labels, np.int32), np.asarray(guess)
    scores = np.where(np.arange(2) == guess[:, None], 0.8, 0.2).astype(np.float32)
    ids = np.array([f"{i:064x}" for i in range(len(labels))], object)
    return list(findings(analyze(ModelPredictions(ids, labels, scores, {}, "m", CLASSES))))


def percent(share):
    return f"{100 * share:.1f} %"


def test_a_model_that_predicts_one_class_is_named_as_such():
    labels = np.arange(300) < 100  # A third is Female.
    found = sentences(labels, np.ones(300, int))
    assert found[0] == "the model predicts Female for all 300 images"
    assert found[1].endswith("is below the share of the most common class, 66.7 % (Male)")
    found = sentences(labels, np.zeros(300, int))
    assert found[0] == "the model predicts Male for all 300 images"
    assert not any("most common" in one for one in found), "top-1 is the share of this class"


def test_a_model_that_is_right_about_one_class_is_not_trivial():
    found = sentences(np.zeros(50, int), np.zeros(50, int))
    assert not any("predicts" in one or "most common" in one for one in found)
    assert found[-1].startswith("0 of 50 images")


@pytest.mark.parametrize(("right", "stated"), [(150, True), (186, False), (190, False)])
def test_top1_below_the_most_common_class_is_stated_where_its_interval_is(right, stated):
    labels = (np.arange(300) < 100).astype(int)
    guess = np.where(np.arange(300) < right, labels, 1 - labels)
    low, high = stats.binomtest(right, 300).proportion_ci(method="exact")
    assert (high < 200 / 300) == stated
    found = [one for one in sentences(labels, guess) if "most common class" in one]
    top1 = percent(accuracy_score(labels, guess))
    expected = (
        f"top-1, {top1} ({100 * low:.1f} to {100 * high:.1f}), is below the share of the most "
        "common class, 66.7 % (Male)"
    )
    assert found == [expected] * stated


def test_errors_have_a_share_with_an_interval():
    labels = (np.arange(307) % 2).astype(int)
    guess = np.where(np.arange(307) < 164, 1 - labels, labels)
    low, high = stats.binomtest(164, 307).proportion_ci(method="exact")
    start = f"164 of 307 images (53.4 %, {100 * low:.1f} to {100 * high:.1f}) are wrong; "
    last = sentences(labels, guess)[-1]
    assert last.startswith(start)
    assert last.endswith("labels are suspect")
    guess = np.where(np.arange(307) < 1, 1 - labels, labels)
    assert sentences(labels, guess)[-1].startswith("1 of 307 images (0.3 %, 0.0 to 1.8) is wrong;")
