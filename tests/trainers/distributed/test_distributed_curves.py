"""The same seed and global batch give the same curve on one device and on two.

Two virtual devices in a child process, as TensorFlow's devices are fixed once it has started.
Two processes are in test_workers.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers.config import override, to_dict

pytestmark = [pytest.mark.onednn, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]
FIGURES = ("loss", "top1", "val_loss", "val_top1", "learning_rate")

# Float additions come in another order on two devices: 1e-7 a sum, which five steps amplify.
TOLERANCE = 2e-5

CHILD = """
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import tensorflow as tf
from trainers.config import ConfigError, from_dict
from trainers.training.forward import Forward, predict_split
from trainers.keras import keras
from trainers.loop import fit
from trainers.registry import models
from trainers.distributed.strategy import is_chief, make_strategy

@models.register("dense")
def dense(images):
    x = keras.layers.Flatten()(images)
    return keras.layers.Dense(8, "tanh")(x)

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

def run(config, where=""):
    trained = fit(config, Path(sys.argv[2]) / where)
    weights = np.concatenate([w.ravel() for w in trained.model.get_weights()])
    return trained, {"history": trained.history, "weights": weights.tolist()}

found = {}
for name, raw in json.loads(sys.argv[1]).items():
    config = from_dict(raw)
    two = replace(config, train=replace(config.train, strategy="mirrored"))
    on_one = name in ("plain", "adamw_in_parts", "synchronized")
    found[name] = [run(config)[1] if on_one else None, run(two)[1]]
# Synchronized statistics make replicas take turns in the middle of the network.
dropping = replace(two, model=replace(two.model, dropout=0.5))
dropping = replace(dropping, train=replace(dropping.train, sync_batch_norm=True, epochs=1))
norm = from_dict(json.loads(sys.argv[1])["synchronized"]).model
dropping = replace(dropping, model=replace(norm, dropout=0.5))
found["twice"] = [run(dropping, one)[1] for one in ("a", "b")]
try:
    make_strategy(replace(two.train, global_batch=33))
except ConfigError as error:
    found["refused"] = str(error)
try:
    make_strategy(replace(two.train, strategy="tpu"))
except ConfigError as error:
    found["tpu"] = str(error)
trained, _ = run(two)
on = trained.model.distribute_strategy
odd = replace(two, eval=replace(two.eval, batch=7))
predictions = predict_split(Forward(trained.model, odd, on), odd, trained.info, "validation")
found |= {
    "replicas": on.num_replicas_in_sync,
    "chief": is_chief(on),
    "labels": predictions.labels.tolist(),
    "top1": float((predictions.scores.argmax(1) == predictions.labels).mean()),
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def two_processors(config, tmp_path_factory):
    """What the child printed: each case on one device, and the same on two."""
    # Decay and clipping that would show if they were done once a replica.
    common = ["model.dropout=0", "train.epochs=2", "optim.schedule=constant"]
    common += ["optim.weight_decay=0.5", "optim.clip_norm=0.5", "optim.warmup_steps=0"]
    # Two layers, which are soon traced, without batch norm.
    dense = {"name": "dense", "options": {}}
    norm = {"name": "cnn", "options": {"width": 4, "depth": 1, "stages": 1}}
    cases = {
        "unsynchronized": (norm, ["train.epochs=1"]),
        "synchronized": (norm, ["train.epochs=1", "train.sync_batch_norm=true"]),
        "adamw_in_parts": (dense, ["optim.name=adamw", "train.accumulate=4", "train.epochs=1"]),
        "bfloat16": (dense, ["train.precision=bfloat16", "train.epochs=1"]),
        "plain": (dense, []),
    }
    raw = {}
    for name, (model, options) in cases.items():
        raw[name] = to_dict(override(config, common + options))
        raw[name]["model"] = {**raw[name]["model"], **model}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(raw), str(tmp_path_factory.mktemp("two"))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def rows(run):
    return np.array([[row[name] for name in FIGURES] for row in run["history"]])


@pytest.mark.parametrize("case", ["plain", "adamw_in_parts", "synchronized"])
def test_two_devices_train_like_one(case, two_processors):
    one, two = two_processors[case]
    assert np.ptp(rows(one)[:, 0]) > 0.01 or len(rows(one)) == 1
    np.testing.assert_allclose(rows(two), rows(one), rtol=TOLERANCE)
    # Adam divides by the gradient's size: where that is 0 but for rounding, it steps as far as
    # anywhere else.
    if case != "adamw_in_parts":
        np.testing.assert_allclose(two["weights"], one["weights"], atol=TOLERANCE)


def test_statistics_of_half_a_batch_make_another_curve(two_processors):
    one, two = two_processors["synchronized"][0], two_processors["unsynchronized"][1]
    assert np.abs(rows(two)[0] - rows(one)[0]).max() > 50 * TOLERANCE


def test_dropout_draws_the_same_beside_synchronized_statistics(two_processors):
    one, other = two_processors["twice"]
    np.testing.assert_allclose(rows(one), rows(other), rtol=TOLERANCE)


def test_bfloat16_is_close_and_not_equal(two_processors):
    exact, coarse = (
        two_processors[name][1]["history"][0]["loss"] for name in ("plain", "bfloat16")
    )
    assert coarse != exact
    assert coarse == pytest.approx(exact, rel=0.02)


def test_two_devices_count_every_example_once(two_processors, true_labels):
    assert two_processors["labels"] == true_labels["validation"].tolist()
    best = max(row["val_top1"] for row in two_processors["plain"][1]["history"])
    assert two_processors["top1"] == pytest.approx(best)
    assert (two_processors["replicas"], two_processors["chief"]) == (2, True)


def test_unsupported_settings_of_two_devices_are_an_error(two_processors):
    assert two_processors["refused"] == (
        "train.global_batch=33 does not divide by 2 replicas; use 32 or 34"
    )
    assert "a TPU on this machine (train.tpu is empty) cannot be used" in two_processors["tpu"]
    assert "set train.tpu to its name" in two_processors["tpu"]
