"""Strategies, and the devices and clusters that they reject.

What two devices and two processes train is in test_distributed_curves.py and test_workers.py.
"""

import json
import socket

import pytest
import tensorflow as tf

from trainers.config import ConfigError, TrainConfig
from trainers.distributed import strategy as strategies
from trainers.distributed.cluster import ClusterError
from trainers.distributed.strategy import (
    from_chief,
    is_chief,
    make_strategy,
    own_folder,
    worker_count,
)


class Gpu:
    """What TensorFlow lists for a GPU, as far as it is looked at."""

    device_type = "GPU"

    def __init__(self, name):
        self.name = name


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in ("TF_CONFIG", "CLUSTER_SPEC", "SIGHTLINE_WORKER_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def silent():
    """An unreachable address of this machine."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


@pytest.fixture
def gpus(monkeypatch):
    """`gpus(count, capability)` makes TensorFlow report GPUs; returns those made visible."""
    visible = []

    def pretend(count, capability=(8, 0)):
        cpu = tf.config.list_physical_devices("CPU")
        found = [Gpu(f"/physical_device:GPU:{number}") for number in range(count)]
        monkeypatch.setattr(
            tf.config,
            "list_physical_devices",
            lambda kind=None: found if kind == "GPU" else cpu if kind == "CPU" else cpu + found,
        )
        details = {"device_name": "Tesla V100", "compute_capability": capability}
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
        monkeypatch.setattr(
            tf.config, "set_visible_devices", lambda devices, kind: visible.extend(devices)
        )
        return visible

    strategies._gpu_details.cache_clear()
    yield pretend
    strategies._gpu_details.cache_clear()


def test_one_device_is_the_default_strategy(tmp_path):
    strategy = make_strategy(TrainConfig(global_batch=33))
    assert strategy is tf.distribute.get_strategy()
    assert is_chief(strategy)
    assert worker_count(strategy) == 1
    assert own_folder(strategy, tmp_path) == tmp_path
    assert from_chief(strategy, [1.5, 2]) == [1.5, 2.0]


def test_parts_of_a_batch_are_equal_on_one_device_too():
    with pytest.raises(ConfigError, match=r"does not divide by 1 replica x 2 parts .*32 or 34"):
        make_strategy(TrainConfig(global_batch=33, accumulate=2))


def test_multi_worker_needs_its_cluster():
    with pytest.raises(
        ConfigError, match=r'needs TF_CONFIG in the environment: \{"cluster".*--workers N'
    ):
        make_strategy(TrainConfig(strategy="multi_worker"))


@pytest.mark.parametrize("strategy", ["one", "mirrored"])
def test_a_cluster_with_a_strategy_for_one_machine_is_an_error(strategy, monkeypatch):
    cluster = {"chief": ["a:1"], "worker": ["b:1"]}
    task = {"type": "chief", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    with pytest.raises(ConfigError, match=r"names 2 workers, .*set train.strategy=multi_worker"):
        make_strategy(TrainConfig(strategy=strategy))


def test_the_error_names_a_missing_worker_after_the_timeout(monkeypatch, silent):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        own = f"127.0.0.1:{one.getsockname()[1]}"
    raw = {"cluster": {"worker": [own, silent]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(raw))
    monkeypatch.setenv("SIGHTLINE_WORKER_TIMEOUT", "0.5")
    with pytest.raises(
        ClusterError, match=f"1 of 2 workers were not reachable within 0.5 s: {silent}"
    ):
        make_strategy(TrainConfig(strategy="multi_worker"))


def test_a_process_that_used_tensorflow_cannot_join(monkeypatch):
    tf.constant(1)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        own = f"127.0.0.1:{one.getsockname()[1]}"
    raw = {"cluster": {"worker": [own]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(raw))
    with pytest.raises(ClusterError, match="must start before the process uses any device"):
        make_strategy(TrainConfig(strategy="multi_worker"))


def test_a_missing_gpu_is_an_error(gpus):
    gpus(1)
    with pytest.raises(
        ConfigError, match=r"devices=2 needs GPUs, but TensorFlow finds 1 CPU, 1 GPU; install"
    ):
        make_strategy(TrainConfig(strategy="mirrored", devices=2))


def test_only_the_requested_gpus_are_visible(gpus):
    visible = gpus(3)
    make_strategy(TrainConfig(devices=1))
    assert [one.name for one in visible] == ["/physical_device:GPU:0"]


@pytest.mark.parametrize(
    ("strategy", "devices", "message"),
    [("one", 2, "trains on one device; set train.strategy=mirrored"), ("tpu", 1, "a TPU")],
)
def test_strategies_without_gpus_reject_them(strategy, devices, message):
    with pytest.raises(ConfigError, match=message):
        make_strategy(TrainConfig(strategy=strategy, devices=devices))


def test_the_error_names_an_unreachable_tpu(silent):
    with pytest.raises(ConfigError, match=rf"TPU 'grpc://{silent}' cannot be used: Connection"):
        make_strategy(TrainConfig(strategy="tpu", tpu=f"grpc://{silent}"))


def test_unsupported_precision_is_an_error(gpus):
    with pytest.raises(ConfigError, match=r"TPUs have no float16 .*precision=bfloat16"):
        make_strategy(TrainConfig(strategy="tpu", precision="float16"))
    gpus(1, (7, 0))
    with pytest.raises(ConfigError, match=r"Tesla V100 has compute capability 7\.0.*=float16"):
        make_strategy(TrainConfig(precision="bfloat16"))
    make_strategy(TrainConfig(precision="float16"))
    strategies._gpu_details.cache_clear()
    gpus(1, (8, 6))
    make_strategy(TrainConfig(precision="bfloat16"))
