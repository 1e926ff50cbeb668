"""Strategies by one option; two virtual processors in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import ConfigError, TrainConfig, override, to_dict
from trainers.strategy import is_chief, make_strategy

ROOT = Path(__file__).resolve().parents[2]

# TensorFlow's devices are fixed once it has started.
CHILD = """
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import tensorflow as tf
from trainers.config import ConfigError, from_dict
from trainers.loop import fit, Forward, predict_split
from trainers.strategy import is_chief, make_strategy

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
config = from_dict(json.loads(sys.argv[1]))
mirrored = replace(config.train, strategy="mirrored")
try:
    make_strategy(replace(mirrored, global_batch=33))
    refused = ""
except ConfigError as error:
    refused = str(error)
runs = [
    fit(replace(config, train=train), Path(sys.argv[2])) for train in (config.train, mirrored)
]
two = runs[1].model.distribute_strategy
odd = replace(config, eval=replace(config.eval, batch=7))
found = predict_split(Forward(runs[1].model, odd, two), odd, runs[1].info, "validation")
weights = [np.concatenate([w.ravel() for w in run.model.get_weights()]).tolist() for run in runs]
print(json.dumps({
    "refused": refused, "replicas": two.num_replicas_in_sync, "chief": is_chief(two),
    "histories": [run.history for run in runs], "weights": weights,
    "labels": found.labels.tolist(), "top1": float((found.scores.argmax(1) == found.labels).mean()),
}))
"""


@pytest.fixture(scope="module")
def two_processors(config, tmp_path_factory):
    """What the child printed: one epoch on one device, and the same on two."""
    options = ["model.name=vit", "model.dropout=0", "train.epochs=1", "optim.warmup_steps=0"]
    options.append('model.options={"patch": 8, "width": 8, "depth": 1, "heads": 2}')
    # Enough decay that adding it once a replica would show; without batch statistics nothing else
    # may depend on the number of devices.
    options += ["optim.weight_decay=0.5", "optim.schedule=constant"]
    config = json.dumps(to_dict(override(config, options)))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, config, str(tmp_path_factory.mktemp("two"))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_batch_that_does_not_divide_is_refused(two_processors):
    assert two_processors["replicas"] == 2
    assert two_processors["refused"] == (
        "train.global_batch=33 does not divide by 2 replicas; use 32"
    )


def test_two_devices_count_every_example_once(two_processors, true_labels):
    assert two_processors["labels"] == true_labels["validation"].tolist()
    row = two_processors["histories"][1][0]
    assert two_processors["top1"] == pytest.approx(row["val_top1"])
    assert two_processors["chief"] is True


def test_two_devices_train_like_one(two_processors):
    one, two = (history[0] for history in two_processors["histories"])
    for figure in ("loss", "top1", "val_loss", "learning_rate"):
        assert two[figure] == pytest.approx(one[figure], rel=1e-4), figure
    one, two = map(np.array, two_processors["weights"])
    np.testing.assert_allclose(two, one, atol=1e-5)


def test_one_device_is_the_default_strategy():
    strategy = make_strategy(TrainConfig(global_batch=33))
    assert strategy is tf.distribute.get_strategy()
    assert is_chief(strategy)


def test_multi_worker_needs_its_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match=r'needs TF_CONFIG in the environment: \{"cluster"'):
        make_strategy(TrainConfig(strategy="multi_worker"))
