"""Class names that differ from those of the live model, and the rows about comparisons."""

import json

import numpy as np
import pytest

from components.evaluation.predict_variants import BASELINE
from components.evaluation.references import align
from components.gates import Gate, GateSettings, Verdict, judge
from components.gates.live_gates import class_gate, compared_gate
from components.live import Live, PushedVersion
from trainers.evaluation.predictions import Predictions

COST = {"latency_ms_p50": 1.0, "size_bytes": 1, "gzip_bytes": 1}
FIGURES = {"saved_model": COST, "none_fp32": COST}


def live(*classes, **about):
    one = PushedVersion(4, "d", "none_fp32", tuple(classes))
    return Live("m", {}, served=4, baseline=4, versions={4: one}, **about)


def predicted(labels, guesses, classes):
    scores = np.full((len(labels), len(classes)), 0.01, np.float32)
    scores[np.arange(len(labels)), guesses] = 0.9
    ids = np.array([str(i) for i in range(len(labels))], object)
    return Predictions(ids, np.array(labels, np.int32), scores, {})


def gates(theirs, ours, *, new_classes="refuse"):
    """The verdict on a perfect candidate of `ours` against a perfect live model of `theirs`."""
    labels = np.arange(600) % len(ours)
    perfect = predicted(labels, labels, ours)
    table = {"saved_model": perfect, "none_fp32": perfect}
    other = predicted(
        labels, [(theirs.index(ours[i]) if ours[i] in theirs else 0) for i in labels], theirs
    )
    aligned = align(other, theirs, perfect, ours)
    if aligned is not None:
        table[BASELINE] = aligned
    (found,) = class_gate(live(*theirs), ours, table, new_classes)
    settings = GateSettings(new_classes=new_classes)
    verdict = judge(table, FIGURES, settings, classes=ours, checks=[found])
    return found, verdict


def held(found: Gate) -> bool:
    return found.passed


def test_another_order_is_not_a_difference():
    found, verdict = gates(("b", "c", "a"), ("a", "b", "c"))
    assert held(found)
    assert found.detail == "in another order, paired by name"
    assert verdict["blessed"]
    (change,) = [gate for gate in verdict["gates"] if gate["name"] == "change/top1"]
    assert change["value"] == 0


@pytest.mark.parametrize(
    ("theirs", "ours", "words", "images"),
    [
        (("a", "b"), ("a", "b", "c"), "added c, removed none", "400 of 600 images"),
        (("a", "b", "c"), ("a", "b"), "added none, removed c", "600 of 600 images"),
        (("a", "b", "kitty"), ("a", "b", "cat"), "added cat, removed kitty", "400 of 600 images"),
    ],
)
def test_other_names_are_refused_unless_accepted(theirs, ours, words, images):
    found, verdict = gates(theirs, ours)
    assert not held(found)
    assert not verdict["blessed"]
    assert words in found.detail
    assert images in found.detail
    assert "--accept-new-classes" in found.detail
    found, verdict = gates(theirs, ours, new_classes="accept")
    assert held(found)
    assert (found.verdict, found.waived) == (Verdict.FAILED, "accepted: gates.new_classes=accept")
    assert verdict["blessed"]


def test_without_a_common_class_the_missing_comparison_is_reported():
    found, verdict = gates(("x", "y"), ("a", "b"))
    assert not held(found)
    assert "nothing is compared" in found.detail
    assert not [gate for gate in verdict["gates"] if gate["name"] == "change/top1"]


def test_a_worse_model_is_found_by_the_common_classes():
    """New classes that only the candidate has do not compensate for its losses."""
    ours, theirs = ("a", "b", "c", "d"), ("a", "b")
    labels = np.arange(400) % 4
    # Wrong for a tenth of a and b, always correct for c and d.
    guesses = np.where((labels < 2) & (np.arange(400) % 10 < 2), 1 - labels, labels)
    candidate = predicted(labels, guesses, ours)
    before = align(
        predicted(labels, np.where(labels < 2, labels, 0), theirs), theirs, candidate, ours
    )
    table = {"saved_model": candidate, "none_fp32": candidate, BASELINE: before}
    settings = GateSettings(new_classes="accept")
    checks = class_gate(live(*theirs), ours, table, "accept")
    verdict = judge(table, FIGURES, settings, classes=ours, checks=checks)
    (change,) = [gate for gate in verdict["gates"] if gate["name"] == "change/top1"]
    assert change["value"] == pytest.approx(-0.2)
    assert not verdict["blessed"]


def test_settings_refuse_or_accept():
    with pytest.raises(ValueError, match=r"new_classes must be refuse or accept, got 'yes'"):
        GateSettings(new_classes="yes")


def test_before_the_first_push_nothing_is_compared(tmp_path):
    assert class_gate(Live("m", {}), ("a",), {}, "refuse") == []
    assert compared_gate(Live("m", {}), str(tmp_path), str(tmp_path)) == []


def test_one_row_lists_what_was_compared_and_what_was_not(tmp_path):
    made = {"versions": {"baseline": 4, "best": 2}, "how": {"baseline": "again", "best": "kept"}}
    (tmp_path / "compared.json").write_text(json.dumps(made))
    (tmp_path / "data").mkdir()
    rows = [
        {"model": "m", "version": 4, "compared": False, "reason": "no lineage"},
        {"model": "o", "version": 2, "compared": True, "reason": "only one has image/width"},
        {"model": "n", "version": None, "compared": False, "reason": "no version is live"},
    ]
    (tmp_path / "data" / "compared.json").write_text(json.dumps(rows))
    current = live("a", unusable={5: "its files were changed"})
    (found,) = compared_gate(current, str(tmp_path), str(tmp_path / "data"))
    assert held(found)
    assert found.value == 4
    assert found.detail == (
        "live version 4 (again); best ever version 2 (kept); version 5 is not compared with: its "
        "files were changed; drift is not checked against m 4: no lineage; drift is "
        "not checked in full against o 2: only one has image/width"
    )
