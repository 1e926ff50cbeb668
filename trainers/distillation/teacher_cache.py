"""A teacher's answers to an epoch's training images, kept in a file that is mapped into memory.

    <distill.cache_dir>/<key>/about.json epoch-0000.npy epoch-0001.npy ...

The key is made of all that decides images and answers: the teacher, the records, their
preparation, the code that prepares them, seed and global batch, but nothing of the student. A file
is float32 (steps, B, N), 4 * B * N bytes a step; it is written under a temporary name and renamed,
so that under its own name it is whole, and a lock keeps a second process from asking for the same.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.config import Config, ConfigError
from trainers.data import pipeline
from trainers.data.digest import training_digest
from trainers.data.features import DatasetInfo
from trainers.data.parallel import ready
from trainers.distillation.teacher import Teacher
from trainers.identity.code_digest import code_digest
from trainers.identity.file_index import INDEX_FILE, FileIndex
from trainers.training.checkpoint import write_json

# What of `data` decides neither which images come nor how they look.
_NOT_PICTURES = {"dir", "mean", "std", "cache_dir", "cache_mb", "max_boxes", "host_sharding"}


def cached_logits(
    config: Config, info: DatasetInfo, teacher: Teacher, epoch: int
) -> np.ndarray | None:
    """The teacher's answers to one epoch, made by a pass over it where there are none yet.

    Call it after `keras.utils.set_random_seed(config.train.seed)`, as the loop does: tf.data's
    shuffling takes TensorFlow's global seed in, so that with another one other images come.

    Args:
      config: `distill.cache_dir`, `data`, `train.seed` and `train.global_batch` are used.
      info: of the data in `config.data.dir`.
      teacher: who answers.
      epoch: from 0.

    Returns:
      (steps, B, N) float32, mapped read-only, B the global batch; None without a `cache_dir`.

    Raises:
      ConfigError: images that do not come in one order on one host.
      DataError: a record that cannot be used.
      OSError: the disk is full; nothing stays behind.
    """
    if not config.distill.cache_dir:
        return None
    if config.data.service or config.train.strategy == "multi_worker":
        raise ConfigError(
            "distill.cache_dir needs images in one order on one host: unset data.service and "
            "train.strategy=multi_worker, or leave distill.cache_dir empty"
        )
    with FileIndex(Path(config.distill.cache_dir) / INDEX_FILE).open() as index:
        about = _about(config, info, teacher, index)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(config.distill.cache_dir) / key
    path = folder / f"epoch-{epoch:04d}.npy"
    shape = pipeline.steps_per_epoch(config, info), config.train.global_batch, info.num_classes
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock"):
        if not _is_whole(path, shape):
            write_json(folder / "about.json", about)
            _ask(config, info, teacher, epoch=epoch, path=path, shape=shape)
    return np.load(path, mmap_mode="r")


def with_teacher(
    dataset: tf.data.Dataset, logits: np.ndarray, *, start_step: int = 0
) -> tf.data.Dataset:
    """Batches with the teacher's answers beside them.

    Args:
      dataset: `trainers.data.pipeline.train_batches` of one host, from `start_step` on: (images,
        labels) of one replica after the other, each an even part of the global batch.
      logits: (steps, B, N) of the whole epoch, B the global batch.
      start_step: the global step that `dataset` starts with.

    Returns:
      Elements (images, labels, logits (b,N) float32), b images to a replica.

    Raises:
      ValueError: a replica's batch is not an even part of B.
    """
    steps, total, classes = logits.shape
    batch = dataset.element_spec[0].shape[0]  # type: ignore[index]
    if not batch or total % batch:
        raise ValueError(f"batches of {batch} images are no even parts of {total}, the cache's")
    parts = total // batch

    def read(at: np.ndarray) -> np.ndarray:
        step, part = divmod(int(at), parts)
        return np.ascontiguousarray(logits[step, part * batch : (part + 1) * batch])

    def answers(at: tf.Tensor) -> tf.Tensor:
        found = tf.numpy_function(read, [at], tf.float32, stateful=False)
        return tf.ensure_shape(found, (batch, classes))

    places = tf.data.Dataset.range(start_step * parts, steps * parts)
    both = tf.data.Dataset.zip((dataset, places.map(answers)))
    return ready(both.map(lambda pair, found: (*pair, found)))


def _about(config: Config, info: DatasetInfo, teacher: Teacher, index: FileIndex) -> dict[str, Any]:
    """What decides the answers, as JSON."""
    data = {k: v for k, v in asdict(config.data).items() if k not in _NOT_PICTURES}
    return {
        "teacher": teacher.digest,
        "data": training_digest(Path(config.data.dir), info, index, splits=("train",)),
        "preparation": data,
        "seed": config.train.seed,
        "global_batch": config.train.global_batch,
        "code": code_digest(__name__, index=index),
    }


def _ask(
    config: Config,
    info: DatasetInfo,
    teacher: Teacher,
    *,
    epoch: int,
    path: Path,
    shape: tuple[int, int, int],
) -> None:
    # One name for all: the lock is held, and what a killed process left is written over.
    temporary = path.with_name(f".{path.name}")
    answer = tf.function(teacher, autograph=False)
    try:
        # Written, not mapped: a full disk must be an error, and ends a process that maps.
        with temporary.open("wb") as file, pipeline.named_errors(config, info, "train"):
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for images, _ in pipeline.train_batches(config, info, epoch=epoch):
                file.write(answer(images).numpy().tobytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_whole(path: Path, shape: tuple[int, int, int]) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (FileNotFoundError, ValueError):
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
