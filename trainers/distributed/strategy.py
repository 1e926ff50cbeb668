"""`tf.distribute` strategies by one option, and what workers tell each other."""

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainers.config import ConfigError, TrainConfig
from trainers.distributed.cluster import (
    EXAMPLE,
    Cluster,
    ClusterError,
    check_batch,
    ended_after,
    meet,
    read_cluster,
    unanswered,
    worker_timeout,
)

# NVIDIA's Ampere is the first generation whose units take bfloat16.
_BFLOAT16_CAPABILITY = (8, 0)


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """The strategy that `config.strategy` names; call it before anything else touches a device.

    `multi_worker` reads TF_CONFIG, as Kubernetes and Vertex AI training jobs set it, and waits
    for the other workers up to SIGHTLINE_WORKER_TIMEOUT seconds (300).

    Raises:
      ConfigError: the global batch does not divide by replicas and parts, GPUs or a TPU are
        demanded and not there, the devices lack the arithmetic of `precision`, or a cluster is
        missing, or there although each process would train by itself.
      ClusterError: TF_CONFIG is malformed, or other workers do not answer in time.
    """
    cluster = read_cluster(os.environ)
    if config.strategy in ("one", "mirrored") and cluster and len(cluster.addresses) > 1:
        raise ConfigError(
            f"TF_CONFIG names {len(cluster.addresses)} workers, and with train.strategy="
            f"{config.strategy} each would train everything; set train.strategy=multi_worker"
        )
    _demand_gpus(config)
    _check_precision(config)
    if config.strategy == "one":
        strategy = tf.distribute.get_strategy()
    elif config.strategy == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        strategy = _mirrored(tuple(device.name for device in devices))
    elif config.strategy == "multi_worker":
        if cluster is None:
            raise ConfigError(
                "train.strategy=multi_worker needs TF_CONFIG in the environment: "
                f"{EXAMPLE}; on one machine, `sightline train RECIPE --workers N` sets it"
            )
        strategy = _joined(cluster)
    else:
        strategy = _tpu(config.tpu)
    check_batch(config, strategy.num_replicas_in_sync)
    return strategy


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what all workers agree on; always so with one worker."""
    return worker_rank(strategy) == 0


def worker_rank(strategy: tf.distribute.Strategy) -> int:
    """This process's number among the workers, from 0, which is the chief."""
    cluster = _cluster_of(strategy)
    return cluster.rank if cluster else 0


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together."""
    cluster = _cluster_of(strategy)
    return len(cluster.addresses) if cluster else 1


def own_folder(strategy: tf.distribute.Strategy, folder: Path) -> Path:
    """Where this process may write: the chief `folder`, any other worker one of its own within.

    Every worker must take part in saving, since batch statistics are averaged over all of them
    then; only the chief's files are read again.
    """
    rank = worker_rank(strategy)
    return folder / f"worker-{rank}" if rank else folder


def from_chief(strategy: tf.distribute.Strategy, values: Sequence[float]) -> list[float]:
    """What the chief passed, on every worker; each must call it, and waits for the others.

    Decisions must be the chief's: figures of two machines may differ in the last bit, and workers
    that decide differently wait for each other for ever.

    Args:
      strategy: of this run.
      values: as many on every worker; the others' are ignored.
    """
    if worker_count(strategy) == 1:
        return [float(value) for value in values]
    told = tf.constant(list(values), tf.float64)
    chief = is_chief(strategy)

    @tf.function
    def total() -> tf.Tensor:
        def of_replica() -> tf.Tensor:
            # The chief's first replica is number 0 of all.
            context: Any = tf.distribute.get_replica_context()
            speaks = tf.equal(context.replica_id_in_sync_group, 0)
            return tf.where(tf.logical_and(chief, speaks), told, tf.zeros_like(told))

        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(of_replica), axis=None)

    return [float(value) for value in total().numpy()]


class _Resolver(tf.distribute.cluster_resolver.TFConfigClusterResolver):
    """A `Cluster` for TensorFlow: without parameter servers, whom it would wait for."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(task_type=cluster.kind, task_id=cluster.index, rpc_layer="grpc")
        self.cluster = cluster

    def cluster_spec(self) -> tf.train.ClusterSpec:
        return tf.train.ClusterSpec({job: list(found) for job, found in self.cluster.jobs.items()})


def _cluster_of(strategy: tf.distribute.Strategy) -> Cluster | None:
    return getattr(strategy.cluster_resolver, "cluster", None)


@functools.lru_cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # A second strategy would number its sums like the first, and TensorFlow, which remembers each
    # number's shape, would refuse them.
    return tf.distribute.MirroredStrategy(devices)


@functools.lru_cache
def _joined(cluster: Cluster) -> tf.distribute.Strategy:
    """The strategy over `cluster`, which a process joins once."""
    seconds = worker_timeout(os.environ)
    meet(cluster, timeout_s=seconds)
    late = (
        f"the workers {', '.join(cluster.addresses)} answered, but did not form a cluster within "
        f"{seconds:g} s: one of them died, or another program has its port"
    )
    try:
        with ended_after(seconds, late):
            return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=_Resolver(cluster))
    except RuntimeError as error:
        raise ClusterError(
            "multi_worker must be the first thing that a process does with TensorFlow, and this "
            f"one has used a device before: {error}"
        ) from error
    except tf.errors.OpError as error:
        raise ClusterError(f"{cluster.own} cannot join the cluster: {error.message}") from error


def _tpu(name: str) -> tf.distribute.Strategy:
    where = f"TPU {name!r}" if name else "a TPU on this machine (train.tpu is empty)"
    try:
        if name.startswith("grpc://"):
            silent = unanswered([name.removeprefix("grpc://")])
            if silent:
                raise ConnectionError("; ".join(f"{at}: {why}" for at, why in silent.items()))
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name or "local")
        if name not in ("", "local"):
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # Each way of missing a TPU raises something else.
        raise ConfigError(
            f"train.strategy=tpu, and {where} cannot be used: {type(error).__name__}: "
            f"{str(error)[:160]}; set train.tpu to its name, "
            "`local` or grpc://host:port, or take another train.strategy"
        ) from error


def _demand_gpus(config: TrainConfig) -> None:
    """Shows TensorFlow the first `devices` GPUs of this machine and no more."""
    wanted = config.devices
    if not wanted:
        return
    if config.strategy == "tpu" or (config.strategy == "one" and wanted > 1):
        what = "one device" if config.strategy == "one" else "a TPU"
        raise ConfigError(
            f"train.devices={wanted} demands GPUs, and train.strategy={config.strategy} trains on "
            f"{what}; set train.strategy=mirrored, or train.devices=0"
        )
    found = tf.config.list_physical_devices("GPU")
    if len(found) < wanted:
        kinds = [device.device_type for device in tf.config.list_physical_devices()]
        there = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        raise ConfigError(
            f"train.devices={wanted} demands GPUs, and TensorFlow finds {there}; install the "
            "driver and `pip install tensorflow[and-cuda]`, see `nvidia-smi` and "
            "CUDA_VISIBLE_DEVICES, or set train.devices=0 to train on what is there"
        )
    with contextlib.suppress(RuntimeError):  # TensorFlow has started: the devices are fixed.
        tf.config.set_visible_devices(found[:wanted], "GPU")


def _check_precision(config: TrainConfig) -> None:
    if config.precision == "float16" and config.strategy == "tpu":
        raise ConfigError("TPUs have no float16 arithmetic; set train.precision=bfloat16")
    if config.precision != "bfloat16":
        return
    for device in tf.config.list_physical_devices("GPU"):
        details = _gpu_details(device.name)
        capability = details.get("compute_capability", _BFLOAT16_CAPABILITY)
        if tuple(capability) < _BFLOAT16_CAPABILITY:
            raise ConfigError(
                f"{details.get('device_name', device.name)} has compute capability "
                f"{'.'.join(map(str, capability))}, and bfloat16 needs 8.0; set "
                "train.precision=float16"
            )


@functools.lru_cache
def _gpu_details(name: str) -> dict[str, Any]:
    (device,) = (one for one in tf.config.list_physical_devices("GPU") if one.name == name)
    return tf.config.experimental.get_device_details(device)
