import itertools
import tracemalloc

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.data_validation import near_duplicates as near
from components.data_validation.near_duplicates import (
    Closest,
    candidate_pairs,
    difference,
    hamming,
    perceptual_hash,
)


def scene(seed, side=32):
    """A smooth random gray image with a wide range of levels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def pairs_by_hand(hashes, max_bits):
    """All pairs, compared one by one."""
    return {
        (i, j)
        for j in range(len(hashes))
        for i in range(j)
        if bin(int(hashes[i]) ^ int(hashes[j])).count("1") <= max_bits
    }


def candidates(hashes, brightness, max_bits):
    """All blocks of candidates in one list of tuples."""
    blocks = candidate_pairs(hashes, brightness, max_bits)
    return [tuple(pair) for block in blocks for pair in block.tolist()]


def duplicates(hashes, thumbnails, max_difference=0.1):
    """Pair -> difference, of all blocks."""
    blocks = near.near_duplicates(hashes, thumbnails, max_bits=4, max_difference=max_difference)
    found = [zip(pairs.tolist(), apart.tolist(), strict=True) for pairs, apart in blocks]
    return {tuple(pair): apart for pair, apart in itertools.chain(*found)}


def test_the_hash_is_imagehashs():
    thumbnail = scene(3)
    assert f"{perceptual_hash(thumbnail):016x}" == str(imagehash.phash(Image.fromarray(thumbnail)))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8))
def test_hamming_counts_bits(values):
    a, b = np.array(values, np.uint64), np.array(values[::-1], np.uint64)
    wanted = [bin(x ^ y).count("1") for x, y in zip(values, values[::-1], strict=True)]
    assert hamming(a, b).tolist() == wanted


@pytest.mark.parametrize("max_bits", [0, 1, 4, 7, 15])
def test_banding_finds_exactly_the_close_pairs(max_bits):
    rng = np.random.default_rng(max_bits)
    base = rng.integers(0, 2**63, 60, dtype=np.uint64)
    hashes = [*base]
    for number in base:  # Each has a relative at every distance from 0 to 16.
        for bits in range(17):
            flips = rng.choice(64, bits, replace=False)
            hashes.append(number ^ np.uint64(sum(1 << int(f) for f in flips)))
    hashes = np.array(hashes, np.uint64)
    found = candidates(hashes, rng.random(len(hashes)), max_bits)
    assert set(found) == pairs_by_hand(hashes, max_bits)
    assert len(found) == len(set(found))


def test_a_crowded_band_still_gives_neighbors_by_brightness(monkeypatch):
    monkeypatch.setattr(near, "_WINDOW", 3)
    hashes = np.zeros(100, np.uint64)
    brightness = np.arange(100)[::-1]
    found = candidates(hashes, brightness, 4)
    assert {(i, i + 1) for i in range(99)} <= set(found)
    assert len(found) == len(set(found)) < 200


def test_crowded_bands_give_no_pair_twice(monkeypatch):
    monkeypatch.setattr(near, "_WINDOW", 5)
    rng = np.random.default_rng(0)
    bits = rng.choice(64, 60)
    hashes = np.uint64(1) << bits.astype(np.uint64)
    found = candidates(hashes, rng.random(60), 4)
    assert len(found) == len(set(found)) > 60


def peak_mb(blocks):
    tracemalloc.start()
    count = sum(len(block) for block in blocks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20, count


def test_equal_hashes_do_not_fill_the_memory():
    hashes = np.zeros(2000, np.uint64)
    peak, count = peak_mb(candidate_pairs(hashes, np.arange(2000), 4))
    assert count == sum(2000 - step for step in range(1, 512))
    assert peak < 2  # All pairs at once take 14 MB, and 5 bands of them 70.


def test_flat_images_are_not_compared(monkeypatch):
    compared = []
    monkeypatch.setattr(near, "hamming", lambda a, b: compared.append(len(a)) or hamming(a, b))
    flat = [np.full((32, 32), level, np.uint8) for level in range(50)]
    thumbnails = np.stack([scene(1), *flat, scene(1)])
    found = duplicates(np.zeros(52, np.uint64), thumbnails)
    assert list(found) == [(0, 51)]
    assert sum(compared) == 5  # One pair in each of 5 bands.


def test_the_closest_of_all_blocks_is_kept():
    closest = Closest(5)
    closest.add(np.array([[0, 3], [1, 3], [2, 4]]), np.float32([0.5, 0.25, 0.5]))
    closest.add(np.array([[0, 3], [1, 4], [0, 1]]), np.float32([0.25, 0.5, 0.75]))
    closest.add(np.array([[2, 3], [3, 4]]), np.float32([0.5, 0.75]))
    assert closest.earlier.tolist() == [5, 0, 5, 0, 1]
    assert closest.apart.tolist() == [np.inf, 0.75, np.inf, 0.25, 0.5]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_be_duplicates(count):
    thumbnails = np.zeros((count, 32, 32), np.uint8)
    assert duplicates(np.zeros(count, np.uint64), thumbnails) == {}


def test_difference_by_hand():
    one, two = scene(1), scene(2)
    standard = [(x - x.mean()) / x.std() for x in (one.astype(float), two.astype(float))]
    wanted = np.abs(standard[0] - standard[1]).mean()
    assert difference(one[None], two[None])[0] == pytest.approx(wanted, rel=1e-5)


def test_brightness_and_contrast_do_not_count():
    one = scene(1)
    paler = (one * 0.6 + 40).astype(np.uint8)
    assert difference(one[None], paler[None])[0] < 0.02


def test_a_flat_image_is_like_no_other():
    flat = np.full((1, 32, 32), 90, np.uint8)
    assert np.isinf(difference(flat, flat))[0]


def test_thumbnails_decide_where_hashes_agree():
    first = scene(1)
    close = np.clip(first.astype(int) + 2, 0, 255).astype(np.uint8)
    thumbnails = np.stack([first, scene(2), close])
    found = duplicates(np.zeros(3, np.uint64), thumbnails)
    assert list(found) == [(0, 2)]
    assert found[0, 2] < 0.05


def _open(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def _gray(image):
    return np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX))


@pytest.mark.shared_data
def test_frames_of_one_sign_are_not_duplicates_and_a_compressed_copy_is(extract, tmp_path):
    frames = [_open(path) for path in sorted((extract("gtsrb_A") / "images").glob("*/*.ppm"))]
    frames = [frame for frame in frames if min(frame.size) >= 48]
    for index, frame in enumerate(frames[:20]):
        frame.save(tmp_path / f"{index}.jpg", quality=90)
    copies = [_open(tmp_path / f"{index}.jpg") for index in range(20)]
    thumbnails = np.stack([_gray(one) for one in [*frames, *copies]])
    hashes = np.array([perceptual_hash(one) for one in thumbnails], np.uint64)
    found = duplicates(hashes, thumbnails, max_difference=0.12)
    assert len(frames) > 100
    assert set(found) == {(i, len(frames) + i) for i in range(20)}
