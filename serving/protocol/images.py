"""Encoded bytes of images given as paths, bytes or arrays; needs no imaging library."""

import struct
import zlib
from pathlib import Path
from typing import TypeAlias

import numpy as np

#: A path to an image, its encoded bytes, or (H, W, 3) uint8 RGB pixels.
Image: TypeAlias = str | Path | bytes | np.ndarray


def encoded_image(image: Image) -> bytes:
    """The content of a file, the given bytes, or a PNG of an array.

    Raises:
      FileNotFoundError: the path does not exist.
      TypeError: not a path, bytes or array.
      ValueError: the array is not (H, W, 3) uint8.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, Path)):
        return Path(image).read_bytes()
    if isinstance(image, np.ndarray):
        return encode_png(image)
    raise TypeError(f"an image is a path, bytes or a uint8 array, got {type(image).__name__}")


def encode_png(pixels: np.ndarray) -> bytes:
    """A lossless PNG (ISO/IEC 15948) of RGB pixels.

    Args:
      pixels: (H, W, 3) uint8, H and W at least 1.

    Raises:
      ValueError: the shape or dtype is wrong.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"pixels must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    height, width, _ = pixels.shape
    # Each row starts with its filter type; 0 is no filter.
    rows = np.zeros((height, 1 + width * 3), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
