"""Masks of objects: polygons and COCO's run lengths, judged, rendered and stored as PNG.

A mask is judged by plain arithmetic before pycocotools sees it, because its C code takes a broken
one at its word and can end the process.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

# pycocotools walks a polygon's edges in fifths of a pixel, keeps every step, and counts in C ints.
_STEPS_PER_PX = 5
_MAX_STEPS = 5_000_000
_FAR_PX = 1_000_000
# A polygon has three corners; pycocotools takes four numbers for a box.
_MIN_POLYGON = 6


def mask_finding(segmentation: Any, *, height: int, width: int) -> tuple[str, str] | None:
    """Why pycocotools must not see a segmentation: kind and detail; None where it may.

    Args:
      segmentation: see `Objects.segmentations`; None or empty is none at all, which is fine.
      height: of the image, in pixels.
      width: likewise.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _rle_finding(segmentation, height, width)
    if not isinstance(segmentation, (list, tuple)):
        return "mask_invalid", f"a segmentation is polygons or RLE, got {_short(segmentation)}"
    for polygon in segmentation:
        reason = polygon_fault(polygon)
        if reason:
            return "mask_invalid", reason
    if sum(map(_most_steps, segmentation)) > _MAX_STEPS:
        steps = sum(map(_steps, segmentation))
        if steps > _MAX_STEPS:
            return "mask_invalid", f"polygons of {steps / _STEPS_PER_PX:.3g} px all round"
    return None


def render(segmentation: Any, *, height: int, width: int) -> np.ndarray:
    """The mask of one object.

    Args:
      segmentation: polygons (their union) or RLE without a `mask_finding`.
      height: of the image, in pixels.
      width: likewise.

    Returns:
      (height, width) uint8, 1 inside and 0 outside.
    """
    from pycocotools import mask

    return mask.decode(_rle(segmentation, height, width))


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a (H, W) mask of 0 and 1."""
    from pycocotools import mask as coco_mask

    found: Any = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"counts": found["counts"].decode("ascii"), "size": list(mask.shape)}


def mask_area(segmentation: Any, *, height: int, width: int) -> float:
    """Pixels of `render`'s mask, without rendering it."""
    from pycocotools import mask

    return float(mask.area(_rle(segmentation, height, width)))


def encode_gray_png(pixels: np.ndarray) -> bytes:
    """A grayscale PNG; for masks, smaller than Pillow's and made in a quarter of the time.

    Args:
      pixels: (H, W) uint8 or uint16, which is the bit depth.
    """
    height, width = pixels.shape
    depth = pixels.dtype.itemsize
    rows = np.zeros((height, 1 + width * depth), np.uint8)  # 0: each row without a filter.
    wide = np.ascontiguousarray(pixels, f">u{depth}")
    rows[:, 1:] = wide.view(np.uint8).reshape(height, width * depth)
    # Runs are all there is in a mask, so deflate need not look for anything else.
    packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    body = packer.compress(rows.tobytes()) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8 * depth, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*one) for one in chunks)


def polygon_fault(polygon: Any) -> str:
    """Why something is no polygon; empty where it is one."""
    if not isinstance(polygon, (list, tuple)):
        return f"a polygon is a list x0, y0, x1, y1, ..., got {_short(polygon)}"
    if len(polygon) < _MIN_POLYGON or len(polygon) % 2:
        return f"a polygon has three or more pairs of numbers, got {len(polygon)} numbers"
    try:
        # A sum is a number only if every part is one; far quicker than asking each.
        fine = math.isfinite(sum(polygon)) and max(max(polygon), -min(polygon)) < _FAR_PX
    except (TypeError, OverflowError):
        fine = False
    return "" if fine else f"a polygon with values that are no places: {_short(polygon)}"


def _most_steps(polygon: Sequence[float]) -> float:
    """An upper bound of `_steps`, which is all that most polygons need."""
    return _STEPS_PER_PX * (max(polygon) - min(polygon)) * len(polygon) / 2


def _steps(polygon: Sequence[float]) -> float:
    corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    edges = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1)
    return float(_STEPS_PER_PX * edges.sum())


def _rle_finding(rle: dict[str, Any], height: int, width: int) -> tuple[str, str] | None:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        return "mask_size", f"mask of {_short(size)}, image of [{height}, {width}]"
    if isinstance(counts, (str, bytes)):
        text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        counts = _uncompressed(text)
        if counts is None:
            return "mask_invalid", f"RLE text that is cut off or foreign: {_short(text)}"
    if not isinstance(counts, (list, tuple)) or not all(type(one) is int for one in counts):
        return "mask_invalid", f"RLE counts are integers or text, got {_short(counts)}"
    if any(one < 0 for one in counts):
        return "mask_invalid", f"RLE with a negative run: {min(counts)}"
    if sum(counts) != height * width:
        return "mask_invalid", f"RLE of {sum(counts)} pixels, {height} x {width} are needed"
    return None


def _uncompressed(text: bytes) -> list[int] | None:
    """The runs of COCO's compressed RLE, or None where it is none.

    Each is a number of 5-bit groups, low ones first, each group plus 48 a character; from the
    third run on (counted from 0) it is the difference to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in text:
        group = byte - 48
        if not 0 <= group < 64 or shift > 60:
            return None
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return None if shift else runs


def _rle(segmentation: Any, height: int, width: int) -> Any:
    from pycocotools import mask

    coco_mask: Any = mask
    if not isinstance(segmentation, dict):
        polygons = [list(map(float, one)) for one in segmentation]
        return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    counts, size = segmentation["counts"], [height, width]
    if isinstance(counts, (list, tuple)):
        return coco_mask.frPyObjects({"counts": list(counts), "size": size}, height, width)
    return {"counts": counts.encode() if isinstance(counts, str) else counts, "size": size}


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
