"""A run that starts from weights: its linear probe, what is compared, and what is kept."""

import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from trainers import loop
from trainers.config import override
from trainers.data import pipeline
from trainers.data.features import DATASET_FILE, DatasetInfo
from trainers.distributed.workers import launch
from trainers.evaluation.predictions import Predictions
from trainers.keras import keras
from trainers.loop import fit
from trainers.training import probe_stage
from trainers.training.forward import Forward, predict_split
from trainers.training.probe_stage import Probe
from trainers.training.trained import load_trained, probe_model, save_trained

pytestmark = pytest.mark.onednn

OTHER = tuple(f"figure {number}" for number in range(10))


@pytest.fixture(scope="module")
def given(trained, tmp_path_factory):
    """A trained folder to start from."""
    folder = tmp_path_factory.mktemp("given")
    save_trained(trained, folder)
    return folder


@pytest.fixture(scope="module")
def other(records, tmp_path_factory):
    """The same records under other class names, so that no classifier fits."""
    folder = tmp_path_factory.mktemp("other") / "data"
    shutil.copytree(records[0], folder)
    info = replace(DatasetInfo.load(folder), classes=OTHER)
    (folder / DATASET_FILE).write_text(info.to_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def transfer(config, given, other):
    """One epoch that moves nothing, from a probe."""
    settings = [f"model.init={given}", f"data.dir={other}", "train.head=probe", "model.dropout=0"]
    settings += ["train.epochs=1", "optim.learning_rate=1e-12", "optim.warmup_steps=0"]
    return override(config, settings)


@pytest.fixture(scope="module")
def features(trained, config):
    """Split -> (inputs of the given classifier, labels), by Keras and scikit-learn alone."""
    network = keras.Model(trained.model.input, trained.model.get_layer("logits").input)
    found = {}
    for split in ("train", "validation"):
        batches = list(pipeline.eval_batches(config, trained.info, split, batch=1))
        images = np.concatenate([batch.images.numpy() for batch in batches])
        labels = np.concatenate([batch.labels.numpy() for batch in batches])
        found[split] = network(images, training=False).numpy(), labels
    return found


def reference(features, strength, *splits):
    """(37, 10) scores of scikit-learn's logistic regression on the validation split.

    Fitted on `splits`, `train` if none are given.
    """
    train, labels = (
        np.concatenate(parts)
        for parts in zip(*(features[s] for s in splits or ("train",)), strict=True)
    )
    center = train.mean(axis=0)
    scale = np.sqrt(((train - center) ** 2).sum(axis=1).mean())
    model = LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
    with warnings.catch_warnings():
        # It gives SciPy an option that newer versions of SciPy do not know.
        warnings.filterwarnings("ignore", "Unknown solver options: iprint")
        model.fit((train - center) / scale, labels)
    return model.predict_proba((features["validation"][0] - center) / scale)


def validation_scores(found):
    """(37, 10) scores of a trained model."""
    forward = Forward(found.model, found.config)
    return predict_split(forward, found.config, found.info, "validation").scores


def test_no_epochs_keep_the_backbone_with_a_probe_on_it(transfer, features, trained, tmp_path):
    said = []
    found = fit(override(transfer, ["train.epochs=0"]), tmp_path / "work", announce=said.append)
    expected = reference(features, found.probe.strength)
    whole = reference(features, found.probe.strength, "train", "validation")
    np.testing.assert_allclose(validation_scores(found), whole, atol=5e-3)
    assert found.probe.val_top1 == pytest.approx(
        (expected.argmax(axis=1) == features["validation"][1]).mean()
    )
    for ours, theirs in zip(found.model.weights[:-2], trained.model.weights[:-2], strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert (found.probe.shipped, found.probe.refitted) == (
        True,
        len(features["validation"][1]) + 120,
    )
    assert found.chosen["val_top1"] == found.history[0]["val_top1"] == found.probe.val_top1
    assert sum("linear probe on the frozen features of 120 training images" in s for s in said) == 1


def first_scores(config, folder, features, monkeypatch):
    """Validation scores of the classifier that training starts from; nothing is trained."""
    seen = []

    def stop(step, *_):
        seen.extend(weight.numpy() for weight in step.model.get_layer("logits").weights)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(config, folder)
    return softmax(features["validation"][0] @ seen[0] + seen[1], axis=1)


def test_training_starts_from_the_probe(transfer, features, tmp_path, monkeypatch):
    said = []
    scores = first_scores(transfer, tmp_path / "work", features, monkeypatch)
    monkeypatch.setattr(probe_stage, "fit_probe", lambda *_, **__: pytest.fail("made again"))
    # The run was killed after its probe was made: the probe is kept and not made again.
    found = fit(transfer, tmp_path / "work", announce=said.append)
    expected = reference(features, found.probe.strength)
    np.testing.assert_allclose(scores, expected, atol=5e-3)
    # An epoch that moves nothing is no better, and the probe is kept rather than the epoch.
    assert found.probe.shipped
    assert "not better by more than one standard error" in found.probe.why
    assert said[-1] == found.probe.why
    whole = reference(features, found.probe.strength, "train", "validation")
    np.testing.assert_allclose(validation_scores(found), whole, atol=5e-3)
    # A second start announces nothing and decides the same.
    said.clear()
    again = fit(transfer, tmp_path / "work", announce=said.append)
    assert (said, again.probe) == ([], found.probe)


def test_a_fresh_head_is_not_that_of_the_probe(transfer, features, tmp_path, monkeypatch):
    config = override(transfer, ["train.head=fresh"])
    scores = first_scores(config, tmp_path / "work", features, monkeypatch)
    probe = json.loads(next((tmp_path / "work").glob("*/probe.json")).read_text())
    assert np.abs(scores - reference(features, probe["strength"])).max() > 0.2


@pytest.mark.parametrize(
    ("gained", "lost", "better"),
    [
        *((0, 0, False), (1, 0, False), (2, 0, True), (3, 1, False)),
        *((4, 1, True), (1, 4, False), (40, 30, True), (39, 31, False)),
    ],
)
def test_fine_tuning_must_be_better_by_a_standard_error(gained, lost, better):
    images = 100
    labels = np.zeros(images, np.int32)
    probe_right = np.array([False] * gained + [True] * (images - gained))
    tuned_right = np.array([True] * gained + [False] * lost + [True] * (images - gained - lost))
    # The rule in its textbook form: the mean of paired differences against its standard error.
    difference = tuned_right.astype(float) - probe_right
    error = np.sqrt((difference**2).sum()) / images
    assert (difference.mean() > error) == better
    scores = np.stack([tuned_right, ~tuned_right], axis=1).astype(np.float32)
    right = "".join("01"[int(one)] for one in probe_right)
    probe = Probe(10, 10, 1.0, "", 0.5, 0.5, 1.0, right=right)
    found = probe.compared(Predictions(labels.astype(str), labels, scores, {}))
    assert found.shipped is not better
    assert f"({gained} gained, {lost} lost)" in found.why
    # Weights that had a classifier of these classes keep it.
    assert (
        not replace(probe, given=True)
        .compared(Predictions(labels.astype(str), labels, scores, {}))
        .shipped
    )


def test_a_probe_that_cannot_be_beaten_ends_the_run(transfer, tmp_path, monkeypatch):
    """With at most one validation image wrong, no fine-tuning could be better by the rule."""
    monkeypatch.setattr(Probe, "wrong", property(lambda self: 1))
    monkeypatch.setattr(loop, "run_epoch", lambda *_: pytest.fail("it was trained"))
    found = fit(override(transfer, ["train.epochs=5"]), tmp_path / "work")
    assert found.probe.shipped
    assert "could not be better" in found.probe.why
    again = fit(override(transfer, ["train.epochs=5"]), tmp_path / "work")
    assert again.history == found.history
    assert again.probe.shipped


def test_a_classifier_of_these_classes_is_kept(config, given, trained, tmp_path):
    settings = [f"model.init={given}", "train.epochs=1", "model.dropout=0", "train.head=probe"]
    settings += ["optim.learning_rate=1e-12", "optim.warmup_steps=0"]
    found = fit(override(config, settings), tmp_path / "work")
    kernel = found.model.get_layer("logits").kernel
    np.testing.assert_allclose(kernel, trained.model.get_layer("logits").kernel, atol=1e-6)
    assert found.probe.given
    assert not found.probe.shipped


@pytest.mark.slow
def test_two_processes_keep_the_probe_of_one(transfer, tmp_path):
    alone = fit(transfer, tmp_path / "alone")
    launch(transfer, tmp_path / "both", workers=2)
    both = load_trained(tmp_path / "both")
    assert both.probe.shipped
    assert both.probe.strength == alone.probe.strength
    assert both.probe.val_loss == pytest.approx(alone.probe.val_loss, abs=1e-4)
    np.testing.assert_allclose(validation_scores(both), validation_scores(alone), atol=1e-4)


def test_random_weights_have_no_probe(trained, tmp_path):
    save_trained(trained, tmp_path)
    assert trained.probe is None
    assert json.loads((tmp_path / "trained.json").read_text())["probe"] is None
    assert probe_model(load_trained(tmp_path)) is None


def test_a_saved_model_has_its_probe_beside_it(config, given, features, tmp_path):
    settings = [f"model.init={given}", "train.epochs=1", "model.dropout=0"]
    found = fit(override(config, [*settings, "optim.learning_rate=0.1"]), tmp_path / "work")
    save_trained(found, tmp_path / "kept")
    shutil.rmtree(tmp_path / "work")
    kept = load_trained(tmp_path / "kept")
    assert not kept.probe.shipped
    model = probe_model(kept)
    images = np.concatenate(
        [b.images.numpy() for b in pipeline.eval_batches(config, kept.info, "validation", batch=1)]
    )
    scores = softmax(model(images, training=False).numpy(), axis=1)
    np.testing.assert_allclose(scores, reference(features, kept.probe.strength), atol=5e-3)
    own = tf.nn.softmax(kept.model(images, training=False)).numpy()
    assert np.abs(own - scores).max() > 0.01


def test_groups_of_the_records_are_kept_together(transfer, records, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    splits = {}
    for split, serialized in records[1].items():
        splits[split] = []
        for number, one in enumerate(serialized):
            example = tf.train.Example.FromString(one)
            name = f"camera {number % 7}".encode()
            example.features.feature["image/group"].bytes_list.value.append(name)
            splits[split].append(example.SerializeToString())
    shutil.copytree(transfer.data.dir, folder)
    for split, found in splits.items():
        (file,) = (folder / f"Split-{split}").iterdir()
        with tf.io.TFRecordWriter(str(file)) as writer:
            for one in found:
                writer.write(one)
    info = replace(DatasetInfo.load(folder), group="camera", fingerprint="grouped")
    (folder / DATASET_FILE).write_text(info.to_json(), encoding="utf-8")
    seen = []
    monkeypatch.setattr(
        probe_stage,
        "fit_probe",
        lambda *args, **kwargs: seen.append(kwargs) or real(*args, **kwargs),
    )
    fit(override(transfer, [f"data.dir={folder}", "train.epochs=0"]), tmp_path / "work")
    assert seen[0]["groups"] == [f"camera {number % 7}" for number in range(120)]


real = probe_stage.fit_probe
