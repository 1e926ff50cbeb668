"""The validation split of public TFRecords that have none to choose by: a part held out of train.

Whole shards where that is fine enough, as public shards are shuffled; the images of one more shard
are divided by their content. An image of the held-out part that is in train as well stays in train
only. Of the shards, at most one is copied, besides those of the held-out part with such images.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfx_pipeline.ingest.source import IngestError
from tfx_pipeline.ingest.splits import split_point

# One training shard in a hundred where no share is given.
_SHARDS = 100
# A lone shard is of a small set. A tenth of fewer images than these is nothing to choose by.
_OF_A_LONE_SHARD = 0.1
_LONE_SHARD_IMAGES = 100
# So many whole shards are within a tenth of any share.
_FINE_ENOUGH = 10


@dataclass(frozen=True)
class Shard:
    """One shard of the training split.

    Attributes:
      file: of the records.
      images: `digest_of` the image of each record.
    """

    file: Path
    images: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """A shard of a split that was divided.

    Attributes:
      file: the source's shard.
      records: which of its records; None for all, which leaves the shard where it is.
    """

    file: Path
    records: frozenset[int] | None = None


def check_share(share: float) -> None:
    """Raises IngestError unless `share` is 0, for the usual one, or in (0, 1)."""
    if not 0 <= share < 1:
        raise IngestError(
            f"validation is the share of train to hold out, in (0, 1), got {share}; 0.01 is 1 %, "
            "and 0 takes every hundredth shard"
        )


def hold_out(train: Sequence[Shard], share: float) -> tuple[list[Piece], list[Piece]]:
    """The training and the validation split, which have no image in common.

    Args:
      train: all shards of the training split.
      share: of its images, what becomes validation; 0 is every hundredth shard, at least one, and a
        tenth of a lone shard of a hundred images or more, or else nothing.

    Raises:
      IngestError: no image would be left in one of the two.
    """
    if not share and len(train) == 1 and len(train[0].images) < _LONE_SHARD_IMAGES:
        return [Piece(train[0].file)], []
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
            f"a share of {share or _OF_A_LONE_SHARD} of the {images:,} training images leaves none "
            f"for {'validation' if training else 'train'}, as no image may be in both; give "
            "another share, validation=SHARE"
        )
    return training, validation


def copy_records(piece: Piece, out: Path, records: Callable[[Path], Iterator[bytes]]) -> None:
    """Writes the records of `piece` to the file `out`."""
    import tensorflow as tf

    out.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(out)) as writer:
        for number, record in enumerate(records(piece.file)):
            if piece.records is None or number in piece.records:
                writer.write(record)


def digest_of(image: bytes) -> str:
    """16 hex digits of the sha256: enough to tell millions of images apart."""
    return hashlib.sha256(image).hexdigest()[:16]


def _parts(shards: int, share: float) -> tuple[int, float]:
    """How many whole shards are held out, and which part of one more."""
    if not share:
        return (max(1, shards // _SHARDS), 0.0) if shards > 1 else (0, _OF_A_LONE_SHARD)
    whole = int(share * shards + 1e-9)
    return whole, 0.0 if whole >= _FINE_ENOUGH else share * shards - whole


def _piece(shard: Shard, records: set[int]) -> Piece:
    return Piece(shard.file, None if len(records) == len(shard.images) else frozenset(records))


def _filled(pieces: list[Piece]) -> list[Piece]:
    return [one for one in pieces if one.records is None or one.records]
