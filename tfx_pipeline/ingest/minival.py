"""Holds out a validation split from the training shards of public TFRecords.

Public shards are shuffled, so whole shards are held out, and at most one shard is divided by the
content of its images. An image that is also in train is removed from the held-out part. Only the
divided shard and held-out shards with such images are copied.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfx_pipeline.ingest.source import IngestError
from tfx_pipeline.ingest.splits import split_point

# Training shards per held-out shard if no share is given.
_SHARDS = 100
# For a data set with a single shard. A tenth of fewer images is too small for a validation split.
_SHARE_OF_SINGLE_SHARD = 0.1
_LONE_SHARD_IMAGES = 100
# With this many whole shards, rounding changes the share by at most a tenth.
_FINE_ENOUGH = 10


@dataclass(frozen=True)
class Shard:
    """One shard of the training split.

    Attributes:
      file: the path.
      images: `digest_of` each image.
    """

    file: Path
    images: tuple[str, ...]


@dataclass(frozen=True)
class ShardPiece:
    """A shard, or a part of one, in the new splits.

    Attributes:
      file: the original shard.
      records: indices of its records; None for all, in which case the shard is linked.
    """

    file: Path
    records: frozenset[int] | None = None


def check_share(share: float) -> None:
    """Raises IngestError unless `share` is 0 (the default share) or in (0, 1)."""
    if not 0 <= share < 1:
        raise IngestError(
            f"validation must be a share of train in (0, 1), got {share}; 0.01 holds out 1 %, and "
            "0 every hundredth shard"
        )


def hold_out(train: Sequence[Shard], share: float) -> tuple[list[ShardPiece], list[ShardPiece]]:
    """The training and the validation split, without a common image.

    Args:
      train: all shards of the training split.
      share: share of the images to hold out; 0 holds out every hundredth shard, at least one, or a
        tenth of a single shard of at least a hundred images.

    Raises:
      IngestError: one of the two would have no image.
    """
    if not share and len(train) == 1 and len(train[0].images) < _LONE_SHARD_IMAGES:
        return [ShardPiece(train[0].file)], []
    whole, part = _parts(len(train), share)
    step = len(train) / whole if whole else 1.0
    chosen = {len(train) - 1 - int(step * number) for number in range(whole)}
    divided = next((at for at in reversed(range(len(train))) if at not in chosen), -1)
    kept = {at: range(len(shard.images)) for at, shard in enumerate(train) if at not in chosen}
    held = {at: frozenset(range(len(train[at].images))) for at in chosen}
    if part > 0 and divided >= 0:
        images = train[divided].images
        held[divided] = frozenset(at for at, one in enumerate(images) if split_point(one) < part)
    known = {
        train[at].images[record]
        for at, records in kept.items()
        for record in records
        if record not in held.get(at, ())
    }
    training = [
        _piece(train[at], set(records) - held.get(at, frozenset())) for at, records in kept.items()
    ]
    validation = [
        _piece(train[at], {one for one in records if train[at].images[one] not in known})
        for at, records in sorted(held.items())
    ]
    training, validation = _filled(training), _filled(validation)
    if not training or not validation:
        images = sum(len(shard.images) for shard in train)
        raise IngestError(
            f"a share of {share or _SHARE_OF_SINGLE_SHARD} of the {images:,} training images "
            f"leaves no image for {'validation' if training else 'train'}, as no image may be in "
            "both; set another share with validation=SHARE"
        )
    return training, validation


def copy_records(piece: ShardPiece, out: Path, records: Callable[[Path], Iterator[bytes]]) -> None:
    """Copies the records of `piece` to the file `out`."""
    import tensorflow as tf

    out.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(out)) as writer:
        for number, record in enumerate(records(piece.file)):
            if piece.records is None or number in piece.records:
                writer.write(record)


def digest_of(image: bytes) -> str:
    """The first 16 hex digits of the sha256, enough to distinguish millions of images."""
    return hashlib.sha256(image).hexdigest()[:16]


def _parts(shards: int, share: float) -> tuple[int, float]:
    """The number of whole shards to hold out, and the part of one more."""
    if not share:
        return (max(1, shards // _SHARDS), 0.0) if shards > 1 else (0, _SHARE_OF_SINGLE_SHARD)
    whole = int(share * shards + 1e-9)
    return whole, 0.0 if whole >= _FINE_ENOUGH else share * shards - whole


def _piece(shard: Shard, records: set[int]) -> ShardPiece:
    return ShardPiece(shard.file, None if len(records) == len(shard.images) else frozenset(records))


def _filled(pieces: list[ShardPiece]) -> list[ShardPiece]:
    return [one for one in pieces if one.records is None or one.records]
