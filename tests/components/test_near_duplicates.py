import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components import near_duplicates as near
from components.near_duplicates import candidate_pairs, difference, hamming, perceptual_hash


def scene(seed, side=32):
    """A smooth random grey picture with a wide range of levels."""
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
    found = candidate_pairs(hashes, rng.random(len(hashes)), max_bits)
    assert {tuple(pair) for pair in found.tolist()} == pairs_by_hand(hashes, max_bits)
    assert len(found) == len({tuple(pair) for pair in found.tolist()})


def test_a_crowded_band_still_gives_neighbours_by_brightness(monkeypatch):
    monkeypatch.setattr(near, "_WINDOW", 3)
    hashes = np.zeros(100, np.uint64)
    brightness = np.arange(100)[::-1]
    found = candidate_pairs(hashes, brightness, 4)
    assert {(i, i + 1) for i in range(99)} <= {tuple(pair) for pair in found.tolist()}
    assert len(found) < 200


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_be_duplicates(count):
    pairs, apart = near.near_duplicates(
        np.zeros(count, np.uint64),
        np.zeros((count, 32, 32), np.uint8),
        max_bits=4,
        max_difference=0.1,
    )
    assert pairs.shape == (0, 2)
    assert apart.shape == (0,)


def test_difference_by_hand():
    one, two = scene(1), scene(2)
    standard = [(x - x.mean()) / x.std() for x in (one.astype(float), two.astype(float))]
    wanted = np.abs(standard[0] - standard[1]).mean()
    assert difference(one[None], two[None])[0] == pytest.approx(wanted, rel=1e-5)


def test_brightness_and_contrast_do_not_count():
    one = scene(1)
    paler = (one * 0.6 + 40).astype(np.uint8)
    assert difference(one[None], paler[None])[0] < 0.02


def test_a_flat_picture_is_like_no_other():
    flat = np.full((1, 32, 32), 90, np.uint8)
    assert np.isinf(difference(flat, flat))[0]


def test_thumbnails_decide_where_hashes_agree():
    first = scene(1)
    close = np.clip(first.astype(int) + 2, 0, 255).astype(np.uint8)
    thumbnails = np.stack([first, scene(2), close])
    pairs, apart = near.near_duplicates(
        np.zeros(3, np.uint64), thumbnails, max_bits=4, max_difference=0.1
    )
    assert pairs.tolist() == [[0, 2]]
    assert apart[0] < 0.05


def _open(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def _grey(image):
    return np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX))


@pytest.mark.shared_data
def test_frames_of_one_sign_are_not_duplicates_and_a_compressed_copy_is(extract, tmp_path):
    frames = [_open(path) for path in sorted((extract("gtsrb_A") / "images").glob("*/*.ppm"))]
    frames = [frame for frame in frames if min(frame.size) >= 48]
    for index, frame in enumerate(frames[:20]):
        frame.save(tmp_path / f"{index}.jpg", quality=90)
    copies = [_open(tmp_path / f"{index}.jpg") for index in range(20)]
    thumbnails = np.stack([_grey(one) for one in [*frames, *copies]])
    hashes = np.array([perceptual_hash(one) for one in thumbnails], np.uint64)
    pairs, _ = near.near_duplicates(hashes, thumbnails, max_bits=4, max_difference=0.12)
    assert len(frames) > 100
    assert {tuple(pair) for pair in pairs.tolist()} == {(i, len(frames) + i) for i in range(20)}
