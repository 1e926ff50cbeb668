"""Near duplicates among many pictures: hashes propose, thumbnails decide.

A perceptual hash alone calls two frames of one traffic sign, or two handwritten zeros, the same.
So pairs whose 64-bit hashes differ in few bits are only candidates; the mean absolute difference
of their thumbnails has the last word.
"""

from collections.abc import Iterator
from itertools import pairwise

import imagehash
import numpy as np
from PIL import Image

#: Side of the square grey thumbnails, in pixels: what the hash's cosine transform works on.
SIDE = 32

_BITS = 64
# Below this standard deviation, of 255 grey levels, a thumbnail has no structure to compare.
_MIN_CONTRAST = 4.0
# Pictures that share a band of bits are compared with this many neighbours by brightness. A band
# shared by more is one of near-empty hashes; near duplicates are neighbours in it all the same.
_WINDOW = 512
_CHUNK = 4096
_POPCOUNT = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def perceptual_hash(thumbnail: np.ndarray) -> int:
    """ImageHash's `phash` of a thumbnail as an unsigned 64-bit number.

    Args:
      thumbnail: (32, 32) uint8 grey.
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
      a: (N, 32, 32) uint8 grey.
      b: the same shape.

    Returns:
      (N,) float32 in [0, 2]; infinity where one varies by less than 4 grey levels (standard
      deviation): it has no structure to compare.
    """
    return np.where(
        _flat(a) | _flat(b), np.inf, np.abs(_standard(a) - _standard(b)).mean(axis=(1, 2))
    ).astype(np.float32)


def _flat(thumbnails: np.ndarray) -> np.ndarray:
    return thumbnails.std(axis=(1, 2), dtype=np.float32) < _MIN_CONTRAST


def _standard(thumbnails: np.ndarray) -> np.ndarray:
    grey = thumbnails.astype(np.float32)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    return grey / np.maximum(grey.std(axis=(1, 2), keepdims=True), _MIN_CONTRAST)


def candidate_pairs(hashes: np.ndarray, brightness: np.ndarray, max_bits: int) -> np.ndarray:
    """Pairs whose hashes differ in at most `max_bits` bits, without comparing all with all.

    The bits are cut into `max_bits + 1` bands: two hashes that differ in `max_bits` bits agree in
    one band at least (multi-index hashing, Norouzi et al. 2012, section 3; also Manku et al. 2007).

    Args:
      hashes: (N,) uint64.
      brightness: (N,) any number that is close for near duplicates; it orders crowded bands.
      max_bits: in 0..15.

    Returns:
      (P, 2) int64 positions, the lower one first, sorted, each pair once.
    """
    edges = np.linspace(0, _BITS, max_bits + 2).round().astype(int)
    found = [np.empty((0, 2), np.int64)]
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        band = (hashes >> np.uint64(low)) & mask
        for one, other in _neighbours(band, brightness):
            near = hamming(hashes[one], hashes[other]) <= max_bits
            pair = np.stack([one[near], other[near]], axis=1)
            found.append(np.sort(pair, axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _neighbours(
    band: np.ndarray, brightness: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of all that share a band's value, at growing distance in order of brightness."""
    order = np.lexsort((brightness, band))
    sorted_band = band[order]
    active = np.arange(len(order))
    for step in range(1, min(_WINDOW, len(order))):
        active = active[active + step < len(order)]
        active = active[sorted_band[active] == sorted_band[active + step]]
        if not len(active):
            return
        yield order[active], order[active + step]


def near_duplicates(
    hashes: np.ndarray, thumbnails: np.ndarray, *, max_bits: int, max_difference: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pictures that are nearly the same.

    Args:
      hashes: (N,) uint64 of `perceptual_hash`.
      thumbnails: (N, 32, 32) uint8 grey; may be a memory map, which is read where pairs are.
      max_bits: of the hashes, in 0..15.
      max_difference: of `difference`.

    Returns:
      (P, 2) int64 positions, the lower one first, and (P,) float32 differences; empty for N < 2.
    """
    brightness = np.concatenate(
        [
            thumbnails[at : at + _CHUNK].mean(axis=(1, 2), dtype=np.float32)
            for at in range(0, len(hashes), _CHUNK)
        ]
        or [np.empty(0, np.float32)]
    )
    pairs = candidate_pairs(hashes, brightness, max_bits)
    apart = np.concatenate(
        [
            difference(thumbnails[chunk[:, 0]], thumbnails[chunk[:, 1]])
            for chunk in (pairs[at : at + _CHUNK] for at in range(0, len(pairs), _CHUNK))
        ]
        or [np.empty(0, np.float32)]
    )
    near = apart <= max_difference
    return pairs[near], apart[near]
