"""A run that was stopped, at any step and in any way, ends like one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers.config import override, to_dict
from trainers.loop import fit
from trainers.training.step import TrainStep

pytestmark = pytest.mark.onednn

ROOT = Path(__file__).resolve().parents[3]
STEPS = 3
SMALL = 'model.options={"width": 4, "depth": 1, "stages": 1}'

# Sleeps inside epoch 3, with two epochs saved, until it is killed.
CHILD = """
import json, sys, time
from pathlib import Path
from trainers.config import from_dict
from trainers.loop import fit

def report(progress):
    if progress.epoch == 3:
        print("in epoch 3", flush=True)
        time.sleep(600)

fit(from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), report=report)
"""


# Kills itself, as the kernel would, before the step whose number it is given.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from trainers.config import from_dict
from trainers.loop import fit
from trainers.training.step import TrainStep

left, take = int(sys.argv[3]), TrainStep.__call__

def counted(self, batch):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    take(self, batch)

TrainStep.__call__ = counted
fit(from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]))
"""

# A run of six steps, and the same one interrupted at the fifth.
BITWISE = """
import json, sys
from pathlib import Path
import numpy as np
from trainers.config import from_dict
from trainers.loop import fit
from trainers.training.step import TrainStep

config, out = from_dict(json.loads(sys.argv[1])), Path(sys.argv[2])
take, left = TrainStep.__call__, [0]

class Stop(Exception):
    pass

def counted(self, batch):
    if left[0] == 0:
        raise Stop
    left[0] -= 1
    take(self, batch)

def figures(trained):
    kept = ("loss", "top1", "learning_rate", "val_loss", "val_top1")
    rows = [[row[name] for name in kept] for row in trained.history]
    return np.array(rows), trained.model.get_weights()

whole = figures(fit(config, out / "whole"))
TrainStep.__call__ = counted
stops = 0
while True:
    left[0] = 4
    try:
        parts = figures(fit(config, out / "parts"))
        break
    except Stop:
        stops += 1
assert stops == 1, stops
assert whole[0].tobytes() == parts[0].tobytes()
for one, other in zip(whole[1], parts[1], strict=True):
    assert one.tobytes() == other.tobytes()
print("equal")
"""


def test_a_run_that_was_interrupted_ends_like_one_that_was_not(config, trained, tmp_path, figures):
    def interrupt(progress):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, tmp_path, report=interrupt)
    seen = []
    resumed = fit(config, tmp_path, report=seen.append)
    np.testing.assert_allclose(figures(resumed.history), figures(trained.history), atol=1e-5)
    assert resumed.best_epoch == trained.best_epoch
    for ours, theirs in zip(resumed.model.get_weights(), trained.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert {one.epoch for one in seen} == {2, 3}
    last = seen[-1]
    assert (last.step, last.steps, last.epochs, last.eta_seconds) == (STEPS, STEPS, 3, 0.0)
    assert last.loss == pytest.approx(trained.history[-1]["loss"], abs=1e-5)
    assert last.top1 == pytest.approx(trained.history[-1]["top1"], abs=1e-5)


def test_a_run_that_is_stopped_after_an_epoch_has_its_weights_and_resumes(
    config, trained, tmp_path, figures
):
    stopped = fit(config, tmp_path, stop=lambda: True)
    np.testing.assert_allclose(figures(stopped.history), figures(trained.history[:1]), atol=1e-5)
    assert stopped.best_epoch == 1
    resumed = fit(config, tmp_path, stop=lambda: False)
    np.testing.assert_allclose(figures(resumed.history), figures(trained.history), atol=1e-5)


@pytest.mark.slow
def test_kill_9_loses_no_whole_epoch(config, trained, tmp_path, figures):
    command = [sys.executable, "-c", CHILD, json.dumps(to_dict(config)), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdout.readline() == "in epoch 3\n"
        child.kill()
    assert child.returncode == -9
    seen = []
    resumed = fit(config, tmp_path, report=seen.append)
    assert {one.epoch for one in seen} == {3}
    np.testing.assert_allclose(figures(resumed.history), figures(trained.history), atol=1e-5)


def child(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


def test_kill_9_at_any_step_loses_nothing_that_was_saved(config, trained, tmp_path, figures):
    every_step = override(config, ["train.save_steps=1"])
    died = child(KILLED, json.dumps(to_dict(every_step)), tmp_path, STEPS + 2)
    assert died.returncode == -9, died.stderr
    seen, said = [], []
    resumed = fit(every_step, tmp_path, report=seen.append, announce=said.append)
    assert said == ["resumes at epoch 2, step 3"]
    assert (seen[0].epoch, seen[0].step) == (2, 3)
    np.testing.assert_allclose(figures(resumed.history), figures(trained.history), atol=1e-5)


def test_a_deterministic_rerun_is_bitwise_equal_though_it_was_stopped(config, tmp_path):
    settings = ["train.deterministic=true", "train.save_steps=1", "train.ema=0.9"]
    exact = override(config, [*settings, "optim.name=adamw", "train.epochs=2", SMALL])
    found = child(BITWISE, json.dumps(to_dict(exact)), tmp_path)
    assert found.stdout.splitlines()[-1:] == ["equal"], found.stderr


def test_a_run_goes_on_exactly_across_the_end_of_freezing(config, tmp_path, figures, monkeypatch):
    settings = ["train.epochs=2", "train.freeze_epochs=1", "train.save_steps=1"]
    settings += ["optim.name=adamw", "optim.learning_rate=0.01", SMALL]
    frozen = override(config, settings)
    whole = fit(frozen, tmp_path / "whole")
    take, left = TrainStep.__call__, [0]

    def counted(self, batch):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        take(self, batch)

    monkeypatch.setattr(TrainStep, "__call__", counted)
    for steps in (STEPS - 1, 2):  # Stops within the frozen epoch, and then within the next.
        left[0] = steps
        with pytest.raises(KeyboardInterrupt):
            fit(frozen, tmp_path / "parts")
    left[0] = 2 * STEPS
    parts = fit(frozen, tmp_path / "parts")
    assert left[0] == STEPS + 1
    np.testing.assert_allclose(figures(parts.history), figures(whole.history), atol=1e-5)
    assert all(layer.trainable for layer in parts.model.layers)
