"""The training loop on 120 real digits: resuming, choosing, counting, refusing."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from trainers import optim
from trainers.config import ConfigError, override, to_dict
from trainers.data.features import DatasetError
from trainers.data.pipeline import DataError, batch_ids, train_batches
from trainers.data.preprocess import eval_image
from trainers.epoch import TrainingError
from trainers.forward import Forward, predict_split
from trainers.keras import keras
from trainers.loop import FineTuner, fit
from trainers.predictions import Predictions
from trainers.run_folder import run_folder
from trainers.step import TrainStep
from trainers.tasks.classification import Classification
from trainers.trained import load_trained, save_trained

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3

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


def top1_and_loss(scores, labels):
    own = scores[np.arange(len(labels)), labels].astype(np.float64)
    return (scores.argmax(axis=1) == labels).mean(), -np.log(own).mean()


def test_one_row_an_epoch(config, trained):
    history = trained.history
    assert [row["epoch"] for row in history] == [1, 2, 3]
    schedule = optim.WarmUp(config.optim, 3 * STEPS)
    last_steps = [float(schedule(STEPS * epoch - 1)) for epoch in (1, 2, 3)]
    assert [row["learning_rate"] for row in history] == pytest.approx(last_steps, rel=1e-4)
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(row["images_per_second"] > 0 for row in history)


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_every_example_counts_once_on_any_batch(batch, config, trained, encoded, true_labels):
    sized = replace(config, eval=replace(config.eval, batch=batch))
    found = predict_split(Forward(trained.model, sized), sized, trained.info, "validation")
    assert found.ids.tolist() == [hashlib.sha256(one).hexdigest() for one in encoded["validation"]]
    np.testing.assert_array_equal(found.labels, true_labels["validation"])
    pictures = [
        eval_image(tf.constant(one), image_size=(16, 16), crop_fraction=0.875)
        for one in encoded["validation"]
    ]
    logits = trained.model(tf.cast(tf.stack(pictures), tf.float32), training=False)
    by_hand = softmax(logits.numpy(), axis=1)
    np.testing.assert_allclose(found.scores, by_hand, atol=1e-5)
    best = trained.history[trained.best_epoch - 1]
    expected = top1_and_loss(by_hand, true_labels["validation"])
    assert (best["val_top1"], best["val_loss"]) == pytest.approx(expected, abs=1e-5)


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


def test_a_finished_run_is_not_trained_again(config, trained, work_dir):
    again = fit(config, work_dir, report=lambda progress: pytest.fail("it trains"))
    assert again.history == trained.history
    for ours, theirs in zip(again.model.get_weights(), trained.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_validation_chooses_the_epoch(config, tmp_path, monkeypatch):
    true_losses = []
    evaluate = Classification.evaluate

    def first_is_best(self, predictions: Predictions):
        found = evaluate(self, predictions)
        true_losses.append(found["loss"])
        return {**found, "top1": 1.0 if len(true_losses) == 1 else 0.5}

    monkeypatch.setattr(Classification, "evaluate", first_is_best)
    found = fit(override(config, ["train.epochs=2"]), tmp_path)
    monkeypatch.undo()
    assert found.best_epoch == 1
    again = Classification().evaluate(
        predict_split(Forward(found.model, config), config, found.info, "validation")
    )
    assert again["loss"] == pytest.approx(true_losses[0], abs=1e-6)
    assert again["loss"] != pytest.approx(true_losses[1], abs=1e-6)


@pytest.mark.parametrize(
    ("batch", "rate", "what"),
    [
        (32, 1e38, "the loss was not finite at step 2, whose batch of 32 pictures begins with"),
        (120, 1e38, "the validation scores are not finite"),
    ],
)
def test_divergence_says_what_to_do(batch, rate, what, config, tmp_path):
    settings = [f"train.global_batch={batch}", f"optim.learning_rate={rate}"]
    wild = override(config, [*settings, "optim.warmup_steps=0"])
    remedy = (
        rf"{what}.* in epoch 1; lower optim.learning_rate \(now 1e\+38\) or set optim.clip_norm"
    )
    with pytest.raises(TrainingError, match=remedy):
        fit(wild, tmp_path)


@pytest.fixture
def damaged(config, tmp_path, make_records, make_record, digit_records, encoded):
    """`damaged(split, kind)`: a configuration whose split has something wrong at record 7."""

    def make(split, kind):
        splits = {"train": digit_records[:40], "validation": digit_records[40:60]}
        if kind == "label":
            splits[split][7] = make_record(encoded["train"][0], 11)
        make_records(tmp_path / "data", splits)
        file = tmp_path / "data" / f"Split-{split}" / "data_tfrecord-00000-of-00001"
        if kind == "truncated":
            # A record's frame is its length, two checksums and itself: 16 bytes more.
            whole = sum(len(one) + 16 for one in splits[split][:7])
            file.write_bytes(file.read_bytes()[: whole + 30])
        return override(config, [f"data.dir={tmp_path / 'data'}", "train.epochs=1"])

    return make


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("label", r"label 11 is outside 1\.\.10"), ("truncated", "truncated or corrupt shard")],
)
def test_bad_records_are_named(damaged, tmp_path, split, kind, reason):
    where = rf"Split-{split}/data_tfrecord-00000-of-00001 record 7: {reason}.*on_error=skip"
    with pytest.raises(DataError, match=where):
        fit(damaged(split, kind), tmp_path / "work")


def test_nothing_starts_without_data_or_with_a_wrong_value(config, tmp_path):
    with pytest.raises(DatasetError, match=r"dataset.json does not exist; make records with"):
        fit(override(config, [f"data.dir={tmp_path}"]), tmp_path / "work")
    with pytest.raises(ConfigError, match=r"train.epochs must be at least 1, got 0"):
        fit(override(config, ["train.epochs=0"]), tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


def test_a_trained_model_comes_back_from_disk(trained, tmp_path, encoded):
    save_trained(trained, tmp_path / "deep" / "model")
    again = load_trained(tmp_path / "deep" / "model")
    assert (again.config, again.info) == (trained.config, trained.info)
    assert (again.history, again.best_epoch) == (trained.history, trained.best_epoch)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(again.model(images), trained.model(images))
    with (tmp_path / "deep" / "model" / "history.csv").open() as handle:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(handle)]
    assert rows == trained.history
    described = json.loads((tmp_path / "deep" / "model" / "trained.json").read_text())
    assert described["best_epoch"] == trained.best_epoch
    assert described["val_top1"] == trained.history[trained.best_epoch - 1]["val_top1"]
    assert described["parameters"] == sum(one.size for one in trained.model.get_weights())


def test_a_folder_without_a_model_names_the_verb(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no trained model; .*sightline train"):
        load_trained(tmp_path)


def test_fine_tuning_trains_the_given_model_on_new_orders(trained):
    class Seen(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.epochs, self.rates = [], []

        def on_epoch_begin(self, epoch, logs=None):
            self.epochs.append(epoch)

        def on_train_batch_end(self, batch, logs=None):
            self.rates.append(float(self.model.optimizer.learning_rate))

    model = keras.models.clone_model(trained.model)
    model.set_weights(trained.model.get_weights())
    before = [value.copy() for value in trained.model.get_weights()]
    seen, progress = Seen(), []
    tuner = FineTuner(trained.config, trained.info, progress.append)
    tuner(model, epochs=2, learning_rate=0.02, callbacks=[seen])
    assert tuner.steps_per_epoch == STEPS
    assert seen.epochs == [0, 1]
    by_hand = 0.01 * (1 + np.cos(np.pi * np.arange(6) / 6))
    np.testing.assert_allclose(seen.rates, by_hand, rtol=1e-4)
    assert [(one.epoch, one.epochs, one.step) for one in progress][-1] == (2, 2, STEPS)
    pairs = zip(model.get_weights(), before, strict=True)
    assert any(np.abs(ours - old).max() > 1e-3 for ours, old in pairs)
    for value, old in zip(trained.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_the_pictures_of_a_batch_can_be_named(config, trained, records):
    by_id = {}
    for one in records[1]["train"]:
        feature = tf.train.Example.FromString(one).features.feature
        label = feature["image/class/label"].int64_list.value[0] - 1
        by_id[feature["image/key/sha256"].bytes_list.value[0].decode()] = label
    for step, batch in enumerate(train_batches(config, trained.info, epoch=2)):
        ids = batch_ids(config, trained.info, 2, step=step)
        assert [by_id[one] for one in ids] == batch[1].numpy().tolist()


def test_an_epoch_is_decided_by_seed_and_number(trained):
    def labels(epoch):
        found = train_batches(trained.config, trained.info, epoch=epoch)
        return np.concatenate([batch[1].numpy() for batch in found]).tolist()

    orders = [labels(epoch) for epoch in (0, 0, 3, 4)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


# Kills itself, as the kernel would, before the step whose number it is given.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from trainers.config import from_dict
from trainers.loop import fit
from trainers.step import TrainStep

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

# Three runs of one configuration, the last one interrupted at every fourth step.
BITWISE = """
import json, sys
from pathlib import Path
import numpy as np
from trainers.config import from_dict
from trainers.loop import fit
from trainers.step import TrainStep

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

runs = [figures(fit(config, out / "a")), figures(fit(config, out / "b"))]
TrainStep.__call__ = counted
stops = 0
while True:
    left[0] = 4
    try:
        runs.append(figures(fit(config, out / "c")))
        break
    except Stop:
        stops += 1
assert stops == 2, stops
(rows, weights), *others = runs
for their_rows, their_weights in others:
    assert rows.tobytes() == their_rows.tobytes()
    for one, other in zip(weights, their_weights, strict=True):
        assert one.tobytes() == other.tobytes()
print("equal")
"""


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
    assert said == ["goes on at epoch 2, step 3"]
    assert (seen[0].epoch, seen[0].step) == (2, 3)
    np.testing.assert_allclose(figures(resumed.history), figures(trained.history), atol=1e-5)


def test_deterministic_reruns_are_bitwise_equal_resumed_or_not(config, tmp_path):
    settings = ["train.deterministic=true", "train.save_steps=1", "train.ema=0.9"]
    exact = override(config, [*settings, "optim.name=adamw"])
    found = child(BITWISE, json.dumps(to_dict(exact)), tmp_path)
    assert found.stdout.splitlines()[-1:] == ["equal"], found.stderr


def test_early_stopping_waits_as_long_as_it_is_told(config, tmp_path, monkeypatch):
    evaluate, top1 = Classification.evaluate, iter([0.1, 0.3, 0.2, 0.25])
    monkeypatch.setattr(
        Classification,
        "evaluate",
        lambda self, predictions: {**evaluate(self, predictions), "top1": next(top1)},
    )
    stopping = override(config, ["train.epochs=9", "train.early_stop=2"])
    found = fit(stopping, tmp_path)
    assert [row["val_top1"] for row in found.history] == [0.1, 0.3, 0.2, 0.25]
    assert found.best_epoch == 2
    again = fit(stopping, tmp_path, report=lambda progress: pytest.fail("it trains"))
    assert again.history == found.history


def test_the_average_is_what_is_evaluated_and_kept(config, tmp_path):
    averaged = override(config, ["train.ema=0.5", "train.epochs=1"])
    found = fit(averaged, tmp_path)
    plain = fit(override(config, ["train.epochs=1"]), tmp_path)
    assert found.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], abs=1e-5)
    assert found.history[0]["val_loss"] != pytest.approx(plain.history[0]["val_loss"], abs=1e-6)
    answers = predict_split(Forward(found.model, averaged), averaged, found.info, "validation")
    kept = Classification().evaluate(answers)
    assert kept["loss"] == pytest.approx(found.history[0]["val_loss"], abs=1e-5)


def test_only_the_classifier_trains_at_first(config, tmp_path):
    frozen = fit(override(config, ["train.epochs=2", "train.freeze_epochs=2"]), tmp_path)
    keras.utils.set_random_seed(config.train.seed)
    fresh = Classification().build(config, frozen.info)
    for layer, start in zip(frozen.model.layers, fresh.layers, strict=True):
        same = all(
            np.array_equal(a, b)
            for a, b in zip(layer.get_weights(), start.get_weights(), strict=True)
        )
        assert same == (layer.name != "logits" or not layer.weights), layer.name


def test_a_student_hears_its_teacher(config, trained, tmp_path):
    save_trained(trained, tmp_path / "teacher")
    settings = [f"distill.teacher={tmp_path / 'teacher'}", "distill.weight=1", "train.epochs=1"]
    taught = override(config, [*settings, "model.dropout=0", "optim.learning_rate=1e-9"])
    asked = fit(taught, tmp_path / "asked")
    cached = fit(override(taught, [f"distill.cache_dir={tmp_path / 'cache'}"]), tmp_path / "cached")
    assert list((tmp_path / "cache").rglob("epoch-0000.npy"))
    assert cached.history[0]["loss"] == pytest.approx(asked.history[0]["loss"], rel=1e-4)
    alone = fit(override(taught, ["distill.weight=0"]), tmp_path / "alone")
    assert alone.history[0]["loss"] != pytest.approx(asked.history[0]["loss"], rel=1e-2)


def test_a_run_starts_from_given_weights_once(config, trained, tmp_path):
    save_trained(trained, tmp_path / "given")
    settings = [f"model.init={tmp_path / 'given'}", "optim.learning_rate=1e-12"]
    settings += ["train.epochs=1", "model.dropout=0", "optim.warmup_steps=0", "train.ema=0.9"]
    said = []
    found = fit(override(config, settings), tmp_path / "work", announce=said.append)
    assert any("logits/kernel" in line for line in said)
    kernels = [v for v in trained.model.trainable_variables if "kernel" in v.name]
    ours = {v.name: v.numpy() for v in found.model.trainable_variables}
    for kernel in kernels:
        np.testing.assert_allclose(ours[kernel.name], kernel.numpy(), atol=1e-6)
    said.clear()
    fit(override(config, settings), tmp_path / "work", announce=said.append)
    assert said == []


def test_a_run_goes_on_exactly_across_the_end_of_freezing(config, tmp_path, figures, monkeypatch):
    settings = ["train.epochs=2", "train.freeze_epochs=1", "train.save_steps=1"]
    frozen = override(config, [*settings, "optim.name=adamw", "optim.learning_rate=0.01"])
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


def test_only_what_decides_the_weights_decides_the_folder(config, trained, tmp_path):
    info = trained.info
    folder = run_folder(tmp_path, config, info)
    harmless = ["train.save_steps=7", "train.tensorboard=true", "data.dir=/elsewhere"]
    harmless += ["eval.batch=3", "export.top_k=1", "compress.qat_epochs=9", "data.cache=none"]
    assert run_folder(tmp_path, override(config, harmless), info) == folder
    for change in ("train.seed=6", "data.augment=", "optim.momentum=0.8", "train.ema=0.9"):
        assert run_folder(tmp_path, override(config, [change]), info) != folder
    weights = tmp_path / "weights.npz"
    weights.write_bytes(b"one")
    started = override(config, [f"model.init={weights}"])
    first = run_folder(tmp_path, started, info)
    weights.write_bytes(b"two")
    assert len({folder, first, run_folder(tmp_path, started, info)}) == 3
