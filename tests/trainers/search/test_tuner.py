"""Searches over real digits: what is tried, what is kept, and what stops them."""

import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainers.config import ConfigError, override, to_dict
from trainers.data.features import DatasetInfo
from trainers.identity.code_digest import Code
from trainers.search import tuner
from trainers.search.tuner import (
    ConfigTuner,
    Trial,
    TuningError,
    make_space,
    tune,
    tuner_fn,
    with_values,
)
from trainers.training.epoch import TrainingError

# KerasTuner 1.4 reads the name of its thread with a deprecated function.
pytestmark = [
    pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:getName:DeprecationWarning"),
]

SPACE = {"optim.learning_rate": "log(1e-3, 1e-1)", "model.options.width": "choice(4, 8)"}


@pytest.fixture
def short(config):
    return override(config, ["train.epochs=1", "model.dropout=0", "optim.warmup_steps=0"])


@pytest.fixture
def scores(monkeypatch):
    """Replaces training by a function of the configuration that a test sets."""
    given = SimpleNamespace(of=None, seen=[])

    def fit(config, work_dir, *, report=None, **about):
        given.seen.append(config)
        top1 = given.of(config)
        row = {"epoch": 1, "val_top1": top1, "val_loss": 1 - top1}
        worse = {"epoch": 2, "val_top1": top1 / 2, "val_loss": 9.0}
        return SimpleNamespace(history=[row, worse], best_epoch=1, chosen=row)

    monkeypatch.setattr(tuner, "fit", fit)
    return given


def test_trials_train_and_the_best_is_judged_by_validation(short, tmp_path):
    found = tune(short, SPACE, work_dir=tmp_path, trials=2)
    assert len(found) == 2
    assert found[0].top1 >= found[1].top1
    assert found[0].values != found[1].values
    again = tuner.fit(with_values(short, found[0].values), tmp_path, report=pytest.fail)
    assert max(row["val_top1"] for row in again.history) == pytest.approx(found[0].top1)


def test_a_search_keeps_to_its_space_and_its_seed(short, tmp_path, scores):
    scores.of = lambda config: config.optim.learning_rate
    space = {**SPACE, "train.ema": "uniform(0, 0.5)", "optim.warmup_steps": "int(2, 4)"}
    found = tune(short, space, work_dir=tmp_path / "a", trials=12)
    assert [trial.top1 for trial in found] == sorted((t.top1 for t in found), reverse=True)
    rates = [config.optim.learning_rate for config in scores.seen]
    assert all(1e-3 <= rate <= 1e-1 for rate in rates)
    # Half of a logarithmic range lies below its geometric mean.
    assert 2 <= sum(rate < 1e-2 for rate in rates) <= 10
    assert {config.model.options["width"] for config in scores.seen} == {4, 8}
    assert {config.optim.warmup_steps for config in scores.seen} <= {2, 3, 4}
    assert all(0 <= config.train.ema <= 0.5 for config in scores.seen)
    assert tune(short, space, work_dir=tmp_path / "b", trials=12) == found
    other = override(short, ["train.seed=9"])
    assert tune(other, space, work_dir=tmp_path / "c", trials=12) != found


def test_a_search_goes_on_where_it_was(short, tmp_path, scores):
    def stop_at_third(config):
        if len(scores.seen) == 3:
            raise KeyboardInterrupt
        return 0.5

    scores.of = stop_at_third
    with pytest.raises(KeyboardInterrupt):
        tune(short, SPACE, work_dir=tmp_path, trials=4)
    scores.of = lambda config: 0.5
    found = tune(short, SPACE, work_dir=tmp_path, trials=4)
    assert [trial.top1 for trial in found] == [0.5] * 4
    # Two were done; another space starts from the beginning.
    assert len(scores.seen) == 3 + 2
    tune(short, {"model.dropout": "uniform(0, 0.5)"}, work_dir=tmp_path, trials=1)
    assert len(scores.seen) == 6


def test_a_trial_that_diverges_does_not_end_the_search(short, tmp_path, scores):
    def unlucky(config):
        if len(scores.seen) < 4:
            raise TrainingError("the loss was not finite at step 1")
        return 0.4

    scores.of = unlucky
    found = tune(short, SPACE, work_dir=tmp_path, trials=4)
    assert [trial.top1 for trial in found] == [0.4, None, None, None]


def test_a_search_without_a_score_is_an_error(short, tmp_path, scores):
    def unlucky(config):
        raise TrainingError("the loss was not finite at step 1")

    scores.of = unlucky
    with pytest.raises(
        TuningError, match=r"none of 4 trials has a score:\n.*learning_rate.*step 1"
    ):
        tune(short, SPACE, work_dir=tmp_path, trials=4)
    with pytest.raises(TuningError, match="none of 4 trials"):
        tune(short, SPACE, work_dir=tmp_path, trials=4)
    scores.of = lambda config: math.nan
    with pytest.raises((TuningError, RuntimeError)):
        tune(short, SPACE, work_dir=tmp_path / "nan", trials=2)


def test_what_every_trial_would_meet_ends_the_search_at_once(short, tmp_path, scores):
    def broken(config):
        raise ImportError("no tensorboard")

    scores.of = broken
    with pytest.raises(Exception, match="ImportError: no tensorboard"):
        tune(short, SPACE, work_dir=tmp_path, trials=4)
    assert len(scores.seen) == 1


def test_trials_may_be_shorter_than_the_recipe(short, tmp_path, scores):
    scores.of = lambda config: 0.5
    tune(override(short, ["train.epochs=9"]), SPACE, work_dir=tmp_path, trials=1, epochs=2)
    assert [config.train.epochs for config in scores.seen] == [2]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "nothing to tune"),
        ({"optim.learning_rat": "log(1e-4, 1)"}, "did you mean learning_rate"),
        ({"optim.learning_rate": "1e-4 to 1"}, r"is not a range; write log\(1e-4, 1e-1\)"),
        ({"optim.learning_rate": "lognormal(1, 2)"}, "is not a range"),
        ({"optim.learning_rate": "log(0, 1)"}, "two numbers, the lower above 0 first"),
        ({"optim.learning_rate": "log(1, 0.1)"}, "two numbers, the lower"),
        ({"optim.learning_rate": "uniform(0.1)"}, "two numbers"),
        ({"model.dropout": "uniform(0, 1)"}, r"model.dropout must be in \[0, 1\), got 1.0"),
        ({"train.epochs": "uniform(1, 3)"}, "train.epochs takes int, got 1.0"),
        ({"train.epochs": "int(1, 2.5)"}, "two numbers"),
        ({"optim.name": "choice(sgd, adamm)"}, "optim.name must be sgd, adam"),
        ({"optim.name": "choice(sgd, 3)"}, "mixes numbers and words"),
        ({"optim.name": "choice()"}, "names nothing"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space, message, config):
    with pytest.raises(ConfigError, match=message):
        make_space(config, space)


def test_no_trials_are_refused(config, tmp_path):
    with pytest.raises(ConfigError, match="at least 1 trial, got 0"):
        tune(config, SPACE, work_dir=tmp_path, trials=0)


def test_the_figures_are_of_the_best_epoch(short, tmp_path, scores):
    scores.of = lambda config: 0.8
    assert tune(short, SPACE, work_dir=tmp_path, trials=1) == [
        Trial(tune(short, SPACE, work_dir=tmp_path, trials=1)[0].values, 0.8)
    ]


def test_tfx_gets_a_tuner_whose_best_values_are_plain(short, tmp_path, scores):
    scores.of = lambda config: config.optim.learning_rate
    custom = {
        "config": to_dict(short),
        "work_dir": str(tmp_path),
        "space": SPACE,
        "trials": 3,
        "epochs": 0,
    }
    result = tuner_fn(SimpleNamespace(custom_config=custom))
    assert isinstance(result.tuner, ConfigTuner)
    result.tuner.search(**result.fit_kwargs)
    written = json.loads(json.dumps(result.tuner.get_best_hyperparameters()[0].get_config()))
    best = max(config.optim.learning_rate for config in scores.seen)
    assert with_values(short, written["values"]).optim.learning_rate == best


def test_a_search_of_other_code_starts_over_or_is_resumed(short, tmp_path, scores, monkeypatch):
    scores.of = lambda config: config.optim.learning_rate
    search = {"work_dir": tmp_path, "trials": 3}
    said = []
    first = tune(short, SPACE, **search, announce=said.append)
    assert tune(short, SPACE, **search, announce=said.append) == first
    assert (len(scores.seen), said) == (3, [])
    (kept,) = (tmp_path / "search").iterdir()

    before = Code({"trainers.search.tuner": "0"}, {"keras-tuner": "1.0"})
    monkeypatch.setattr("trainers.search.search_state.code_of", lambda *modules, index: before)
    assert tune(short, SPACE, **search, announce=said.append, resume_anyway=True) == first
    assert len(scores.seen) == 3
    (line,) = said
    assert line.startswith(f"search resumes from {kept} (3 of 3 trials, commit ")
    assert "as --resume-anyway demands, although the code changed since (" in line
    assert "keras-tuner 1.4" in line
    assert {file.name for file in kept.iterdir()} > {"oracle.json", "identity.json"}

    after = Code({"trainers.search.tuner": "1"}, {"keras-tuner": "1.0"})
    monkeypatch.setattr("trainers.search.search_state.code_of", lambda *modules, index: after)
    said.clear()
    assert tune(short, SPACE, **search, announce=said.append) == first, "the same seed"
    assert len(scores.seen) == 6
    (line,) = said
    assert line.startswith(f"search starts over and keeps {tmp_path / 'search'}/")
    assert line.endswith(
        ": the code changed since (trainers.search.tuner); --resume-anyway resumes from it"
    )
    assert len(list((tmp_path / "search").iterdir())) == 3


def test_a_search_of_a_version_without_identities_is_of_unknown_code(short, tmp_path, scores):
    scores.of = lambda config: 0.5
    info = DatasetInfo.load(Path(short.data.dir))
    # As `trainers.search.tuner` of version b54914a named it.
    parts = [to_dict(short), SPACE, 2, info.fingerprint]
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    tune(short, SPACE, work_dir=tmp_path, trials=2)
    (made,) = (tmp_path / "search").iterdir()
    made.rename(made.with_name(name))
    (tmp_path / "search" / name / "identity.json").unlink()
    said = []
    tune(short, SPACE, work_dir=tmp_path, trials=2, announce=said.append, resume_anyway=True)
    assert len(scores.seen) == 2
    assert said == [
        f"search resumes from {tmp_path / 'search' / name} (2 of 2 trials, commit unknown), as "
        "--resume-anyway demands, although it was started by unknown code"
    ]


def test_a_search_hands_its_options_to_every_trial(short, tmp_path, monkeypatch):
    given = []

    def fit(config, work_dir, **about):
        given.append(about)
        row = {"epoch": 1, "val_top1": 0.5, "val_loss": 1.0}
        return SimpleNamespace(history=[row], best_epoch=1, chosen=row)

    monkeypatch.setattr(tuner, "fit", fit)
    tune(short, SPACE, work_dir=tmp_path, trials=1, announce=print, resume_anyway=True)
    assert given == [{"report": None, "announce": print, "resume_anyway": True, "index": None}]
