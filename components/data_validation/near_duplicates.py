"""Near duplicates among many images: candidates by hash, confirmed by thumbnails.

By a perceptual hash alone, two frames of one traffic sign or two handwritten zeros are the same.
Pairs whose 64-bit hashes differ in few bits are therefore only candidates, and the mean absolute
difference of their thumbnails decides.
"""

from collections.abc import Iterator
from itertools import pairwise

import imagehash
import numpy as np
from PIL import Image

#: Side of the square gray thumbnails in pixels, the input of the hash's cosine transform.
SIDE = 32

_BITS = 64
# Below this standard deviation, of 255 gray levels, a thumbnail has no structure to compare.
_MIN_CONTRAST = 4.0
# Images that share a band of bits are compared with this many neighbors by brightness. More images
# share only the bands of near-empty hashes, where near duplicates are neighbors as well.
_WINDOW = 512
_CHUNK = 4096
_POPCOUNT = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def perceptual_hash(thumbnail: np.ndarray) -> int:
    """ImageHash's `phash` of a thumbnail as an unsigned 64-bit number.

    Args:
      thumbnail: (32, 32) uint8 gray.
    """
    bits = imagehash.phash(Image.fromarray(thumbnail)).hash
    return int.from_bytes(np.packbits(bits.ravel()).tobytes(), "big")


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) int: number of bits in which two (N,) uint64 arrays differ."""
    differ = np.ascontiguousarray(a ^ b).view(np.uint8).reshape(-1, 8)
    return _POPCOUNT[differ].sum(axis=1, dtype=np.int64)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference of thumbnails, standardized to mean 0 and standard deviation 1.

    Brightness and contrast therefore do not matter.

    Args:
      a: (N, 32, 32) uint8 gray.
      b: the same shape.

    Returns:
      (N,) float32 in [0, 2]; infinity when the standard deviation of a thumbnail is below 4 gray
      levels: it has no structure to compare.
    """
    return np.where(
        _flat(a) | _flat(b), np.inf, np.abs(_standard(a) - _standard(b)).mean(axis=(1, 2))
    ).astype(np.float32)


def _flat(thumbnails: np.ndarray) -> np.ndarray:
    return thumbnails.std(axis=(1, 2), dtype=np.float32) < _MIN_CONTRAST


def _standard(thumbnails: np.ndarray) -> np.ndarray:
    gray = thumbnails.astype(np.float32)
    gray -= gray.mean(axis=(1, 2), keepdims=True)
    return gray / np.maximum(gray.std(axis=(1, 2), keepdims=True), _MIN_CONTRAST)


def candidate_pairs(
    hashes: np.ndarray, brightness: np.ndarray, max_bits: int
) -> Iterator[np.ndarray]:
    """Pairs whose hashes differ in at most `max_bits` bits, without comparing all pairs.

    The bits are divided into `max_bits + 1` bands: two hashes that differ in `max_bits` bits agree
    in at least one band (multi-index hashing, Norouzi et al. 2012, section 3; also Manku et al.
    2007). Equal hashes may make 511 pairs per image, so do not keep the blocks.

    Args:
      hashes: (N,) uint64.
      brightness: (N,) numbers that are close for near duplicates; they order crowded bands.
      max_bits: in 0..15.

    Yields:
      (P, 2) int64 positions, 0 < P < N, the lower one first; each pair in one block only.
    """
    edges = np.linspace(0, _BITS, max_bits + 2).round().astype(int)
    earlier: list[tuple[np.ndarray, np.ndarray]] = []
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        band = (hashes >> np.uint64(low)) & mask
        order = np.lexsort((brightness, band))
        for one, other in _neighbors(band, order):
            new = hamming(hashes[one], hashes[other]) <= max_bits
            for known, rank in earlier:
                new &= ~_were_neighbors(known, rank, one, other)
            if new.any():
                yield np.sort(np.stack([one[new], other[new]], axis=1), axis=1)
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        earlier.append((band.astype(np.min_scalar_type(int(mask))), rank))


def _neighbors(band: np.ndarray, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of positions that share a band's value, at increasing distance in `order`."""
    sorted_band = band[order]
    active = np.arange(len(order))
    for step in range(1, min(_WINDOW, len(order))):
        active = active[active + step < len(order)]
        active = active[sorted_band[active] == sorted_band[active + step]]
        if not len(active):
            return
        yield order[active], order[active + step]


def _were_neighbors(
    band: np.ndarray, rank: np.ndarray, one: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """(P,) bool: whether `_neighbors` yields a pair for a band; `rank` inverts its order."""
    return (band[one] == band[other]) & (np.abs(rank[one] - rank[other]) < _WINDOW)


def near_duplicates(
    hashes: np.ndarray, thumbnails: np.ndarray, *, max_bits: int, max_difference: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of images that are nearly the same, in blocks; flat images are in none.

    Args:
      hashes: (N,) uint64 of `perceptual_hash`.
      thumbnails: (N, 32, 32) uint8 gray; a memory map is read only for candidates.
      max_bits: of the hashes, in 0..15.
      max_difference: of `difference`.

    Yields:
      (P, 2) int64 positions, the lower one first, and (P,) float32 differences, 0 < P <= 4096; each
      pair in one block only, in no order.
    """
    rows, brightness = _structured(thumbnails)
    for block in candidate_pairs(hashes[rows], brightness, max_bits):
        for at in range(0, len(block), _CHUNK):
            pairs = rows[block[at : at + _CHUNK]]
            apart = difference(thumbnails[pairs[:, 0]], thumbnails[pairs[:, 1]])
            near = apart <= max_difference
            if near.any():
                yield pairs[near], apart[near]


def _structured(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the thumbnails that are not flat, (M,) int64, and their brightness, (M,).

    Nearly all flat ones share a hash and have no duplicates, so that comparing them is useless.
    """
    rows, brightness = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for at in range(0, len(thumbnails), _CHUNK):
        chunk = thumbnails[at : at + _CHUNK]
        kept = np.flatnonzero(~_flat(chunk))
        rows.append(at + kept)
        brightness.append(chunk[kept].mean(axis=(1, 2), dtype=np.float32))
    return np.concatenate(rows), np.concatenate(brightness)


class Closest:
    """The most similar earlier image of each of N images, among the pairs that were added.

    Attributes:
      earlier: (N,) int64 position of that image, the lowest of several; N without one.
      apart: (N,) float32 difference from it; infinity without one.
    """

    def __init__(self, count: int) -> None:
        self.earlier = np.full(count, count, np.int64)
        self.apart = np.full(count, np.inf, np.float32)

    def add(self, pairs: np.ndarray, apart: np.ndarray) -> None:
        """Adds pairs: (P, 2) positions, the lower one first, and their (P,) differences."""
        order = np.lexsort((pairs[:, 0], apart, pairs[:, 1]))
        later, first = np.unique(pairs[order, 1], return_index=True)
        earlier, apart = pairs[order[first], 0], apart[order[first]]
        tie = (apart == self.apart[later]) & (earlier < self.earlier[later])
        better = tie | (apart < self.apart[later])
        self.earlier[later[better]] = earlier[better]
        self.apart[later[better]] = apart[better]
