"""Event files, read back with TensorBoard's own reader."""

from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from trainers.training.event_log import EventLog

PROGRESS = {
    "epoch": 2,
    "epochs": 3,
    "step": 5,
    "steps": 40,
    "loss": 0.75,
    "top1": 0.5,
    "learning_rate": 0.1,
    "images_per_second": 900.0,
    "input_stall": 0.25,
    "eta_seconds": 7.0,
    "mfu": None,
}


def read(folder):
    """Tag -> [(step, value)]."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return {
        tag: [(e.step, make_ndarray(e.tensor_proto).item()) for e in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    }


def test_epochs_are_curves_of_two_runs(tmp_path):
    log = EventLog(tmp_path)
    log.write({"epoch": 1, "loss": 1.5, "top1": 0.25, "val_loss": 1.25, "val_top1": 0.5}, 40)
    log.write({"epoch": 2, "loss": 1.0, "top1": 0.5, "val_loss": 0.75, "note": "best"}, 80)
    # Read while the log is open: a run that is killed has lost nothing.
    assert read(tmp_path / "train") == {
        "epoch/epoch": [(40, 1.0), (80, 2.0)],
        "epoch/loss": [(40, 1.5), (80, 1.0)],
        "epoch/top1": [(40, 0.25), (80, 0.5)],
    }
    assert read(tmp_path / "validation") == {
        "epoch/loss": [(40, 1.25), (80, 0.75)],
        "epoch/top1": [(40, 0.5)],
    }


def test_a_run_that_goes_on_adds_to_its_curves(tmp_path):
    first = EventLog(tmp_path)
    first.write({"loss": 2.0}, 10)
    first.close()
    EventLog(tmp_path).write({"loss": 1.0}, 20)
    # Two files of one second differ by their process and number.
    assert len(list((tmp_path / "train").iterdir())) == 2
    assert read(tmp_path / "train")["epoch/loss"] == [(10, 2.0), (20, 1.0)]


def test_progress_is_written_now_and_then(tmp_path):
    log = EventLog(tmp_path, every_seconds=3600)
    log.progress(SimpleNamespace(**PROGRESS))
    log.progress(SimpleNamespace(**{**PROGRESS, "step": 6}))
    found = read(tmp_path / "train")
    assert found.pop("step/learning_rate") == [(45, pytest.approx(0.1))]
    assert found == {
        "step/loss": [(45, 0.75)],
        "step/top1": [(45, 0.5)],
        "step/images_per_second": [(45, 900.0)],
        "step/input_stall": [(45, 0.25)],
    }


def test_every_report_is_written_when_asked_for(tmp_path):
    log = EventLog(tmp_path, every_seconds=0)
    for step in (1, 2, 3):
        log.progress(SimpleNamespace(**{**PROGRESS, "step": step, "loss": np.nan}))
    steps, values = zip(*read(tmp_path / "train")["step/loss"], strict=True)
    assert steps == (41, 42, 43)
    assert np.isnan(values).all()


def test_a_log_that_nothing_was_written_to_leaves_no_folder(tmp_path):
    EventLog(tmp_path / "events").write({}, 1)
    assert not (tmp_path / "events").exists()
