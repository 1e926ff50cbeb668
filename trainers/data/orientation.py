"""EXIF orientation of encoded images, in Python for ingest and as a graph for serving.

TensorFlow's decoders return pixels as stored. Ingest with `--exif upright` rotates images, and the
graph exported from such data rotates the images of clients in the same way, with standard
TensorFlow ops. As in viewers, the orientation is read from the first EXIF block of a JPEG (APP1,
before the frame) or a PNG (eXIf, before the pixels), within the first 256 KiB and 64 segments, and
there from the first directory (EXIF 2.32, 4.6.4; TIFF 6.0, section 2). Everything else is upright.
TensorFlow is imported in the functions that need it.
"""

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

#: The values of `DatasetInfo.exif` and of a manifest's `input.exif`.
AS_STORED, UPRIGHT = "as_stored", "upright"

_HEAD_BYTES = 256 * 1024
_MAX_SEGMENTS = 64
_MAX_ENTRIES = 512
_TAG, _SHORT, _LONG = 0x0112, 3, 4
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# Frames, tables, the end and pixel data: readers do not search for EXIF after them.
_LAST_MARKERS = (0x00, *range(0xC0, 0xD0), 0xD9, 0xDA)
_EXIF_MARK = b"Exif\0\0"
# Orientation -> whether columns and rows are reversed, after a transposition for 5 to 8.
_ACROSS = tuple(one in (2, 3, 6, 7) for one in range(9))
_DOWN = tuple(one in (3, 4, 7, 8) for one in range(9))
# Longer than any structure that is read at a position.
_PAD = b"\0" * 16


def orientation_of(data: bytes) -> int:
    """The EXIF orientation of an encoded image, 1 to 8; 1 without EXIF."""
    head = data[:_HEAD_BYTES]
    if head.startswith(_JPEG):
        block = _jpeg_exif(head)
    elif head.startswith(_PNG):
        block = _png_exif(head)
    else:
        block = b""
    return _orientation(block)


def _jpeg_exif(head: bytes) -> bytes:
    position = 2
    for _ in range(_MAX_SEGMENTS):
        start, marker, length = struct.unpack_from(">BBH", head[position:] + _PAD)
        if start != 0xFF or marker in _LAST_MARKERS:
            break
        if marker == 0xFF:
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
        elif marker == 0xE1 and head[position + 4 : position + 10] == _EXIF_MARK:
            return head[position + 10 : position + 2 + length]
        else:
            position += 2 + length
    return b""


def _png_exif(head: bytes) -> bytes:
    position = len(_PNG)
    for _ in range(_MAX_SEGMENTS):
        length, kind = struct.unpack_from(">I4s", head[position:] + _PAD)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"eXIf":
            # The available part of the block, which a checksum of 4 bytes follows.
            return head[position + 8 : min(position + 12 + length, len(head)) - 4]
        position += 12 + length
    return b""


def _orientation(block: bytes) -> int:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 10:
        return 1
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start > len(block) - 2:
        return 1
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for index in range(min(count, _MAX_ENTRIES, (len(block) - start - 2) // 12)):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", block, start + 2 + 12 * index)
        if tag == _TAG and kind in (_SHORT, _LONG):
            form = "H" if kind == _SHORT else "I"
            (value,) = struct.unpack_from(f"{order}{form}", block, start + 10 + 12 * index)
            return value if 1 <= value <= 8 else 1
    return 1


def orientation_tensor(encoded: "tf.Tensor") -> "tf.Tensor":
    """`orientation_of` as a graph.

    Args:
      encoded: () string.

    Returns:
      () int32, 1 to 8.
    """
    import tensorflow as tf

    head = tf.strings.substr(encoded, 0, _HEAD_BYTES)
    magic = tf.strings.substr(head, 0, len(_PNG))
    block = tf.case(
        [
            (tf.strings.substr(magic, 0, 2) == _JPEG, lambda: _exif_tensor(head, png=False)),
            (magic == _PNG, lambda: _exif_tensor(head, png=True)),
        ],
        default=lambda: tf.constant(b""),
    )
    readable = tf.strings.length(block) >= 10
    return tf.cond(readable, lambda: _orientation_tensor(block), lambda: tf.constant(1))


def _exif_tensor(head: "tf.Tensor", *, png: bool) -> "tf.Tensor":
    """() string, the EXIF block in the first bytes of a JPEG or PNG; empty without EXIF."""
    import tensorflow as tf

    size = tf.strings.length(head)
    padded = tf.strings.join([head, _PAD])
    step = _png_step if png else _jpeg_step

    def more(position: tf.Tensor, found: tf.Tensor, segment: tf.Tensor) -> tf.Tensor:
        return (position >= 0) & (found == 0) & (segment < _MAX_SEGMENTS)

    def look(
        position: tf.Tensor, _: tf.Tensor, segment: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        text = tf.strings.substr(padded, tf.minimum(position, size), 10)
        values = tf.cast(tf.ensure_shape(tf.io.decode_raw(text, tf.uint8), (10,)), tf.int32)
        ends, is_exif, following = step(values, text)
        # A length of 4 bytes may point anywhere; positions after the head are ignored.
        following = tf.where(ends, -1, tf.minimum(position, size) + tf.minimum(following, size))
        return (
            tf.where(is_exif, position, following),
            tf.where(is_exif, tf.minimum(following, size), 0),
            segment + 1,
        )

    first = len(_PNG) if png else len(_JPEG)
    start, end, _ = tf.while_loop(more, look, (tf.constant(first), tf.constant(0), tf.constant(0)))
    skipped = 8 if png else 10
    # A PNG chunk ends with a checksum of 4 bytes.
    length = tf.maximum(end - start - skipped - (4 if png else 0), 0)
    start = tf.clip_by_value(start + skipped, 0, size)
    return tf.cond(
        end > 0, lambda: tf.strings.substr(head, start, length), lambda: tf.constant(b"")
    )


def _jpeg_step(values: "tf.Tensor", text: "tf.Tensor") -> tuple["tf.Tensor", ...]:
    """(whether the segments end here, whether this is EXIF, bytes to the next segment)."""
    import tensorflow as tf

    marker, length = values[1], 256 * values[2] + values[3]
    ends = (values[0] != 0xFF) | tf.reduce_any(marker == tf.constant(_LAST_MARKERS))
    is_exif = ~ends & (marker == 0xE1) & (tf.strings.substr(text, 4, 6) == _EXIF_MARK)
    bare = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
    return ends, is_exif, tf.where(marker == 0xFF, 1, tf.where(bare, 2, 2 + length))


def _png_step(values: "tf.Tensor", text: "tf.Tensor") -> tuple["tf.Tensor", ...]:
    """Like `_jpeg_step`, for a PNG chunk."""
    import tensorflow as tf

    kind = tf.strings.substr(text, 4, 4)
    # Lengths above the size of the head are equivalent.
    high = values[0] * 256 + values[1]
    length = tf.where(high > 0x3F, _HEAD_BYTES, high * 65536 + values[2] * 256 + values[3])
    ends = (kind == b"IDAT") | (kind == b"IEND")
    return ends, ~ends & (kind == b"eXIf"), 12 + length


def _orientation_tensor(block: "tf.Tensor") -> "tf.Tensor":
    """() int32, the orientation in a TIFF structure of at least 10 bytes."""
    import tensorflow as tf

    size = tf.strings.length(block)
    magic = tf.strings.substr(block, 0, 4)
    big = magic == b"MM\0*"

    def number(values: tf.Tensor) -> tf.Tensor:
        """(...) int64 from (..., n) bytes in the byte order of the block."""
        values = tf.cast(tf.where(big, values, tf.reverse(values, [-1])), tf.int64)
        weights = tf.constant([256**power for power in reversed(range(values.shape[-1]))], tf.int64)
        return tf.reduce_sum(values * weights, -1)

    values = tf.io.decode_raw(block, tf.uint8)
    start = number(tf.ensure_shape(values[4:8], (4,)))
    fits = (big | (magic == b"II*\0")) & (start <= tf.cast(size - 2, tf.int64))
    at = tf.where(fits, tf.cast(tf.minimum(start, tf.cast(size, tf.int64)), tf.int32), 0)
    listed = number(tf.ensure_shape(values[at : at + 2], (2,)))
    count = tf.minimum(tf.cast(listed, tf.int32), tf.minimum(_MAX_ENTRIES, (size - at - 2) // 12))
    entries = tf.reshape(values[at + 2 : at + 2 + 12 * count], (-1, 12))
    kind = number(entries[:, 2:4])
    wanted = (number(entries[:, :2]) == _TAG) & ((kind == _SHORT) | (kind == _LONG)) & fits
    found = tf.where(kind == _SHORT, number(entries[:, 8:10]), number(entries[:, 8:12]))
    first = tf.cast(tf.boolean_mask(found, wanted)[:1], tf.int64)
    value = tf.reduce_sum(first)
    return tf.cast(tf.where((value >= 1) & (value <= 8), value, 1), tf.int32)


def upright_tensor(image: "tf.Tensor", orientation: "tf.Tensor") -> "tf.Tensor":
    """An image, rotated and mirrored by its EXIF orientation.

    Args:
      image: (H, W, C), as stored.
      orientation: () int32, 1 to 8.

    Returns:
      (H, W, C), or (W, H, C) for 5 to 8, with the same dtype.
    """
    import tensorflow as tf

    def turned() -> tf.Tensor:
        swapped = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        across = tf.constant(_ACROSS)[orientation]
        down = tf.constant(_DOWN)[orientation]
        return _flipped(swapped, down, across)

    return tf.cond(orientation == 1, lambda: image, turned)


def _flipped(image: "tf.Tensor", down: "tf.Tensor", across: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    image = tf.cond(down, lambda: tf.reverse(image, [0]), lambda: image)
    return tf.cond(across, lambda: tf.reverse(image, [1]), lambda: image)
