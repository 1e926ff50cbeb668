"""Masks of objects: validates, renders and encodes polygons and COCO's run lengths.

A mask is validated before it is passed to pycocotools, because its C code does not check its input
and can crash the process.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

# pycocotools traces a polygon's edges in fifths of a pixel, stores every step and counts in C ints.
_STEPS_PER_PX = 5
_MAX_STEPS = 5_000_000
_FAR_PX = 1_000_000
# A polygon has at least three corners; pycocotools interprets four numbers as a box.
_MIN_POLYGON = 6


def mask_finding(segmentation: Any, *, height: int, width: int) -> tuple[str, str] | None:
    """Kind and detail of the fault of a segmentation; None if pycocotools can process it.

    Args:
      segmentation: see `Objects.segmentations`; None or empty is valid.
      height: of the image, in pixels.
      width: likewise.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _rle_finding(segmentation, height, width)
    if not isinstance(segmentation, (list, tuple)):
        return "mask_invalid", f"a segmentation must be polygons or RLE, got {_short(segmentation)}"
    for polygon in segmentation:
        reason = polygon_fault(polygon)
        if reason:
            return "mask_invalid", reason
    if sum(map(_most_steps, segmentation)) > _MAX_STEPS:
        steps = sum(map(_steps, segmentation))
        if steps > _MAX_STEPS:
            return "mask_invalid", f"polygons with outlines of {steps / _STEPS_PER_PX:.3g} px"
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
    """Number of pixels of the mask of `render`, without rendering it."""
    from pycocotools import mask

    return float(mask.area(_rle(segmentation, height, width)))


def encode_gray_png(pixels: np.ndarray) -> bytes:
    """A grayscale PNG; for masks, smaller than Pillow's and four times as fast.

    Args:
      pixels: (H, W) uint8 or uint16; decides the bit depth.
    """
    height, width = pixels.shape
    depth = pixels.dtype.itemsize
    rows = np.zeros((height, 1 + width * depth), np.uint8)  # 0: no filter.
    wide = np.ascontiguousarray(pixels, f">u{depth}")
    rows[:, 1:] = wide.view(np.uint8).reshape(height, width * depth)
    # A mask consists of runs, so the run-length strategy suffices.
    packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    body = packer.compress(rows.tobytes()) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8 * depth, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*one) for one in chunks)


def polygon_fault(polygon: Any) -> str:
    """Why a value is not a valid polygon; empty if it is."""
    if not isinstance(polygon, (list, tuple)):
        return f"a polygon must be a list x0, y0, x1, y1, ..., got {_short(polygon)}"
    if len(polygon) < _MIN_POLYGON or len(polygon) % 2:
        return f"a polygon needs three or more pairs of numbers, got {len(polygon)} numbers"
    try:
        # A sum is finite only if every value is, and is much faster than a check of each.
        fine = math.isfinite(sum(polygon)) and max(max(polygon), -min(polygon)) < _FAR_PX
    except (TypeError, OverflowError):
        fine = False
    return "" if fine else f"a polygon with invalid coordinates: {_short(polygon)}"


def _most_steps(polygon: Sequence[float]) -> float:
    """A cheap upper bound of `_steps`."""
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
            return "mask_invalid", f"RLE text that is truncated or malformed: {_short(text)}"
    if not isinstance(counts, (list, tuple)) or not all(type(one) is int for one in counts):
        return "mask_invalid", f"RLE counts must be integers or text, got {_short(counts)}"
    if any(one < 0 for one in counts):
        return "mask_invalid", f"RLE with a negative run: {min(counts)}"
    if sum(counts) != height * width:
        return "mask_invalid", f"RLE of {sum(counts)} pixels, expected {height} x {width}"
    return None


def _uncompressed(text: bytes) -> list[int] | None:
    """The runs of COCO's compressed RLE; None if it is malformed.

    A run is a sequence of 5-bit groups, least significant first, each stored as a character with
    offset 48; from run 3 on (from 0), it is the difference to the run two before.
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
