"""Caches decoded splits between epochs, in memory or in a folder that is memory-mapped.

A folder contains `images.npy` (N, h, w, 3) uint8, `facts.npz` (everything else) and `cache.json`
(the digest of records and preprocessing). It is written atomically, and a lock prevents a second
process from decoding the same split.
"""

import functools
import hashlib
import json
import math
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from core.files import DISK_FULL, replacing_folder
from core.locks import file_lock
from trainers.config import Config
from trainers.data import features
from trainers.data.features import DatasetInfo
from trainers.data.parallel import ready
from trainers.data.prepare import Examples, cached_size, chunk_size, decode_examples, kept_as
from trainers.data.reader import Usable, named_errors, read_serialized, signature
from trainers.data.records_check import DataError
from trainers.identity.code_digest import code_digest

_BATCH = 8
_IMAGES, _FACTS, _MANIFEST = "images.npy", "facts.npz", "cache.json"


class Decoded(NamedTuple):
    """A decoded split in file order.

    Attributes:
      examples: N examples, without padding.
      counts: (S,) int64: number of examples in each file of the split.
    """

    examples: Examples
    counts: np.ndarray


def is_cached(config: Config, records: Usable, *, whole: bool) -> bool:
    """Whether `data.cache` enables a cache for `records`.

    Args:
      config: `data` is used.
      records: the records of the split.
      whole: whether whole images are needed for random crops; then `auto` does not cache.
    """
    data = config.data
    if data.cache != "auto":
        return data.cache != "none"
    return not whole and _image_bytes(data, records, whole=False) <= data.cache_mb * 2**20


def decoded(
    config: Config, info: DatasetInfo, split: str, *, records: Usable, whole: bool
) -> Decoded:
    """A split from the cache, which is created if necessary.

    Args:
      config: `data` decides the preprocessing and the location of the cache.
      info: description of the data in `data.dir`.
      split: `train`, `validation` or `test`.
      records: the records of the split.
      whole: whether to cache whole images for random crops; see
        `trainers.data.prepare.cached_size`.

    Raises:
      DataError: bad records, or the disk is full.
    """
    key = _key(config, info, records=records, whole=whole)
    text = json.dumps([split, os.path.abspath(config.data.dir), config.data.cache == "disk", key])
    if text not in _kept:
        while len(_kept) >= len(features.SPLITS):
            _kept.pop(next(iter(_kept)))
        what = _CacheJob(config, info, split, records, whole)
        _kept[text] = _from_disk(what, key) if config.data.cache == "disk" else _in_memory(what)
    return _kept[text]


_kept: dict[str, Decoded] = {}


def _chunks(what: "_CacheJob") -> Iterator[tuple[np.ndarray, Examples]]:
    """(images (n, h, w, 3), the other columns) of each chunk, without padding."""
    tagged = read_serialized(what.records, tagged=True)
    chunk = chunk_size(_BATCH)
    dataset = ready(
        decode_examples(tagged, what.info, what.config.data, chunk=chunk, whole=what.whole)
    )
    with named_errors(what.config, what.info, what.split), tf.device("CPU"):
        for part in dataset.as_numpy_iterator():
            kept = tf.nest.map_structure(functools.partial(_first, int(part.mask.sum())), part)
            yield kept.images, kept._replace(images=kept.images[:, 0, 0, :0])


def _first(count: int, values: np.ndarray) -> np.ndarray:
    return values[:count]


class _CacheJob(NamedTuple):
    """The split to decode, with its preprocessing."""

    config: Config
    info: DatasetInfo
    split: str
    records: Usable
    whole: bool


def _in_memory(what: _CacheJob) -> Decoded:
    shape = (what.records.examples, *cached_size(what.config.data, whole=what.whole), 3)
    # Memory maps are page-aligned: TensorFlow aborts for a shared array that is not aligned.
    memory = mmap.mmap(-1, math.prod(shape))
    images, at, facts = np.frombuffer(memory, np.uint8).reshape(shape), 0, []
    for pixels, rest in _chunks(what):
        images[at : at + len(pixels)] = pixels
        at += len(pixels)
        facts.append(rest)
    return _decoded(images, _joined(facts), len(what.records.files))


def _joined(facts: list[Examples]) -> Examples:
    return tf.nest.map_structure(lambda *values: np.concatenate(values), *facts)


def _decoded(images: np.ndarray, facts: Examples, shards: int) -> Decoded:
    """The columns as tensors; images are not copied."""
    with tf.device("CPU"):
        rest = tf.nest.map_structure(tf.constant, facts)
        shared = tf.experimental.dlpack.from_dlpack(images.__dlpack__())
    return Decoded(
        rest._replace(images=shared), np.bincount(facts.shards, minlength=shards).astype(np.int64)
    )


def _from_disk(what: _CacheJob, key: dict[str, Any]) -> Decoded:
    data = what.config.data
    root = Path(data.cache_dir or Path(data.dir) / ".cache")
    height, width = cached_size(data, whole=what.whole)
    kind = hashlib.sha256(json.dumps(key["preprocessing"]).encode()).hexdigest()[:8]
    where = root / f"{what.split}-{height}x{width}-{kind}"
    lock = where.with_name(f"{where.name}.lock")
    with _errors(root, _image_bytes(data, what.records, whole=what.whole), lock):
        if not _is_whole(where, key):
            _write(where, what, key)
        # Copy-on-write, because DLPack does not accept read-only memory; it is never written.
        images = np.load(where / _IMAGES, mmap_mode="c")
        with np.load(where / _FACTS) as stored:
            return _decoded(images, _unpacked(stored), len(what.records.files))


def _write(where: Path, what: _CacheJob, key: dict[str, Any]) -> None:
    shutil.rmtree(where, ignore_errors=True)  # Before the write: two may not fit on the disk.
    with replacing_folder(where) as draft:
        shape = (what.records.examples, *cached_size(what.config.data, whole=what.whole), 3)
        facts = []
        # Written, not memory-mapped: a full disk raises an error instead of a crash.
        with (draft / _IMAGES).open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for pixels, rest in _chunks(what):
                file.write(pixels.data)
                facts.append(rest)
        np.savez(draft / _FACTS, **_packed(_joined(facts)))
        sizes = {name: (draft / name).stat().st_size for name in (_IMAGES, _FACTS)}
        (draft / _MANIFEST).write_text(json.dumps({**key, "bytes": sizes}), encoding="utf-8")


def _packed(facts: Examples) -> dict[str, np.ndarray]:
    """The columns as arrays; strings become fixed-width bytes, which do not need pickle."""
    slices = {key: value.astype("S") for key, value in facts.slices.items()}
    return {
        "labels": facts.labels,
        "ids": facts.ids.astype("S"),
        "sizes": facts.sizes,
        "shards": facts.shards,
        "mask": facts.mask,
        **slices,
    }


def _unpacked(stored: Any) -> Examples:
    slices = {key: stored[key] for key in stored.files if key.startswith("slice/")}
    return Examples(
        images=np.zeros((len(stored["labels"]), 0), np.uint8),
        slices=slices,
        **{key: stored[key] for key in ("labels", "ids", "sizes", "shards", "mask")},
    )


def _is_whole(where: Path, key: dict[str, Any]) -> bool:
    """Whether the folder contains a complete cache with this `key`."""
    try:
        found = json.loads((where / _MANIFEST).read_text(encoding="utf-8"))
        sizes = found.pop("bytes")
        return found == key and all((where / n).stat().st_size == size for n, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _key(config: Config, info: DatasetInfo, *, records: Usable, whole: bool) -> dict[str, Any]:
    """The key of a cache as JSON values; it depends on the content of files, not their location."""
    data = config.data
    files = [[os.path.basename(name), *rest] for name, *rest in signature(records.files)]
    key = {
        "preprocessing": [asdict(kept_as(data, whole=whole)), whole],
        "files": files,
        "records": [[one.file[-40:], one.index, one.ends_shard] for one in records.bad],
        "code": _code(),
        "dataset": hashlib.sha256(info.to_json().encode()).hexdigest(),
    }
    return json.loads(json.dumps(key))


@functools.cache
def _code() -> str:
    """The digest of the code that decodes, writes and reads: this module and its imports."""
    return code_digest(__name__)


def _image_bytes(data: Any, records: Usable, *, whole: bool) -> int:
    height, width = cached_size(data, whole=whole)
    return records.examples * height * width * 3


@contextmanager
def _errors(root: Path, needed: int, lock: Path) -> Iterator[None]:
    """Holds `lock`, and names `root` in errors of the disk."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(lock):
            yield
    except OSError as error:
        reason = "is full" if error.errno in DISK_FULL else f"cannot be written ({error})"
        raise DataError(
            f"the cache in {root} needs {needed / 2**20:.0f} MiB and its disk {reason}; free some "
            "space, set data.cache_dir to another folder, or set data.cache=none"
        ) from error
