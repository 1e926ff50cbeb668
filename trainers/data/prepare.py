"""Prepares images from records in chunks, for training, evaluation and caches.

A call of a mapped function costs as much as about ten small operations, so images are prepared in
chunks. Chunks do not affect pixels.
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

# With larger chunks, the cost of calls is negligible and there is less parallelism.
CHUNK = 8
# Size of cached images for crops relative to the network: 256 px for 224 (He et al. 2015,
# section 3.4, with shorter sides of 256 to 480).
_WHOLE = 8 / 7
# Up to this number, augmentations are inlined, because a call would cost more.
_INLINE = 2


class Examples(NamedTuple):
    """Decoded examples.

    Attributes:
      images: (k, h, w, 3) uint8; zeros where `mask` is 0.
      labels: (k,) int32; 0 where `mask` is 0.
      ids: (k,) string; empty where `mask` is 0.
      slices: `slice/*` key -> (k,) string; empty where `mask` is 0.
      sizes: (k, 2) int32 height and width of the stored image; 0 where `mask` is 0.
      shards: (k,) int64 index of the file; 0 where `mask` is 0.
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
    """The largest divisor of `batch` up to `CHUNK`."""
    return max(size for size in range(1, CHUNK + 1) if batch % size == 0)


def cached_size(data: DataConfig, *, whole: bool) -> tuple[int, int]:
    """(height, width) in pixels of a cached image.

    Args:
      data: `image_size` is used.
      whole: whether whole images are needed for random crops: 8/7 of the network's size.
    """
    height, width = data.image_size
    return (round(height * _WHOLE), round(width * _WHOLE)) if whole else (height, width)


def decode_examples(
    tagged: tf.data.Dataset, info: DatasetInfo, data: DataConfig, *, chunk: int, whole: bool
) -> tf.data.Dataset:
    """`Examples` with `chunk` images each, preprocessed for evaluation, the last one padded.

    Args:
      tagged: from `trainers.data.reader.read_serialized(tagged=True)`.
      info: description of these records.
      data: `image_size`, `crop_fraction`, `resize` and `fit` are used.
      chunk: number of images per element.
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
    """`values` padded with zeros, empty strings or `fill` to `size` rows."""
    missing = tf.concat([[size - tf.shape(values)[0]], tf.shape(values)[1:]], 0)
    rest = tf.zeros(missing, values.dtype) if fill is None else tf.fill(missing, fill)
    return tf.ensure_shape(tf.concat([values, rest], 0), (size, *values.shape[1:]))


@functools.lru_cache(maxsize=8)
def train_images(data: DataConfig) -> Callable[..., tf.Tensor]:
    """A function `(encoded (k,) string, seeds (k, 2)) -> images`, traced once per process.

    The images are (k, height, width, 3) uint8: cropped by the crop in `data.augment`, otherwise by
    the central crop as in evaluation, resized to `data.image_size` and augmented.
    """
    crop, _ = split_names(data.augment)
    augment = _augmenter(data)
    # Shrinking while decoding would differ from the antialiased resize of evaluation.
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
    """A function `(pixels (k, h, w, 3), sizes (k, 2), seeds (k, 2)) -> images`, for cached images.

    With `whole`, the crop in `data.augment` is drawn for the size of the stored image and applied
    to the cached one: the same part of the image as without a cache, with softer pixels.
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
    """A function from the size of an image to the box that `crop` draws for `seed`."""
    own: Any = tf.random.fold_in(seed, 0)
    return lambda size: crop(size, own)


def _scaled_crop(pixels: tf.Tensor, size: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """The part of `pixels` that corresponds to `box` in an image of `size`."""
    there = tf.shape(pixels)[:2]
    scale = tf.cast(there, tf.float32) / tf.cast(size, tf.float32)
    edges = tf.cast(tf.stack([box[:2], box[:2] + box[2:]]), tf.float32) * scale
    start = tf.minimum(tf.cast(tf.round(edges[0]), tf.int32), there - 1)
    kept = tf.maximum(tf.minimum(tf.cast(tf.round(edges[1]), tf.int32), there) - start, 1)
    return tf.slice(pixels, tf.concat([start, [0]], 0), tf.concat([kept, [3]], 0))


@functools.lru_cache(maxsize=8)
def _augmenter(data: DataConfig) -> Callable[..., tf.Tensor]:
    """A function `(image, seed) -> image`; a long list of augmentations is traced only once."""

    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return augment_image(image, seed, names=data.augment)

    short = len(split_names(data.augment)[1]) <= _INLINE
    return augment if short else tf.function(augment, autograph=False)


def kept_as(data: DataConfig, *, whole: bool) -> Preprocessing:
    """The preprocessing of evaluation, or of cached whole images; see `cached_size`."""
    how = Preprocessing.of(data)
    if not whole:
        return how
    size = cached_size(data, whole=True)
    return replace(how, image_size=size, crop_fraction=1.0, fit=STRETCH)


@functools.lru_cache(maxsize=8)
def _evaluator(how: Preprocessing, slices: bool) -> Callable[..., Any]:
    """A function `encoded (k,) -> images, sizes (k, 2), slices`, traced once per process."""

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
