"""Checkpoints: weights, epoch and history never disagree, and the best epoch is validation's."""

import csv
import json
import resource
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from trainers.keras import keras
from trainers.training.checkpoint import (
    CheckpointError,
    Checkpoints,
    best_epoch,
    write_history,
    write_json,
)


def row(epoch, top1, loss=1.0):
    return {"epoch": epoch, "val_top1": top1, "val_loss": loss}


@pytest.fixture
def make(tmp_path):
    """A fresh model and optimizer, as a new process has them, on the same folder."""

    def make():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        model.set_weights([np.zeros((1, 1))])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)
        state = {"model": model, "optimizer": optimizer}
        return Checkpoints(tmp_path / "c", model, state), model, optimizer

    return make


def run(checkpoints, model, history, top1s):
    """Epochs whose weight is their number."""
    for top1 in top1s:
        history.append(row(len(history) + 1, top1))
        model.set_weights([np.full((1, 1), len(history))])
        if best_epoch(history) == len(history):
            checkpoints.save_best(len(history))
        checkpoints.save(history)


def weight(model):
    return float(model.get_weights()[0][0, 0])


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ([(0.5, 1.0)], 1),
        ([(0.5, 1.0), (0.9, 2.0), (0.7, 0.1)], 2),
        ([(0.5, 1.0), (0.9, 2.0), (0.9, 1.0), (0.9, 1.5)], 3),
        ([(0.9, 1.0), (0.9, 1.0)], 1),
    ],
)
def test_the_best_epoch_is_by_top1_then_loss(figures, best):
    assert best_epoch([row(i, *pair) for i, pair in enumerate(figures, 1)]) == best


def test_nothing_to_restore_at_first(make):
    assert make()[0].restore() is None


def test_last_and_best_come_back(make, tmp_path):
    checkpoints, model, _ = make()
    history = []
    run(checkpoints, model, history, [0.1, 0.9, 0.5, 0.4])
    again, model, _ = make()
    assert again.restore() == history
    assert weight(model) == 4
    assert again.restore_best(history) == 2
    assert weight(model) == 2
    assert {file.name.split(".")[0] for file in (tmp_path / "c").glob("best-*")} == {"best-2"}
    assert again.restore_best(history) == 2, "the chosen file is still there"


def test_the_optimizer_goes_on_where_it_was(make):
    def step(model, optimizer):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(tf.ones((1, 1))))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    checkpoints, model, optimizer = make()
    step(model, optimizer)
    checkpoints.save([row(1, 0.5)])
    step(model, optimizer)
    again, resumed, optimizer = make()
    again.restore()
    step(resumed, optimizer)
    # 0.1 of the first step, 0.1 * 1.9 of the second by its momentum.
    assert weight(resumed) == weight(model) == pytest.approx(-0.29)
    assert int(optimizer.iterations) == 2


@pytest.mark.parametrize("when", ["before the checkpoint", "before the history"])
def test_a_crash_while_saving_loses_that_epoch_only(make, monkeypatch, when):
    checkpoints, model, _ = make()
    history = []
    run(checkpoints, model, history, [0.1, 0.9])

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    if when == "before the checkpoint":
        monkeypatch.setattr(tf.train.CheckpointManager, "save", crash)
    else:
        monkeypatch.setattr("trainers.training.checkpoint.write_json", crash)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints, model, list(history), [0.95])
    monkeypatch.undo()
    again, model, _ = make()
    found = again.restore()
    assert found == history
    assert weight(model) == 2
    run(again, model, found, [0.2])
    assert again.restore_best(found) == 2
    assert weight(model) == 2


def test_a_state_within_an_epoch_has_its_step(make):
    checkpoints, model, _ = make()
    history = []
    run(checkpoints, model, history, [0.1])
    model.set_weights([np.full((1, 1), 7.0)])
    checkpoints.save_within(history, 40)
    again, model, _ = make()
    assert (again.restore(), again.step, weight(model)) == (history, 40, 7)
    run(again, model, history, [0.2])
    assert again.step == 0


def test_what_a_killed_writer_left_is_no_obstacle(make, tmp_path):
    checkpoints, model, _ = make()
    history = []
    run(checkpoints, model, history, [0.1])
    (tmp_path / "c" / "best-2_temp").mkdir()
    assert checkpoints.restore_best(history) == 1


def test_a_state_of_another_network_names_its_folder(make, tmp_path):
    checkpoints, model, _ = make()
    run(checkpoints, model, [], [0.1])
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/c holds the state of another network"):
        Checkpoints(tmp_path / "c", other, {"model": other}).restore()


def test_workers_read_what_the_chief_wrote(make, tmp_path):
    checkpoints, model, _ = make()
    history = []
    run(checkpoints, model, history, [0.1, 0.2])
    state = {"model": model, "optimizer": make()[2]}
    worker = Checkpoints(tmp_path / "w", model, state, source=tmp_path / "c")
    assert worker.restore() == history


def test_history_as_csv_and_json(tmp_path):
    history = [row(1, 0.5), row(2, 0.75)]
    write_history(tmp_path / "h.csv", history)
    with (tmp_path / "h.csv").open() as handle:
        assert [float(one["val_top1"]) for one in csv.DictReader(handle)] == [0.5, 0.75]
    write_json(tmp_path / "h.json", history)
    assert json.loads((tmp_path / "h.json").read_text()) == history
    write_history(tmp_path / "none.csv", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.csv", "h.json"]


def test_a_full_disk_is_told_and_the_state_before_is_kept(make, tmp_path):
    """A limit on file sizes fails the write as a full disk does."""
    checkpoints, model, _ = make()
    history = []
    run(checkpoints, model, history, [0.1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(CheckpointError, match=rf"not be saved in {tmp_path}/c \(.*free space"):
            run(checkpoints, model, list(history), [0.2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again, model, _ = make()
    assert again.restore() == history
    assert weight(model) == 1


def test_only_one_process_trains_into_a_folder(make, tmp_path):
    code = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
    code += "print('held', flush=True); sys.stdin.read()"
    checkpoints, _, _ = make()
    with checkpoints.held():
        pass
    command = [sys.executable, "-c", code, str(tmp_path / "c" / ".lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "held\n"
        refused = pytest.raises(CheckpointError, match=rf"^process \d+ on .* into {tmp_path}/c;")
        with refused, checkpoints.held():
            pytest.fail("it is taken")
        other.stdin.close()
    with checkpoints.held():
        pass
