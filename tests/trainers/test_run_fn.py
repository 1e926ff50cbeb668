"""TFX's adapter, without TFX."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from trainers.config import ConfigError, override, to_dict
from trainers.identity.code_digest import Code
from trainers.run_fn import run_fn
from trainers.training.progress import EVENTS_FD, RESUME_ANYWAY
from trainers.training.trained import load_trained


class Stopped(Exception):
    """Ends a run at its first epoch."""


def arguments(config, work_dir, out, hyperparameters=None):
    custom = {"config": to_dict(config), "work_dir": str(work_dir), "code_digest": "c"}
    return SimpleNamespace(
        custom_config=custom, serving_model_dir=str(out), hyperparameters=hyperparameters
    )


def test_it_goes_on_in_the_work_dir_and_leaves_a_trained_model(
    config, trained, work_dir, tmp_path, monkeypatch
):
    read, write = os.pipe()
    monkeypatch.setenv(EVENTS_FD, str(write))
    run_fn(arguments(config, work_dir, tmp_path / "Format-Serving"))
    os.close(write)
    with os.fdopen(read) as events:
        assert events.read() == "", "the work was done before"
    again = load_trained(tmp_path / "Format-Serving")
    assert again.history == trained.history
    for ours, theirs in zip(again.model.get_weights(), trained.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_wrong_config_writes_nothing(config, tmp_path):
    given = arguments(config, tmp_path / "work", tmp_path / "out")
    given.custom_config["config"]["train"]["epoch"] = 3
    with pytest.raises(ConfigError, match=r"unknown config key 'train.epoch'"):
        run_fn(given)
    assert list(tmp_path.iterdir()) == []


def test_tuned_values_are_the_configurations(config, work_dir, tmp_path):
    tuned = {"space": [], "values": {"optim.learning_rate": 0.02, "model.options.width": 4}}
    short = override(config, ["train.epochs=1", "optim.learning_rate=9"])
    run_fn(arguments(short, tmp_path / "work", tmp_path / "out", tuned))
    found = load_trained(tmp_path / "out")
    assert found.config.optim.learning_rate == 0.02
    assert found.config.model.options == {**config.model.options, "width": 4}


def test_other_code_starts_over_unless_the_environment_says_otherwise(
    config, trained, work_dir, tmp_path, monkeypatch, capsys
):
    """Both cases are announced on the pipe of events."""
    changed = Code({"trainers.loop": "0"}, {})
    monkeypatch.setattr("trainers.training.run_folder.code_of", lambda *modules, index: changed)
    work = shutil.copytree(work_dir, tmp_path / "work")
    read, write = os.pipe()
    monkeypatch.setenv(EVENTS_FD, str(write))
    monkeypatch.setenv(RESUME_ANYWAY, "1")
    run_fn(arguments(config, work, tmp_path / "out"))
    os.close(write)
    with os.fdopen(read) as pipe:
        events = [json.loads(line) for line in pipe]
    assert [event["event"] for event in events] == ["announcement"]
    assert "although the code changed since (" in events[0]["line"]
    assert events[0]["line"] in capsys.readouterr().out
    assert load_trained(tmp_path / "out").history == trained.history

    monkeypatch.delenv(EVENTS_FD)
    monkeypatch.delenv(RESUME_ANYWAY)
    changed = Code({"trainers.loop": "1"}, {})
    monkeypatch.setattr("trainers.loop.run_epoch", lambda *a: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        run_fn(arguments(config, work, tmp_path / "again"))
    assert "starts over and keeps" in capsys.readouterr().out
