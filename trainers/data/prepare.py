"""Records to images, several a call: what training, evaluation and caches map over a dataset.

A call to a mapped function costs as much as some ten small operations, which is why images are
prepared in chunks. A chunk never changes a pixel.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import tensorflow as tf

from trainers.config import DataConfig
from trainers.data.augment import Crop, augment_image, split_names
from trainers.data.decode import decode_crop, decode_image
from trainers.data.features import DatasetInfo
from trainers.data.parallel import parallel_calls
from trainers.data.preprocess import (
    BILINEAR,
    STRETCH,
    Preprocessing,
    eval_image,
    eval_pixels,
    resize_crop,
)
from trainers.data.reader import parse_records
from trainers.data.slices import slice_tensors

# Beyond this, calls cost next to nothing and parallel ones have less to share.
CHUNK = 8
# A cached image that crops are taken from: 256 px for a network of 224 (He et al. 2015,
# section 3.4, whose shorter side is 256 to 480).
_WHOLE = 8 / 7
# So few augmentations are put into the graph of each image: a call would cost more than they do.
_INLINE = 2


class Examples(NamedTuple):
    """Decoded examples.

    Attributes:
      images: (k, h, w, 3) uint8; zeros where `mask` is 0.
      labels: (k,) int32; 0 where `mask` is 0.
      ids: (k,) string; empty where `mask` is 0.
      slices: `slice/*` key -> (k,) string; empty where `mask` is 0.
      sizes: (k, 2) int32 height and width of the stored image; 0 where `mask` is 0.
      shards: (k,) int64 number of the file; 0 where `mask` is 0.
      mask: (k,) float32: 1 for an example, 0 for padding.
    """

    images: tf.Tensor
    labels: tf.Tensor
    ids: tf.Tensor
    slices: dict[str, tf.Tensor]
    sizes: tf.Tensor
    shards: tf.Tensor
    mask: tf.Tensor


def chunk_size(batch: int) -> int:
    """The largest number up to `CHUNK` that divides `batch`."""
    return max(size for size in range(1, CHUNK + 1) if batch % size == 0)


def cached_size(data: DataConfig, *, whole: bool) -> tuple[int, int]:
    """(height, width) in pixels of a cached image.

    Args:
      data: `image_size` is used.
      whole: the image without its central crop, for random crops: 8/7 of the network's size.
    """
    height, width = data.image_size
    return (round(height * _WHOLE), round(width * _WHOLE)) if whole else (height, width)


def decode_examples(
    tagged: tf.data.Dataset, info: DatasetInfo, data: DataConfig, *, chunk: int, whole: bool
) -> tf.data.Dataset:
    """`Examples` of `chunk` images each, preprocessed for evaluation, the last one padded.

    Args:
      tagged: from `trainers.data.reader.read_serialized(tagged=True)`.
      info: of these records.
      data: `image_size`, `crop_fraction`, `resize` and `fit` are used.
      chunk: k of the result.
      whole: see `cached_size`.
    """
    decode = _evaluator(kept_as(data, whole=whole), info.foreign)

    @tf.autograph.experimental.do_not_convert
    def prepare(shards: tf.Tensor, serialized: tf.Tensor) -> Examples:
        count = tf.shape(serialized)[0]
        record = parse_records(serialized, info=info)
        images, sizes, computed = decode(pad(record.encoded, chunk, fill=_blank()))
        mask = tf.range(chunk) < count
        slices = {key: pad(value, chunk) for key, value in record.slices.items()}
        for key, value in computed.items():
            known = slices.get(key, value)
            slices[key] = tf.where(mask & (known == ""), value, known)
        return Examples(
            images,
            pad(record.label, chunk),
            pad(record.id, chunk),
            {key: slices[key] for key in info.slices},
            tf.where(mask[:, None], sizes, 0),
            pad(shards, chunk),
            tf.cast(mask, tf.float32),
        )

    return tagged.batch(chunk).map(prepare, parallel_calls(), deterministic=True)


def pad(values: tf.Tensor, size: int, *, fill: tf.Tensor | None = None) -> tf.Tensor:
    """`values` with rows of zeros, empty strings or `fill` after them, `size` rows in all."""
    missing = tf.concat([[size - tf.shape(values)[0]], tf.shape(values)[1:]], 0)
    rest = tf.zeros(missing, values.dtype) if fill is None else tf.fill(missing, fill)
    return tf.ensure_shape(tf.concat([values, rest], 0), (size, *values.shape[1:]))


@functools.lru_cache(maxsize=8)
def train_images(data: DataConfig) -> Callable[..., tf.Tensor]:
    """`(encoded (k,) string, seeds (k, 2)) -> images`, traced once a process.

    The images are (k, height, width, 3) uint8: what the crop among `data.augment` leaves, or the
    central crop as in evaluation, resized to `data.image_size` and augmented.
    """
    crop, _ = split_names(data.augment)
    augment = _augmenter(data)
    # Evaluation filters whole images: only what it does not smooth has ever been shrunk here.
    shrink_for = data.image_size if data.resize == BILINEAR else None

    def preprocess(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if crop is None:
            return eval_image(encoded, Preprocessing.of(data))
        image = decode_crop(encoded, _boxes(crop, seed), shrink_for=shrink_for)
        return resize_crop(image, image_size=data.image_size, resize=data.resize)

    @tf.function(autograph=False)
    def prepare(encoded: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        rows = zip(tf.unstack(encoded), tf.unstack(seeds), strict=True)
        return tf.stack([augment(preprocess(one, seed), seed) for one, seed in rows])

    return prepare


@functools.lru_cache(maxsize=8)
def train_cached(data: DataConfig, *, whole: bool) -> Callable[..., tf.Tensor]:
    """`(pixels (k, h, w, 3), sizes (k, 2), seeds (k, 2)) -> images`, traced once a process.

    With `whole`, the crop among `data.augment` is drawn for the size of the stored image and
    taken from the cached one: the same part of the scene as without a cache, from softer pixels.
    """
    crop, augmentations = split_names(data.augment)
    augment = _augmenter(data)

    def preprocess(pixels: tf.Tensor, size: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if crop is not None and whole:
            part = _scaled_crop(pixels, size, _boxes(crop, seed)(size))
            pixels = resize_crop(part, image_size=data.image_size, resize=data.resize)
        return augment(pixels, seed)

    @tf.function(autograph=False)
    def prepare(pixels: tf.Tensor, sizes: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        if not whole and not augmentations:
            return pixels
        rows = zip(tf.unstack(pixels), tf.unstack(sizes), tf.unstack(seeds), strict=True)
        return tf.stack([preprocess(*row) for row in rows])

    return prepare


def _boxes(crop: Crop, seed: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """From an image's size to the box that `crop` draws for the example of `seed`."""
    own: Any = tf.random.fold_in(seed, 0)
    return lambda size: crop(size, own)


def _scaled_crop(pixels: tf.Tensor, size: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """The part of `pixels` that `box` is of an image of `size`."""
    there = tf.shape(pixels)[:2]
    scale = tf.cast(there, tf.float32) / tf.cast(size, tf.float32)
    edges = tf.cast(tf.stack([box[:2], box[:2] + box[2:]]), tf.float32) * scale
    start = tf.minimum(tf.cast(tf.round(edges[0]), tf.int32), there - 1)
    kept = tf.maximum(tf.minimum(tf.cast(tf.round(edges[1]), tf.int32), there) - start, 1)
    return tf.slice(pixels, tf.concat([start, [0]], 0), tf.concat([kept, [3]], 0))


@functools.lru_cache(maxsize=8)
def _augmenter(data: DataConfig) -> Callable[..., tf.Tensor]:
    """`(image, seed) -> image`; a long list of augmentations is a large graph, traced once."""

    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return augment_image(image, seed, names=data.augment)

    short = len(split_names(data.augment)[1]) <= _INLINE
    return augment if short else tf.function(augment, autograph=False)


def kept_as(data: DataConfig, *, whole: bool) -> Preprocessing:
    """How an image is made that evaluation sees or that a cache keeps, see `cached_size`."""
    how = Preprocessing.of(data)
    if not whole:
        return how
    size = cached_size(data, whole=True)
    return replace(how, image_size=size, crop_fraction=1.0, fit=STRETCH)


@functools.lru_cache(maxsize=8)
def _evaluator(how: Preprocessing, slices: bool) -> Callable[..., Any]:
    """`encoded (k,) -> images, sizes (k, 2), slices`, traced once a process."""

    def preprocess(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        image = decode_image(encoded)
        return eval_pixels(image, how), tf.shape(image)[:2], slice_tensors(image) if slices else {}

    @tf.function(autograph=False)
    def decode(encoded: tf.Tensor) -> Any:
        parts = [preprocess(one) for one in tf.unstack(encoded)]
        return tf.nest.map_structure(lambda *rows: tf.stack(rows), *parts)

    return decode


def _blank() -> tf.Tensor:
    """A black image, which resizes to zeros."""
    return tf.io.encode_png(tf.zeros((1, 1, 3), tf.uint8))
