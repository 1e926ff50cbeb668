"""Distributed training on this machine: the same curve, and no process remains after a failure."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from trainers.config import ConfigError, override, to_dict
from trainers.distributed.workers import WorkerError, _gpus, launch
from trainers.loop import fit
from trainers.training.trained import load_trained

pytestmark = pytest.mark.onednn

ROOT = Path(__file__).resolve().parents[3]
# As in test_distributed_curves.py.
TOLERANCE = 2e-5

# Says when the workers train, and then does nothing until it is killed.
CHILD = """
import json, sys, time
from pathlib import Path
from trainers.config import from_dict
from trainers.distributed.workers import launch

def report(progress):
    print("they train", flush=True)
    time.sleep(600)

launch(from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), workers=2, report=report)
"""


@pytest.fixture(scope="module")
def plain(config):
    """Without dropout, with statistics of the whole batch: nothing depends on the processes."""
    options = ["train.sync_batch_norm=true", "model.dropout=0", "train.epochs=2"]
    options += ["optim.weight_decay=0.5", "optim.clip_norm=0.5", "optim.schedule=constant"]
    options += ["optim.warmup_steps=0", 'model.options={"width": 4, "depth": 1, "stages": 1}']
    return override(config, options)


def workers_of(process):
    """Rank to process of the running workers that `process` started."""
    found = {}
    for child in psutil.Process(process).children(recursive=True):
        if "trainers.distributed.workers" in child.cmdline():
            found[json.loads(child.environ()["TF_CONFIG"])["task"]["index"]] = child
    return found


def test_two_processes_train_like_one_after_one_was_killed(plain, tmp_path, figures):
    def kill(progress):
        if progress.epoch == 2:
            workers_of(psutil.Process().pid)[1].kill()

    with pytest.raises(WorkerError) as caught:
        launch(plain, tmp_path / "two", workers=2, report=kill)
    log = tmp_path / "two" / "logs" / "worker-1.log"
    assert str(caught.value).startswith("worker 1 of 2 was killed by SIGKILL: its last lines:")
    assert f"full log {log}\nthe same command resumes" in str(caught.value)
    assert log.is_file()
    assert not workers_of(psutil.Process().pid)
    assert not (tmp_path / "two" / "trained.json").exists()

    seen, said = [], []
    assert (
        launch(plain, tmp_path / "two", workers=2, report=seen.append, announce=said.append)
        == tmp_path / "two"
    )
    assert {one.epoch for one in seen} == {2}
    assert said == ["resumes at epoch 2, step 1"]
    assert not list((tmp_path / "two").glob("worker-*"))
    two, one = load_trained(tmp_path / "two"), fit(plain, tmp_path / "one")
    assert two.config.train.strategy == "multi_worker"
    np.testing.assert_allclose(figures(two.history), figures(one.history), rtol=TOLERANCE)
    for ours, theirs in zip(two.model.get_weights(), one.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_the_error_has_the_message_of_the_worker(plain, tmp_path):
    lost = replace(plain, data=replace(plain.data, dir=str(tmp_path / "nowhere")))
    with pytest.raises(WorkerError, match=r"worker 0 of 1 failed: .*nowhere.*\nfull log .*worker"):
        launch(lost, tmp_path, workers=1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends a process with its parent")
def test_workers_end_with_a_killed_launcher(plain, tmp_path):
    command = [sys.executable, "-c", CHILD, json.dumps(to_dict(plain)), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as launcher:
        assert launcher.stdout.readline() == "they train\n"
        team = workers_of(launcher.pid)
        assert sorted(team) == [0, 1]
        launcher.kill()
    assert launcher.returncode == -signal.SIGKILL
    _, alive = psutil.wait_procs(team.values(), timeout=20)
    assert not alive


@pytest.mark.slow
def test_an_interrupt_ends_all(plain, tmp_path):
    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(plain, tmp_path, workers=2, report=interrupt)
    assert not workers_of(psutil.Process().pid)


@pytest.mark.parametrize(
    ("workers", "options", "message"),
    [
        (0, (), "--workers must be at least 1, got 0"),
        (3, (), "global_batch=32 does not divide by 3 replicas; use 30 or 33"),
        (2, ("train.strategy=mirrored",), "has train.strategy=mirrored; leave one of them out"),
    ],
)
def test_invalid_numbers_of_workers_are_an_error_before_any_process_starts(
    workers, options, message, plain, tmp_path
):
    with pytest.raises(ConfigError, match=message):
        launch(override(plain, options), tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


def test_gpus_are_distributed_among_workers():
    four = {"CUDA_VISIBLE_DEVICES": "0,1,GPU-8a,3"}
    assert _gpus(four, 2) == [["0", "GPU-8a"], ["1", "3"]]
    assert _gpus({"CUDA_VISIBLE_DEVICES": "-1"}, 2) == []
    with pytest.raises(ConfigError, match=r"5 workers cannot share 4 GPUs; use --workers 4"):
        _gpus(four, 5)
