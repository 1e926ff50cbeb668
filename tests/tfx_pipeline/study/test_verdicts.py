"""The rules of verdicts, as a table of cases."""

import pytest

from tfx_pipeline.study.figures import StudyFigure
from tfx_pipeline.study.verdicts import (
    CONTRADICTED,
    REPRODUCED,
    UNDECIDED,
    Conditions,
    absolute,
    consistent,
    counted,
    ordering,
    without_loss,
)
from trainers.evaluation.stats import Interval

ALL = Conditions(epochs=100, recipe_epochs=100)
SOME = Conditions(epochs=4, recipe_epochs=30)
ELSEWHERE = Conditions(differs=("another machine",))


def interval(low, high):
    return Interval((low + high) / 2, low, high)


def figure(text, unit="fraction"):
    return StudyFigure(float(text), unit, "a table", text)


@pytest.mark.parametrize(
    ("ours", "study", "conditions", "word", "why"),
    [
        (interval(0.74, 0.78), figure("0.76"), ALL, REPRODUCED, "agree"),
        (interval(0.70, 0.73), figure("0.76"), ALL, CONTRADICTED, "do not overlap"),
        (interval(0.76, 0.78), figure("0.76"), ALL, REPRODUCED, "agree"),
        # Only the rounding of the study's figure reaches into the interval.
        (interval(0.763, 0.78), figure("0.76"), ALL, UNDECIDED, "the study's rounding"),
        (interval(0.74, 0.757), figure("0.76"), ALL, UNDECIDED, "the study's rounding"),
        (interval(0.763, 0.78), figure("0.760"), ALL, CONTRADICTED, "do not overlap"),
        # Two seeds with equal losses.
        (interval(0.76, 0.76), figure("0.76"), ALL, UNDECIDED, "no width"),
        # A value within the interval is not reproduced by a shorter training.
        (interval(0.74, 0.78), figure("0.76"), SOME, UNDECIDED, "4 of 30 epochs"),
        (interval(0.10, 0.12), figure("0.76"), SOME, UNDECIDED, "4 of 30 epochs"),
        (interval(17, 19), figure("18", "ms"), ELSEWHERE, UNDECIDED, "another machine"),
        (interval(0.74, 0.78), None, ALL, UNDECIDED, "not at hand"),
        (None, figure("0.76"), ALL, UNDECIDED, "no interval"),
        (None, None, SOME, UNDECIDED, "4 of 30 epochs"),
    ],
)
def test_absolute_figures(ours, study, conditions, word, why):
    found = absolute(ours, study, conditions)
    assert found.word == word
    assert why in found.why


@pytest.mark.parametrize(
    ("differences", "conditions", "word", "why"),
    [
        ([interval(0.01, 0.05)], ALL, REPRODUCED, "exclude 0"),
        ([interval(0.01, 0.05), interval(0.001, 0.1)], ALL, REPRODUCED, "exclude 0"),
        # The point estimate is above 0, the interval is not.
        ([interval(-0.01, 0.05)], ALL, UNDECIDED, "includes 0"),
        ([interval(0.01, 0.05), interval(-0.001, 0.1)], ALL, UNDECIDED, "includes 0"),
        ([interval(-0.05, -0.01)], ALL, CONTRADICTED, "below 0"),
        ([interval(-0.05, -0.01), interval(-0.1, 0.1)], ALL, UNDECIDED, "includes 0"),
        ([interval(0.0, 0.05)], ALL, UNDECIDED, "includes 0"),
        # Two seeds with equal differences.
        ([interval(0.02, 0.02), interval(0.01, 0.05)], ALL, UNDECIDED, "no width"),
        ([interval(0.01, 0.05)], SOME, UNDECIDED, "4 of 30 epochs"),
        ([interval(-0.05, -0.01)], SOME, UNDECIDED, "4 of 30 epochs"),
        ([interval(0.01, 0.05), None], ALL, UNDECIDED, "not all intervals"),
        ([], ALL, UNDECIDED, "not all intervals"),
    ],
)
def test_orderings_need_every_interval(differences, conditions, word, why):
    found = ordering("A above B", differences, conditions)
    assert found.word == word
    assert why in found.why


@pytest.mark.parametrize(
    ("difference", "conditions", "word"),
    [
        (interval(-0.01, 0.01), ALL, REPRODUCED),
        (interval(-0.02, 0.0), ALL, REPRODUCED),
        (interval(-0.03, 0.01), ALL, UNDECIDED),
        # Significantly worse, but by less than the margin or not surely by more.
        (interval(-0.03, -0.01), ALL, UNDECIDED),
        (interval(-0.05, -0.03), ALL, CONTRADICTED),
        (interval(-0.01, 0.01), SOME, UNDECIDED),
        (None, ALL, UNDECIDED),
    ],
)
def test_losses_have_a_margin(difference, conditions, word):
    assert without_loss(difference, conditions, margin=0.02).word == word


@pytest.mark.parametrize(
    ("ours", "study", "word"),
    [
        (35.13, figure("7.98", "GFLOP"), CONTRADICTED),
        (7.99, figure("7.98", "GFLOP"), REPRODUCED),
        (8.18, figure("8.2", "GFLOP"), REPRODUCED),
        (8.18, figure("4.1", "GFLOP"), CONTRADICTED),
        (0.3, figure("0", "GFLOP"), REPRODUCED),
        (25.6, figure("2.5e1", "million"), REPRODUCED),
        (12.0, figure("1e1", "million"), REPRODUCED),
        (16.0, figure("1e1", "million"), CONTRADICTED),
        (8.18, None, UNDECIDED),
    ],
)
def test_counts_allow_for_rounding_and_conventions(ours, study, word):
    assert counted(ours, study).word == word


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        (figure("18", "ms"), figure("26", "ms"), CONTRADICTED),
        (figure("18", "ms"), figure("18.2", "ms"), REPRODUCED),
        (figure("18", "ms"), figure("18.9", "ms"), CONTRADICTED),
        (figure("18", "ms"), None, UNDECIDED),
    ],
)
def test_two_figures_of_one_quantity_agree_within_rounding(first, second, word):
    assert consistent(first, second, hint="a reason").word == word
