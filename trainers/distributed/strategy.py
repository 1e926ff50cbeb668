"""`tf.distribute` strategies, and communication between workers."""

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
    unreachable,
    worker_timeout,
)

# NVIDIA's Ampere is the first generation with bfloat16 arithmetic.
_BFLOAT16_CAPABILITY = (8, 0)


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """The strategy of `config.strategy`; call it before any other use of a device.

    `multi_worker` reads TF_CONFIG, which Kubernetes and Vertex AI training jobs set, and waits up
    to SIGHTLINE_WORKER_TIMEOUT seconds (300) for the other workers.

    Raises:
      ConfigError: the global batch does not divide by replicas and parts, a GPU or TPU is missing,
        the devices do not support `precision`, `multi_worker` has no TF_CONFIG, or another
        strategy has one with several workers.
      ClusterError: TF_CONFIG is malformed, or other workers are unreachable.
    """
    cluster = read_cluster(os.environ)
    if config.strategy in ("one", "mirrored") and cluster and len(cluster.addresses) > 1:
        raise ConfigError(
            f"TF_CONFIG names {len(cluster.addresses)} workers, but with train.strategy="
            f"{config.strategy} each would train on all data; set train.strategy=multi_worker"
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
    """Whether this process is the chief, which writes the shared files."""
    return worker_rank(strategy) == 0


def worker_rank(strategy: tf.distribute.Strategy) -> int:
    """The rank of this process among the workers; 0 is the chief."""
    cluster = _cluster_of(strategy)
    return cluster.rank if cluster else 0


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """The number of processes that train together."""
    cluster = _cluster_of(strategy)
    return len(cluster.addresses) if cluster else 1


def own_folder(strategy: tf.distribute.Strategy, folder: Path) -> Path:
    """The folder for this process to write to: `folder` for the chief, else a subfolder.

    Every worker must take part in saving, which averages batch statistics over all workers; only
    the chief's files are read again.
    """
    rank = worker_rank(strategy)
    return folder / f"worker-{rank}" if rank else folder


def from_chief(strategy: tf.distribute.Strategy, values: Sequence[float]) -> list[float]:
    """The chief's `values` on every worker; all workers must call it, and it waits for all.

    The chief must make every decision: results of two machines may differ in the last bit, and
    workers that decide differently wait for each other forever.

    Args:
      strategy: of this run.
      values: of the same length on every worker; those of other workers are ignored.
    """
    if worker_count(strategy) == 1:
        return [float(value) for value in values]
    own = tf.constant(list(values), tf.float64)
    chief = is_chief(strategy)

    @tf.function
    def total() -> tf.Tensor:
        def of_replica() -> tf.Tensor:
            # Replica 0 of all is the chief's first.
            context: Any = tf.distribute.get_replica_context()
            is_first = tf.equal(context.replica_id_in_sync_group, 0)
            return tf.where(tf.logical_and(chief, is_first), own, tf.zeros_like(own))

        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(of_replica), axis=None)

    return [float(value) for value in total().numpy()]


class _Resolver(tf.distribute.cluster_resolver.TFConfigClusterResolver):
    """A `Cluster` for TensorFlow without parameter servers, for which it would wait."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(task_type=cluster.kind, task_id=cluster.index, rpc_layer="grpc")
        self.cluster = cluster

    def cluster_spec(self) -> tf.train.ClusterSpec:
        return tf.train.ClusterSpec({job: list(found) for job, found in self.cluster.jobs.items()})


def _cluster_of(strategy: tf.distribute.Strategy) -> Cluster | None:
    return getattr(strategy.cluster_resolver, "cluster", None)


@functools.lru_cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # A second strategy would reuse the collective keys of the first, and TensorFlow rejects a key
    # with another shape.
    return tf.distribute.MirroredStrategy(devices)


@functools.lru_cache
def _joined(cluster: Cluster) -> tf.distribute.Strategy:
    """The strategy over `cluster`, which a process can join only once."""
    seconds = worker_timeout(os.environ)
    meet(cluster, timeout_s=seconds)
    late = (
        f"the workers {', '.join(cluster.addresses)} were reachable, but did not form a cluster "
        f"within {seconds:g} s: one of them ended, or another program uses its port"
    )
    try:
        with ended_after(seconds, late):
            return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=_Resolver(cluster))
    except RuntimeError as error:
        raise ClusterError(
            "train.strategy=multi_worker must start before the process uses any device, but this "
            f"process already did: {error}"
        ) from error
    except tf.errors.OpError as error:
        raise ClusterError(f"{cluster.own} cannot join the cluster: {error.message}") from error


def _tpu(name: str) -> tf.distribute.Strategy:
    where = f"TPU {name!r}" if name else "a TPU on this machine (train.tpu is empty)"
    try:
        if name.startswith("grpc://"):
            missing = unreachable([name.removeprefix("grpc://")])
            if missing:
                raise ConnectionError("; ".join(f"{at}: {why}" for at, why in missing.items()))
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name or "local")
        if name not in ("", "local"):
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # TensorFlow raises many types here.
        raise ConfigError(
            f"train.strategy=tpu, but {where} cannot be used: {type(error).__name__}: "
            f"{str(error)[:160]}; set train.tpu to its name, "
            "`local`, or grpc://host:port, or choose another train.strategy"
        ) from error


def _demand_gpus(config: TrainConfig) -> None:
    """Makes only the first `devices` GPUs of this machine visible to TensorFlow."""
    wanted = config.devices
    if not wanted:
        return
    if config.strategy == "tpu" or (config.strategy == "one" and wanted > 1):
        what = "one device" if config.strategy == "one" else "a TPU"
        raise ConfigError(
            f"train.devices={wanted} needs GPUs, but train.strategy={config.strategy} trains on "
            f"{what}; set train.strategy=mirrored, or train.devices=0"
        )
    found = tf.config.list_physical_devices("GPU")
    if len(found) < wanted:
        kinds = [device.device_type for device in tf.config.list_physical_devices()]
        available = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        raise ConfigError(
            f"train.devices={wanted} needs GPUs, but TensorFlow finds {available}; install the "
            "driver and `pip install tensorflow[and-cuda]`, check `nvidia-smi` and "
            "CUDA_VISIBLE_DEVICES, or set train.devices=0 to train on the available devices"
        )
    with contextlib.suppress(RuntimeError):  # TensorFlow has already started with its devices.
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
                f"{'.'.join(map(str, capability))}, but bfloat16 needs 8.0; set "
                "train.precision=float16"
            )


@functools.lru_cache
def _gpu_details(name: str) -> dict[str, Any]:
    (device,) = (one for one in tf.config.list_physical_devices("GPU") if one.name == name)
    return tf.config.experimental.get_device_details(device)
