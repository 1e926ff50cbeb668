"""Gates against a linear probe and the most common class, on handmade tables."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from components.evaluation.columns import ships
from components.evaluation.predict_variants import PROBE
from components.gates import GateSettings
from components.gates.decide import judge
from trainers.config import ConfigError, override
from trainers.evaluation.predictions import Predictions

CLASSES = ("cat", "dog", "fox")
COST = {"latency_ms_p50": 1.0, "size_bytes": 1000, "gzip_bytes": 1000}


def predictions(guess, labels):
    scores = np.full((len(labels), 3), 0.01, np.float32)
    scores[np.arange(len(labels)), guess] = 0.98
    ids = np.array([f"{i:064x}" for i in range(len(labels))], dtype=object)
    return Predictions(ids, labels.astype(np.int32), scores, {})


def wrong_on(images, rows):
    labels = np.arange(images) % 3
    guess = labels.copy()
    guess[list(rows)] = (labels[list(rows)] + 1) % 3
    return predictions(guess, labels)


def judged(column, *, settings=None, **others):
    table = {"saved_model": column, "none_fp32": column, **others}
    figures = dict.fromkeys(table, COST)
    return judge(table, figures, settings or GateSettings(), classes=CLASSES)


def row(found, name="value/linear_probe"):
    (gate,) = [gate for gate in found["gates"] if gate["name"] == name]
    return gate


def wald(gained, lost, images):
    """High end of the textbook interval of a paired difference, which is close enough here."""
    difference = (gained - lost) / images
    error = np.sqrt((gained + lost) / images - difference**2) / np.sqrt(images)
    return difference + scipy_stats.norm.ppf(0.975) * error


@pytest.mark.parametrize(
    ("ours", "theirs", "refused"),
    [
        (range(40), range(10), True),  # 30 lost, 0 gained
        (range(100, 140), range(40), False),  # 40 lost, 40 gained
        (range(16), range(10), True),  # 6 lost, 0 gained
        (range(11), range(10), False),  # 1 lost: its interval contains 0
        (range(0), range(50), False),
    ],
)
def test_a_model_with_an_interval_below_the_probe_is_refused(ours, theirs, refused):
    ours, theirs = set(ours), set(theirs)
    found = judged(wrong_on(300, ours), probe=wrong_on(300, theirs))
    gate = row(found)
    gained, lost = len(theirs - ours), len(ours - theirs)
    if lost != 1:  # Too few changes for the textbook's interval.
        assert (wald(gained, lost, 300) < 0) == refused
    assert gate["verdict"] == ("failed" if refused else "held")
    assert found["blessed"] is not refused
    assert gate["value"] == pytest.approx((gained - lost) / 300)
    assert (
        f"{gained} of 300 images gained and {lost} lost against the linear probe" in gate["detail"]
    )


def test_only_its_own_setting_accepts_a_refused_model():
    columns = {"column": wrong_on(300, range(40)), "probe": wrong_on(300, range(5))}
    for settings in (GateSettings(undecided="accept"), GateSettings(below_majority="accept")):
        assert not judged(**columns, settings=settings)["blessed"]
    found = judged(**columns, settings=override(GateSettings(), ["below_probe=accept"]))
    assert found["blessed"]
    assert row(found)["waived"] == "accepted: gates.below_probe=accept"
    with pytest.raises(ConfigError, match=r"gates\.below_probe must be refuse or accept"):
        GateSettings(below_probe="ignore")


def test_without_a_probe_the_gate_does_not_apply():
    gate = row(judged(wrong_on(300, range(40))))
    assert gate["verdict"] == "held"
    assert gate["detail"].startswith("does not apply")


def test_the_probe_is_a_reference_and_never_ships():
    found = judged(wrong_on(300, range(5)), probe=wrong_on(300, range(3)))
    assert not ships(PROBE)
    assert found["recommended"] == "none_fp32"
    assert found["dropped"] == []
    assert set(found["excludable_drop"]["excluded"]) == {"probe"}


def test_a_model_that_ignores_the_image_is_refused_unless_that_is_accepted():
    labels = (np.arange(90) % 30 > 14).astype(int)
    found = judged(predictions(np.zeros(90, int), labels))
    assert row(found, "value/above_majority")["verdict"] == "failed"
    assert not found["blessed"]
    accepted = judged(
        predictions(np.zeros(90, int), labels), settings=GateSettings(below_majority="accept")
    )
    assert accepted["blessed"]


@pytest.mark.parametrize("right", [45, 50, 55, 60, 70])
def test_the_lead_over_the_most_common_class_must_be_significant(right):
    """Against the exact binomial test of the same count with a known share of one half."""
    labels = np.arange(90) % 2
    guess = labels.copy()
    guess[right:] = 1 - guess[right:]
    gate = row(judged(predictions(guess, labels)), "value/above_majority")
    p = scipy_stats.binomtest(right, 90, 0.5, alternative="greater").pvalue
    if p > 0.1:
        assert gate["verdict"] != "held"
    if p < 0.001:
        assert gate["verdict"] == "held"
