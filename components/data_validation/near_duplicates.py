"""Near duplicates among many images: hashes propose, thumbnails decide.

A perceptual hash alone calls two frames of one traffic sign, or two handwritten zeros, the same.
So pairs whose 64-bit hashes differ in few bits are only candidates; the mean absolute difference
of their thumbnails has the last word.
"""

from collections.abc import Iterator
from itertools import pairwise

import imagehash
import numpy as np
from PIL import Image

#: Side of the square gray thumbnails, in pixels: what the hash's cosine transform works on.
SIDE = 32

_BITS = 64
# Below this standard deviation, of 255 gray levels, a thumbnail has no structure to compare.
_MIN_CONTRAST = 4.0
# Images that share a band of bits are compared with this many neighbors by brightness. A band
# shared by more is one of near-empty hashes; near duplicates are neighbors in it all the same.
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
    """(N,) int: in how many bits two (N,) uint64 arrays differ."""
    differ = np.ascontiguousarray(a ^ b).view(np.uint8).reshape(-1, 8)
    return _POPCOUNT[differ].sum(axis=1, dtype=np.int64)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference of thumbnails, each brought to mean 0 and standard deviation 1.

    Brightness and contrast therefore do not count.

    Args:
      a: (N, 32, 32) uint8 gray.
      b: the same shape.

    Returns:
      (N,) float32 in [0, 2]; infinity where one varies by less than 4 gray levels (standard
      deviation): it has no structure to compare.
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
    """Pairs whose hashes differ in at most `max_bits` bits, without comparing all with all.

    The bits are cut into `max_bits + 1` bands: two hashes that differ in `max_bits` bits agree in
    one band at least (multi-index hashing, Norouzi et al. 2012, section 3; also Manku et al. 2007).
    Equal hashes may make 511 pairs an image: use a block and let it go.

    Args:
      hashes: (N,) uint64.
      brightness: (N,) any number that is close for near duplicates; it orders crowded bands.
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
    """Positions of all that share a band's value, at growing distance in `order`."""
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
    """(P,) bool: which pairs `_neighbors` gave for a band; `rank` inverts its order."""
    return (band[one] == band[other]) & (np.abs(rank[one] - rank[other]) < _WINDOW)


def near_duplicates(
    hashes: np.ndarray, thumbnails: np.ndarray, *, max_bits: int, max_difference: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of images that are nearly the same, in blocks; none of them is flat.

    Args:
      hashes: (N,) uint64 of `perceptual_hash`.
      thumbnails: (N, 32, 32) uint8 gray; may be a memory map, which is read where pairs are.
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

    Flat ones nearly all share a hash and are like no other: comparing them is for nothing.
    """
    rows, brightness = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for at in range(0, len(thumbnails), _CHUNK):
        chunk = thumbnails[at : at + _CHUNK]
        kept = np.flatnonzero(~_flat(chunk))
        rows.append(at + kept)
        brightness.append(chunk[kept].mean(axis=(1, 2), dtype=np.float32))
    return np.concatenate(rows), np.concatenate(brightness)


class Closest:
    """Of each of N images its closest earlier relative, among the pairs that were added.

    Attributes:
      earlier: (N,) int64 position of the relative, the lowest where several are as close; N where
        there is none.
      apart: (N,) float32 difference from it; infinity where there is none.
    """

    def __init__(self, count: int) -> None:
        self.earlier = np.full(count, count, np.int64)
        self.apart = np.full(count, np.inf, np.float32)

    def add(self, pairs: np.ndarray, apart: np.ndarray) -> None:
        """Takes (P, 2) positions, the lower one first, and their (P,) differences into account."""
        order = np.lexsort((pairs[:, 0], apart, pairs[:, 1]))
        later, first = np.unique(pairs[order, 1], return_index=True)
        earlier, apart = pairs[order[first], 0], apart[order[first]]
        tie = (apart == self.apart[later]) & (earlier < self.earlier[later])
        better = tie | (apart < self.apart[later])
        self.earlier[later[better]] = earlier[better]
        self.apart[later[better]] = apart[better]
