"""Augmentations that mix pairs of images and their labels, selected by `data.augment`.

| entry | effect |
|---|---|
| mixup(alpha=0.2) | weighted mean of two images (Zhang et al. 2017) |
| cutmix(alpha=1.0) | a box of one image in the other (Yun et al. 2019) |

Neighbors 2k and 2k+1 are mixed, with a separate seed per pair, so that the images do not depend on
how the global batch is divided into even parts. If both are listed, each is applied to a pair with
equal probability.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tensorflow as tf

from trainers.data.entries import Between, bind, parse_entry
from trainers.registry import Registry

#: `(pair, seed) -> (pair, weight)`: a pair is (2,H,W,3) uint8, the seed (2,) int32, and the weight
#: () float32 is the share of an image's label; the label of the other image has the rest.
Mix = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

mixes: Registry[Mix] = Registry("mix", "trainers.data")

_Alpha = Annotated[float, Between(0.001, 1000.0)]


def split_mixes(entries: Sequence[str]) -> list[Mix]:
    """The mixes among `entries` of `data.augment`, in order; labels remain hard if it is empty.

    Raises:
      ConfigError: a malformed entry, or invalid options.
    """
    known = mixes.names()
    parsed = [parse_entry(text) for text in entries]
    return [bind(entry, mixes.get(entry.name)) for entry in parsed if entry.name in known]


def apply_mixes(
    images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, entries: Sequence[str]
) -> tuple[tf.Tensor, tf.Tensor]:
    """A batch after the mixes among `entries`; unchanged without mixes.

    Args:
      images: (B,H,W,3) uint8, with an even B above 0.
      labels: (B,N) float32, rows of weights that sum to 1.
      seeds: (B//2, 2) int32, different for every pair and epoch.
      entries: `data.augment`.

    Returns:
      Images (B,H,W,3) uint8 and labels (B,N) float32.

    Raises:
      ConfigError: a malformed entry, or invalid options.
      ValueError: an odd batch.
    """
    chosen = split_mixes(entries)
    if not chosen:
        return images, labels
    pairs, shape = _paired(images), images.shape
    # Mixing single pairs uses the processor's cache: ten times as fast as whole batches.
    mixed, weights = tf.map_fn(
        functools.partial(_mix_pair, chosen=chosen),
        (pairs, seeds),
        fn_output_signature=(
            tf.TensorSpec(pairs.shape[1:], tf.uint8),
            tf.TensorSpec((), tf.float32),
        ),
    )
    own, share = _paired(labels), weights[:, None, None]
    soft = share * own + (1.0 - share) * own[:, ::-1]
    mixed = tf.ensure_shape(tf.reshape(mixed, tf.shape(images)), shape)
    return mixed, tf.ensure_shape(tf.reshape(soft, tf.shape(labels)), labels.shape)


@mixes.register("mixup")
def mixup(pair: tf.Tensor, seed: tf.Tensor, *, alpha: _Alpha = 0.2) -> tuple[tf.Tensor, tf.Tensor]:
    """Weighted means of two images; the weight is from Beta(alpha, alpha) (section 2).

    Args:
      pair: (2,H,W,3) uint8.
      seed: (2,) int32.
      alpha: parameter of the distribution; small values mix little, 1 is uniform.

    Returns:
      The pair, rounded half to even, and the weight.
    """
    weight = beta(seed, alpha)
    first, second = tf.unstack(tf.cast(pair, tf.float32))
    means = tf.stack([second + weight * (first - second), first + weight * (second - first)])
    return tf.cast(tf.round(means), tf.uint8), weight


@mixes.register("cutmix")
def cutmix(pair: tf.Tensor, seed: tf.Tensor, *, alpha: _Alpha = 1.0) -> tuple[tf.Tensor, tf.Tensor]:
    """The pair with a box of the two images exchanged (section 3.1).

    The box has the aspect of the image and 1 - lambda of its area, with lambda from
    Beta(alpha, alpha), and a uniform center; it is clipped to the image.

    Args:
      pair: (2,H,W,3) uint8.
      seed: (2,) int32.
      alpha: as for `mixup`.

    Returns:
      The pair, and the share of pixels that each image keeps.
    """
    size = tf.shape(pair)[1:3]
    sides = tf.cast(size, tf.float32)
    box = tf.round(sides * tf.sqrt(1.0 - beta(seed, alpha)))
    draws = tf.random.stateless_uniform((2,), _fold(seed, 4))
    start = tf.floor(draws * sides) - tf.floor(box / 2)
    low = tf.clip_by_value(start, 0.0, sides)
    high = tf.clip_by_value(start + box, 0.0, sides)
    before, cut = tf.cast(low, tf.int32), tf.cast(high - low, tf.int32)
    margins = tf.concat([tf.stack([before, size - before - cut], 1), [[0, 0]]], 0)
    ones = tf.fill(tf.concat([cut, [3]], 0), tf.constant(255, tf.uint8))
    first, second = tf.unstack(pair)
    swap = tf.bitwise.bitwise_and(tf.bitwise.bitwise_xor(first, second), tf.pad(ones, margins))
    pasted = [tf.bitwise.bitwise_xor(first, swap), tf.bitwise.bitwise_xor(second, swap)]
    share = tf.reduce_prod(high - low) / tf.reduce_prod(sides)
    return tf.ensure_shape(tf.stack(pasted), pair.shape), 1.0 - share


def beta(seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """() float32 in [0, 1] from Beta(alpha, alpha), by two gamma variables.

    Gamma(a) is Gamma(a + 1) times U to the power 1/a. Computed with logarithms, as both gammas
    would underflow to 0 for small `alpha`.

    Args:
      seed: (2,) int32.
      alpha: positive.
    """
    logs = []
    for step in (0, 2):
        gamma = tf.random.stateless_gamma((), _fold(seed, step), alpha + 1.0)
        uniform = tf.random.stateless_uniform((), _fold(seed, step + 1))
        logs.append(tf.math.log(gamma) + tf.math.log(1.0 - uniform) / alpha)
    return tf.sigmoid(logs[0] - logs[1])


def _mix_pair(
    pair_and_seed: tuple[tf.Tensor, tf.Tensor], *, chosen: Sequence[Mix]
) -> tuple[tf.Tensor, tf.Tensor]:
    """One pair after one of `chosen`, each with equal probability."""
    pair, seed = pair_and_seed
    pick = tf.random.stateless_uniform((), _fold(seed, 0)) * len(chosen)

    def branch(at: int) -> Any:
        return lambda: chosen[at](pair, _fold(seed, 1 + at))

    return tf.switch_case(tf.cast(pick, tf.int32), [branch(at) for at in range(len(chosen))])


def _paired(values: tf.Tensor) -> tf.Tensor:
    """Values (B, ...) as (B//2, 2, ...)."""
    shape: Any = values.shape
    if shape[0] is not None and shape[0] % 2:
        raise ValueError(
            f"mixing pairs needs an even batch, got {shape[0]} images; set train.global_batch so "
            "that its quotient by the number of replicas is even"
        )
    pairs = tf.reshape(values, tf.concat([[-1, 2], tf.shape(values)[1:]], 0))
    return tf.ensure_shape(pairs, (None, 2, *shape[1:]))


def _fold(seed: tf.Tensor, step: int) -> Any:
    return tf.random.fold_in(seed, step)
