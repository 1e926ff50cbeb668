"""Format, size, and channels of an encoded image, and checks before it is decoded.

The checks run before a decoder allocates memory and are cheap enough for every request.
`trainers.data.decode.load_image` adds the errors of the decoder.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

#: 64 megapixels, 192 MB as uint8 RGB: above common cameras and below decompression bombs.
MAX_PIXELS = 64 * 1024 * 1024
#: Per JPEG; encoders write about 10. A decoder processes all pixels for each scan.
MAX_SCANS = 64
#: Pixels times scans: 16 scans of the largest image, a few seconds of decoding.
MAX_SCANNED_PIXELS = 16 * MAX_PIXELS

_BMP_RGB, _BMP_BITFIELDS = 0, 3
_BMP_BGRA_MASKS = (0x00FF0000, 0x0000FF00, 0x000000FF)
# JPEG start-of-frame markers; C4 (tables), C8 (reserved) and CC (arithmetic tables) are not.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_JPEG_SCAN, _JPEG_END = b"\xda", b"\xd9"
_JPEG_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_GIF_EXTENSION, _GIF_FRAME = 0x21, 0x2C
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


class ImageError(ValueError):
    """Bytes that the exported graph cannot decode as an image; the message has the reason."""


class ImageTooLargeError(ImageError):
    """An image that takes too much memory or time to decode."""


@dataclass(frozen=True)
class ImageHeader:
    """The content of an image header.

    Attributes:
      format: `JPEG`, `PNG`, `BMP` or `GIF`, from the content and never from a file name.
      height: rows in pixels, as stored (EXIF orientation is not applied, here or in the graph).
      width: columns in pixels, as stored.
      channels: 1 gray, 2 gray and alpha, 3 color or palette, 4 with alpha or CMYK.
    """

    format: str
    height: int
    width: int
    channels: int


def check_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """The header of an encoded image that the graph can decode.

    Does not detect a damaged body; only a decoder can.

    Args:
      data: the encoded bytes.
      max_pixels: maximum of height times width.

    Raises:
      ImageTooLargeError: more than `max_pixels`, or more scans than `MAX_SCANS` and
        `MAX_SCANNED_PIXELS` allow.
      ImageError: the data is empty, has another format or a broken header, or is a BMP that
        TensorFlow would misread (palette, RLE, unusual masks) or a GIF with a smaller first frame.
    """
    if not data:
        raise ImageError("empty: 0 bytes; send the bytes of a JPEG, PNG, BMP or GIF image")
    for magic, read in _READERS.items():
        if data.startswith(magic):
            header = _read(read, data)
            break
    else:
        raise ImageError(
            f"not an image: {len(data)} bytes starting {data[:8]!r}{_guess(data)}; "
            "allowed are JPEG, PNG, BMP and GIF"
        )
    if header.height < 1 or header.width < 1:
        raise ImageError(f"{header.format} header says {header.height} x {header.width} pixels")
    if header.height * header.width > max_pixels:
        raise ImageTooLargeError(
            f"{header.format} of {header.height} x {header.width} = "
            f"{header.height * header.width:,} pixels is over the limit of {max_pixels:,}; "
            "send a smaller image"
        )
    if header.format == "JPEG":
        _check_scans(data, header)
    return header


def _check_scans(data: bytes, header: ImageHeader) -> None:
    """Rejects a JPEG with so many scans that a small file takes minutes to decode."""
    limit = max(1, min(MAX_SCANS, MAX_SCANNED_PIXELS // (header.height * header.width)))
    scans = sum(1 for _ in islice(_jpeg_scans(data), limit + 1))
    if scans > limit:
        raise ImageTooLargeError(
            f"JPEG of {header.height} x {header.width} with more than {limit} scans, which would "
            "take too long to decode; save it again as a baseline JPEG"
        )


def _jpeg_scans(data: bytes) -> Iterator[int]:
    """The start of each scan; stops where the file is damaged."""
    position = 2
    while True:
        # Within a scan ff is followed by 00 or a restart marker.
        found = _JPEG_MARKER.search(data, position)
        if found is None or found[1] == _JPEG_END:
            return
        position = found.end()
        if len(data) < position + 2:
            return
        if found[1] == _JPEG_SCAN:
            yield position
        (length,) = struct.unpack_from(">H", data, position)
        position += max(length, 2)


def _read(read: Callable[[bytes], ImageHeader], data: bytes) -> ImageHeader:
    try:
        return read(data)
    except (struct.error, IndexError) as error:
        raise ImageError(f"broken header: the file ends in it, after {len(data)} bytes") from error


def _jpeg(data: bytes) -> ImageHeader:
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            raise ImageError("broken JPEG: no frame header, the file is truncated or not a JPEG")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _JPEG_FRAMES:
            height, width, channels = struct.unpack_from(">HHB", data, position + 5)
            return ImageHeader("JPEG", height, width, channels)
        elif marker == 0xD9:
            raise ImageError("broken JPEG: it ends before a frame header")
        elif marker == 0 or marker in _JPEG_NO_LENGTH:
            position += 2
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + length


def _png(data: bytes) -> ImageHeader:
    name, width, height, _, color = struct.unpack_from(">4sIIBB", data, 12)
    if name != b"IHDR" or color not in _PNG_CHANNELS:
        raise ImageError(f"broken PNG: first chunk {name!r}, color type {color}")
    return ImageHeader("PNG", height, width, _PNG_CHANNELS[color])


def _gif(data: bytes) -> ImageHeader:
    """Rejects a first frame smaller than the canvas, which TensorFlow returns at its own size."""
    width, height = struct.unpack_from("<HH", data, 6)
    pixels = 0
    for number, (left, top, frame_width, frame_height) in enumerate(_gif_frames(data)):
        fills = (left, top, frame_width, frame_height) == (0, 0, width, height)
        if number == 0 and not fills:
            raise ImageError(
                f"GIF of {height} x {width} whose first frame is {frame_height} x {frame_width} "
                f"at {top}, {left} is not decoded; save it as PNG"
            )
        if left + frame_width > width or top + frame_height > height:
            raise ImageError(
                f"GIF of {height} x {width} whose frame {number} is {frame_height} x {frame_width} "
                f"at {top}, {left}, past its edge, is not decoded; save it as PNG"
            )
        pixels += frame_width * frame_height
        if pixels > MAX_PIXELS:  # The decoder unpacks every frame, to return the first.
            raise ImageError(
                f"GIF whose first {number + 1} frames have {pixels:,} pixels is over the limit of "
                f"{MAX_PIXELS:,}; save the first as PNG"
            )
    return ImageHeader("GIF", height, width, 3)


def _gif_frames(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, width, and height of each frame up to the end of the file."""
    position = 13 + _color_table_bytes(data[10])
    while position < len(data) and data[position] in (_GIF_EXTENSION, _GIF_FRAME):
        if data[position] == _GIF_FRAME:
            if position + 10 > len(data):
                return
            yield struct.unpack_from("<HHHH", data, position + 1)
            # The color table, and the byte with the code size.
            position += 11 + _color_table_bytes(data[position + 9])
        else:
            position += 2
        while position < len(data) and data[position]:
            position += 1 + data[position]  # Sub-blocks, each after its length.
        position += 1  # The empty one that ends them.


def _color_table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _bmp(data: bytes) -> ImageHeader:
    """Rejects palettes and unusual masks: TensorFlow reads 8 bits as gray and 32 as BGRA."""
    size, width, height, _, bits, compression = struct.unpack_from("<IiiHHI", data, 14)
    if size < 40:
        raise ImageError(f"BMP with an OS/2 header ({size} bytes) is not decoded; save it as PNG")
    if bits not in (8, 24, 32) or compression not in (_BMP_RGB, _BMP_BITFIELDS):
        raise ImageError(
            f"BMP with {bits} bits a pixel and compression {compression} is not decoded; "
            "save it as PNG"
        )
    if bits == 8 and not _gray_palette(data, size):
        raise ImageError("BMP with a color palette is not decoded; save it as PNG")
    if compression == _BMP_BITFIELDS and struct.unpack_from("<III", data, 54) != _BMP_BGRA_MASKS:
        raise ImageError("BMP with channel masks other than BGRA is not decoded; save it as PNG")
    return ImageHeader("BMP", abs(height), width, bits // 8)


def _gray_palette(data: bytes, header_size: int) -> bool:
    (used,) = struct.unpack_from("<I", data, 46)
    start, count = 14 + header_size, used or 256
    palette = data[start : start + 4 * count]
    identity = b"".join(bytes((level, level, level)) for level in range(min(count, 256)))
    stored = b"".join(palette[i : i + 3] for i in range(0, len(palette), 4))
    return stored == identity


def _guess(data: bytes) -> str:
    """The name of a known format that is not supported."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return " (WebP)"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return " (TIFF)"
    if data[4:8] == b"ftyp":
        return " (AVIF or HEIF)"
    if data[:1] == b"P" and data[1:2] in b"123456":
        return " (PPM)"
    if data[:5] == b"%PDF-":
        return " (PDF)"
    if data.lstrip()[:1] in (b"<", b"{"):
        return " (text)"
    return ""


_READERS: dict[bytes, Callable[[bytes], ImageHeader]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"GIF8": _gif,
    b"BM": _bmp,
}
