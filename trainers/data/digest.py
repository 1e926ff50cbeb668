"""Digests of a data set: its description and the bytes of its shards.

Standard library only.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from core.files import file_digest
from trainers.data.features import DatasetInfo
from trainers.identity.file_index import FileIndex

# Fields of `dataset.json` that only describe the origin of the records.
_DESCRIPTIVE = (
    "name",
    "source",
    "rejected",
    "repaired",
    "fingerprint",
    "format_version",
    "turned",
    "group",
    "held_out",
)
_TRAINING = ("train", "validation")
_THREADS = 8
_BLOCKS = 16  # per thread


def data_digest(directory: Path, info: DatasetInfo, index: FileIndex) -> str:
    """64 hex digits that depend on everything in the data set, including `dataset.json`.

    Files in `index` with the same size, times and inode are not read again. The digest does not
    depend on the location of the folder.

    Args:
      directory: the folder with `Split-*`.
      info: description of the records.
      index: the cache of digests of files.

    Raises:
      OSError: a shard cannot be read.
    """
    return _digest(directory, asdict(info), index, splits=None)


def training_digest(
    directory: Path, info: DatasetInfo, index: FileIndex, *, splits: Sequence[str] = _TRAINING
) -> str:
    """Like `data_digest`, without the test split and descriptive fields."""
    facts = {key: value for key, value in asdict(info).items() if key not in _DESCRIPTIVE}
    facts["splits"] = {name: facts["splits"].get(name) for name in splits}
    return _digest(directory, facts, index, splits=splits)


def _digest(
    directory: Path, facts: dict[str, object], index: FileIndex, *, splits: Sequence[str] | None
) -> str:
    names = ["*"] if splits is None else splits
    files = sorted(
        file
        for name in names
        for file in Path(directory).glob(f"Split-{name}/*")
        if file.name[0] != "." and file.is_file()
    )
    shards = [
        [f"{file.parent.name}/{file.name}", digest]
        for file, digest in zip(files, file_digests(files, index), strict=True)
    ]
    text = json.dumps([facts, shards], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digests(files: list[Path], index: FileIndex) -> list[str]:
    """sha256 hex of each file; files are hashed in parallel, which releases the GIL."""

    def digest(file: Path) -> str:
        return index.fact(file, "sha256", file_digest)

    threads = min(_THREADS, os.cpu_count() or 1)
    # One task per file would cost more than looking up a known digest.
    size = max(1, len(files) // (threads * _BLOCKS))
    blocks = [files[at : at + size] for at in range(0, len(files), size)]
    with ThreadPoolExecutor(threads) as pool:
        return [
            one for found in pool.map(lambda block: [*map(digest, block)], blocks) for one in found
        ]
