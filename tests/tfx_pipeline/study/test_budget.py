"""The budget of a study: durations, and allotments as properties."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_pipeline.study.budget import BudgetError, Training, allot, duration, parse_budget


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60m", 3600), ("1.5h", 5400), ("90s", 90), ("2h30m", 9000), ("1d", 86400), (" 10M ", 600)],
)
def test_durations(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["60", "", "1 hour", "m", "-5m", "1h 30", "nan", "0m", "5x"])
def test_other_budgets_are_refused_with_an_example(text):
    with pytest.raises(BudgetError, match="60m"):
        parse_budget(text)


@given(st.floats(1, 1e6))
def test_a_duration_is_never_shorter_than_what_it_is_of(seconds):
    assert parse_budget(duration(seconds)) >= seconds
    assert parse_budget(duration(seconds)) <= seconds + 60


def trainings():
    one = st.builds(
        Training,
        name=st.just(""),
        epochs=st.integers(1, 100),
        epoch_s=st.floats(0.1, 500),
        overhead_s=st.floats(0, 100),
        runs=st.integers(1, 5),
        is_required=st.booleans(),
    )

    def named(found):
        return [
            Training(f"t{at}", **{k: v for k, v in vars(each).items() if k != "name"})
            for at, each in enumerate(sorted(found, key=lambda each: not each.is_required))
        ]

    return st.lists(one, min_size=1, max_size=8).map(named)


@settings(deadline=None)
@given(trainings(), st.floats(0, 1e6))
def test_an_allotment_fits_into_its_budget(found, seconds):
    least = sum(one.runs * (one.overhead_s + one.epoch_s) for one in found if one.is_required)
    if least > seconds:
        with pytest.raises(BudgetError, match="at least"):
            allot(found, seconds)
        return
    epochs = allot(found, seconds)
    spent = sum(
        one.runs * (one.overhead_s + epochs[one.name] * one.epoch_s)
        for one in found
        if epochs[one.name]
    )
    assert spent <= seconds * (1 + 1e-9)
    assert all(0 <= epochs[one.name] <= one.epochs for one in found)
    assert all(epochs[one.name] for one in found if one.is_required)
    # The last optional ones are left out first.
    kept = [bool(epochs[one.name]) for one in found]
    assert kept == sorted(kept, reverse=True)


@settings(deadline=None)
@given(trainings(), st.floats(0, 1e6))
def test_time_is_left_only_where_a_less_trained_one_does_not_fit(found, seconds):
    try:
        epochs = allot(found, seconds)
    except BudgetError:
        return
    kept = [one for one in found if epochs[one.name]]
    spent = sum(one.seconds(epochs[one.name]) for one in kept)
    short = [one for one in kept if epochs[one.name] < one.epochs]
    fits = {one.name: spent + one.runs * one.epoch_s < seconds * (1 - 1e-9) for one in short}
    share = {one.name: (epochs[one.name] + 1) / one.epochs for one in short}
    for one in short:
        if fits[one.name]:
            assert any(share[b.name] < share[one.name] for b in short if not fits[b.name])


def test_tied_trainings_have_equal_epochs():
    vit = Training("vit", 26, 10.0, 1.0, runs=3, is_required=True)
    distilled = Training("distilled", 26, 12.0, 1.0, tied_to="vit")
    for seconds in range(60, 1200, 50):
        epochs = allot([vit, distilled], seconds)
        assert epochs["distilled"] in (0, epochs["vit"])


def test_all_trainings_get_about_the_same_share_of_their_recipes():
    found = [
        Training("cnn", 20, 5.0, 2.0, runs=3, is_required=True),
        Training("resnet", 20, 9.0, 2.0, runs=3, is_required=True),
        Training("vit", 26, 12.0, 2.0, runs=3, is_required=True),
    ]
    epochs = allot(found, 900)
    shares = [epochs[one.name] / one.epochs for one in found]
    assert max(shares) - min(shares) <= 1 / 20 + 1e-9
