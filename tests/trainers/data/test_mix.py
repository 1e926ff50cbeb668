"""MixUp and CutMix against NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from trainers.config import ConfigError
from trainers.data import mix
from trainers.data.mix import apply_mixes, split_mixes

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 12, 10, 3), dtype=np.uint8)
LABELS = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0, 1, 1]]
SWAP = [1, 0, 3, 2, 5, 4, 7, 6]


def seeds(pairs, start=0):
    return np.stack([np.full(pairs, 7), np.arange(start, start + pairs)], 1).astype(np.int32)


def mixed(*entries, images=IMAGES, labels=LABELS, start=0):
    got = apply_mixes(
        tf.constant(images),
        tf.constant(labels),
        tf.constant(seeds(len(images) // 2, start)),
        entries,
    )
    return got[0].numpy(), got[1].numpy()


def mixed_pairs(*entries, images, labels):
    """Like `mixed`, with single pairs in one graph, which is fast for many pairs."""
    pairs = [x.reshape(-1, 2, *x.shape[1:]) for x in (images, labels)]

    @tf.autograph.experimental.do_not_convert
    def mix_one(images, labels, seed):
        return apply_mixes(images, labels, seed[None], entries)

    parts = tf.data.Dataset.from_tensor_slices((*pairs, seeds(len(images) // 2))).map(mix_one)
    got = parts.batch(len(images) // 2).get_single_element()
    return [x.numpy().reshape(-1, *x.shape[2:]) for x in got]


def weights(images, labels):
    """Each image's share of itself, from labels alone; NaN where both have one class."""
    own = np.einsum("bn,bn->b", labels, LABELS[: len(labels)])
    return np.where((LABELS[SWAP] == LABELS).all(1)[: len(labels)], np.nan, own)


def test_mixup_is_the_weighted_mean_of_neighbors_and_of_their_labels():
    images, labels = mixed("mixup(1.0)")
    share = weights(images, labels)
    assert np.nanmin(share) > 0
    assert np.nanmax(share) < 1
    for at in range(6):
        expected = share[at] * IMAGES[at].astype(float) + (1 - share[at]) * IMAGES[SWAP[at]]
        assert np.abs(images[at] - expected).max() <= 0.501
        np.testing.assert_allclose(labels[at, LABELS[at].argmax()], share[at])
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(labels[6:], LABELS[6:])
    np.testing.assert_allclose(share[::2][:3], share[1::2][:3])
    assert len(set(share[:6:2])) == 3
    assert images.dtype == np.uint8
    assert labels.dtype == np.float32


def test_cutmix_pastes_one_box_and_weights_labels_by_its_pixels():
    seen = set()
    for start in range(0, 80, 4):
        images, labels = mixed("cutmix", start=start)
        for at in range(6):
            pasted = (images[at] != IMAGES[at]).any(-1)
            np.testing.assert_array_equal(images[at][pasted], IMAGES[SWAP[at]][pasted])
            if pasted.any():
                ys, xs = np.nonzero(pasted)
                assert pasted.sum() == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
            own = labels[at, LABELS[at].argmax()]
            assert own == pytest.approx(1 - pasted.mean(), abs=1e-6)
            seen.add(int(pasted.sum()))
    assert len(seen) > 15
    assert min(seen) < 10
    assert max(seen) > 80


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 8.0])
def test_weights_come_from_the_beta_distribution(alpha):
    drawn = tf.data.Dataset.from_tensor_slices(seeds(3000)).map(lambda seed: mix.beta(seed, alpha))
    values = drawn.batch(3000).get_single_element().numpy().astype(float)
    # Float32 rounds values close to 1 to 1, so compare only values that are distinct.
    clipped = np.clip(values, 1e-6, 1 - 1e-6)
    exact = np.clip(stats.beta(alpha, alpha).rvs(3000, random_state=0), 1e-6, 1 - 1e-6)
    assert stats.ks_2samp(clipped, exact).pvalue > 0.001
    assert np.isfinite(values).all()


def test_the_cut_area_follows_lambda():
    images = np.zeros((200, 64, 48, 3), np.uint8)
    images[1::2] = 255
    cut, labels = mixed_pairs("cutmix(1.0)", images=images, labels=LABELS[[0, 1] * 100])
    shares = labels[::2, 1]
    np.testing.assert_allclose((cut[::2] == 255).all(-1).mean((1, 2)), shares, atol=1e-6)
    # Half of the area on average, less what lies outside the image.
    assert 0.25 < np.mean(shares) < 0.45  # Of 100 draws: 4 standard errors either side.
    assert max(shares) > 0.8


def test_with_both_each_pair_takes_one_with_equal_probability():
    images = np.zeros((400, 12, 10, 3), np.uint8)
    images[1::2] = 200
    labels = LABELS[[0, 1] * 200]
    both, labels = mixed_pairs("mixup(1.0)", "cutmix(1.0)", images=images, labels=labels)
    is_cut = np.isin(both[::2], (0, 200)).all((1, 2, 3))
    assert 75 <= is_cut.sum() <= 130  # MixUp with a weight of nearly 0 or 1 counts as well.
    np.testing.assert_allclose(both[::2].mean((1, 2, 3)) / 200, labels[::2, 1], atol=0.003)
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("entries", [("mixup",), ("cutmix",), ("mixup", "flip", "cutmix(0.5)")])
def test_parts_of_a_batch_give_the_images_of_the_whole(entries):
    whole = mixed(*entries)
    for first in (0, 4):
        rows = slice(first, first + 4)
        part = mixed(*entries, images=IMAGES[rows], labels=LABELS[rows], start=first // 2)
        np.testing.assert_array_equal(part[0], whole[0][rows])
        np.testing.assert_array_equal(part[1], whole[1][rows])


def test_the_graph_gives_what_eager_code_gives_and_keeps_static_shapes():
    entries = ("mixup", "cutmix")
    dataset = tf.data.Dataset.from_tensors((IMAGES, LABELS, seeds(4))).map(
        lambda images, labels, each: apply_mixes(images, labels, each, entries)
    )
    assert dataset.element_spec[0].shape == (8, 12, 10, 3)
    assert dataset.element_spec[1].shape == (8, 5)
    images, labels = dataset.get_single_element()
    eager = mixed(*entries)
    np.testing.assert_array_equal(images, eager[0])
    np.testing.assert_allclose(labels, eager[1], rtol=1e-6)
    unknown = tf.function(
        lambda images, labels, each: apply_mixes(images, labels, each, entries),
        input_signature=[
            tf.TensorSpec((None, None, None, 3), tf.uint8),
            tf.TensorSpec((None, 5)),
            tf.TensorSpec((None, 2), tf.int32),
        ],
        autograph=False,
    )
    np.testing.assert_array_equal(unknown(IMAGES, LABELS, seeds(4))[0], images)


def test_without_mixes_nothing_changes():
    images, labels = mixed("flip")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert split_mixes(["flip", "rotate(3)"]) == []


def test_an_odd_batch_and_a_wrong_alpha_are_refused():
    with pytest.raises(ValueError, match="an even batch, got 7 images"):
        mixed("mixup", images=IMAGES[:7], labels=LABELS[:7])
    with pytest.raises(ConfigError, match=r"`alpha` must be a number in \[0.001, 1000\], got 0"):
        split_mixes(["mixup(0)"])
