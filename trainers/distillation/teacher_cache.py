"""Teacher logits for the training images of an epoch, cached in a memory-mapped file.

    <distill.cache_dir>/<key>/about.json epoch-0000.npy epoch-0001.npy ...

The key is a digest of everything that decides images and logits: the teacher, the records, the
configuration keys with the role `images` and the code, but nothing of the student. A file is
float32 (steps, B, N), 4 * B * N bytes per step. It is written under a temporary name and renamed,
and a lock prevents two processes from computing the same logits.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from core.files import write_json, writing
from core.locks import file_lock
from trainers.config import Config, ConfigError
from trainers.config_keys import values_with
from trainers.data import pipeline
from trainers.data.digest import training_digest
from trainers.data.features import DatasetInfo
from trainers.data.parallel import ready
from trainers.distillation.teacher import Teacher
from trainers.identity.code_digest import code_digest
from trainers.identity.file_index import INDEX_FILE, FileIndex


def cached_logits(
    config: Config, info: DatasetInfo, teacher: Teacher, epoch: int
) -> np.ndarray | None:
    """The teacher's logits for one epoch, computed by a pass over it if they are not cached.

    Call it after `keras.utils.set_random_seed(config.train.seed)`, as the loop does: the order of
    tf.data depends on TensorFlow's global seed.

    Args:
      config: `distill.cache_dir`, `data`, `train.seed` and `train.global_batch` are used.
      info: of the data in `config.data.dir`.
      teacher: computes the logits.
      epoch: from 0.

    Returns:
      (steps, B, N) float32, mapped read-only, B the global batch; None without a `cache_dir`.

    Raises:
      ConfigError: the images are not in one order on one host.
      DataError: a record that cannot be used.
      OSError: the disk is full; no partial file remains.
    """
    if not config.distill.cache_dir:
        return None
    if config.data.service or config.train.strategy == "multi_worker":
        raise ConfigError(
            "distill.cache_dir needs images in one order on one host: unset data.service and "
            "train.strategy=multi_worker, or leave distill.cache_dir empty"
        )
    with FileIndex(Path(config.distill.cache_dir) / INDEX_FILE).open() as index:
        facts = _facts(config, info, teacher, index)
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(config.distill.cache_dir) / key
    path = folder / f"epoch-{epoch:04d}.npy"
    shape = pipeline.steps_per_epoch(config, info), config.train.global_batch, info.num_classes
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock"):
        if not _is_whole(path, shape):
            write_json(folder / "about.json", facts)
            _write_logits(config, info, teacher, epoch=epoch, path=path, shape=shape)
    return np.load(path, mmap_mode="r")


def with_teacher(
    dataset: tf.data.Dataset, logits: np.ndarray, *, start_step: int = 0
) -> tf.data.Dataset:
    """Batches with teacher logits.

    Args:
      dataset: `trainers.data.pipeline.train_batches` of one host, from `start_step` on: (images,
        labels) of one replica after the other, each an equal part of the global batch.
      logits: (steps, B, N) of the whole epoch, B the global batch.
      start_step: the global step that `dataset` starts with.

    Returns:
      Elements (images, labels, logits (b,N) float32), b images per replica.

    Raises:
      ValueError: a replica's batch is not an equal part of B.
    """
    steps, total, classes = logits.shape
    batch = dataset.element_spec[0].shape[0]  # type: ignore[index]
    if not batch or total % batch:
        raise ValueError(f"batches of {batch} images are not equal parts of the cached {total}")
    parts = total // batch

    def read(at: np.ndarray) -> np.ndarray:
        step, part = divmod(int(at), parts)
        return np.ascontiguousarray(logits[step, part * batch : (part + 1) * batch])

    def logits_at(at: tf.Tensor) -> tf.Tensor:
        found = tf.numpy_function(read, [at], tf.float32, stateful=False)
        return tf.ensure_shape(found, (batch, classes))

    positions = tf.data.Dataset.range(start_step * parts, steps * parts)
    both = tf.data.Dataset.zip((dataset, positions.map(logits_at)))
    return ready(both.map(lambda pair, found: (*pair, found)))


def _facts(config: Config, info: DatasetInfo, teacher: Teacher, index: FileIndex) -> dict[str, Any]:
    """Everything that decides the logits, as JSON."""
    return {
        "teacher": teacher.digest,
        "data": training_digest(Path(config.data.dir), info, index, splits=("train",)),
        "config": values_with(config, "images"),
        "code": code_digest(__name__, index=index),
    }


def _write_logits(
    config: Config,
    info: DatasetInfo,
    teacher: Teacher,
    *,
    epoch: int,
    path: Path,
    shape: tuple[int, int, int],
) -> None:
    compute = tf.function(teacher, autograph=False)
    # Written, not mapped: a full disk must be an error, and ends a process that maps.
    with writing(path) as file, pipeline.named_errors(config, info, "train"):
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for images, _ in pipeline.train_batches(config, info, epoch=epoch):
            file.write(compute(images).numpy().tobytes())


def _is_whole(path: Path, shape: tuple[int, int, int]) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (FileNotFoundError, ValueError):
        return False
