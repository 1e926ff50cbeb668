"""Image sizes of records, from the headers of a few hundred images, without TensorFlow.

A TFRecord is a sequence of (uint64 length, uint32 CRC, data, uint32 CRC), little-endian; the data
is a `tf.train.Example` in protobuf's wire format, of which only a few fields are needed here.
"""

import glob
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from core.image_header import ImageError, check_image
from trainers.data.features import IMAGE, shard_pattern

#: Number of images that suffice for a stable median.
_ENOUGH = 400
_FRAME = struct.Struct("<QI")
_CRC_BYTES = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def shorter_sides(data: Path, split: str = "train", *, limit: int = _ENOUGH) -> list[int]:
    """The shorter sides in pixels, as stored, of up to `limit` images of a split.

    Args:
      data: the records folder.
      split: the split.
      limit: maximum number of images; shards are read alternately, so that all classes are included
        if shards are sorted.

    Returns:
      One value per readable image; other images and files are skipped, as the jobs that need them
      report them.
    """
    shards = sorted(glob.glob(shard_pattern(data, split)))
    each = -(-limit // max(len(shards), 1))
    return [side for shard in shards for side in islice(_sides(Path(shard)), each)][:limit]


def _sides(shard: Path) -> Iterator[int]:
    for record in _records(shard):
        try:
            header = check_image(_image(record))
        except (ImageError, ValueError):
            continue
        yield min(header.height, header.width)


def _records(shard: Path) -> Iterator[bytes]:
    """The records of an uncompressed file; nothing for other files."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            length, _ = _FRAME.unpack(head)
            if file.tell() + length + _CRC_BYTES > size:
                return
            yield file.read(length)
            file.seek(_CRC_BYTES, 1)


def _image(example: bytes) -> bytes:
    """The encoded image of a serialized `tf.train.Example`; empty if it has none."""
    for features in _fields(example, 1):
        for entry in _fields(features, 1):
            if b"".join(_fields(entry, 1)) == IMAGE.encode():
                parts = (entry,)
                for number in (2, 1, 1):  # The map value, its bytes_list, the list value.
                    parts = tuple(one for part in parts for one in _fields(part, number))
                return parts[0] if parts else b""
    return b""


def _fields(message: bytes, number: int) -> Iterator[bytes]:
    """The contents of the length-delimited fields `number` of a message.

    Raises:
      ValueError: the bytes are not a valid message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("a field is longer than its message")
            if key >> 3 == number:
                yield message[at : at + length]
            at += length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"invalid wire type {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
    raise ValueError("a truncated varint")
