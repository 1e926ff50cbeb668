"""Batches of images with objects, with fixed shapes: B images, M = `data.max_boxes` objects.

| key | shape and type | |
|---|---|---|
| images | (B, H, W, 3) uint8 | |
| boxes | (B, M, 4) float32 | ymin,xmin,ymax,xmax, fractions of this image's sides |
| classes | (B, M) int32 | in [0, num_classes) |
| is_crowd | (B, M) bool | |
| area | (B, M) float32 | square pixels of this image; in evaluation, of the stored image |
| object_ids | (B, M) int64 | |
| object_mask | (B, M) float32 | 1 for an object, 0 for padding |
| masks | (B, M, H, W) uint8 | only if requested |
| mask | (B,) float32 | only in evaluation, as all below: 1 for an image, 0 for padding |
| ids, source_ids | (B,) string | |
| sizes | (B, 2) int32 | height, width as stored |
| ratios | (B, 2) float32 | see `detection.resize_and_pad` |
| slices | key -> (B,) string | |
"""

import functools
from typing import Any

import tensorflow as tf

from trainers.config import Config
from trainers.data import features
from trainers.data.decode import decode_image
from trainers.data.detection import Sample, resize_and_pad
from trainers.data.detection_augment import split_entries, train_sample
from trainers.data.features import DatasetInfo
from trainers.data.parallel import parallel_calls, ready
from trainers.data.preprocess import Preprocessing
from trainers.data.reader import Usable, fingerprint, read_serialized, usable
from trainers.data.records_check import DataError

# Seeds of TensorFlow's stateless ops are int32.
_SEED_MASK = 0x7FFFFFFF


def parse_sample(serialized: tf.Tensor, info: DatasetInfo, *, masks: bool = False) -> Sample:
    """The stored image and objects of a serialized tf.Example.

    Defaults of columns that public records may lack: no crowds, areas of the boxes, ids from 0.

    Args:
      serialized: () string.
      info: decides the label offset and range.
      masks: whether to decode masks; otherwise they are (N, 0, 0).

    Raises:
      tf.errors.InvalidArgumentError: at run time, for a record without an image, with lists of
        different lengths, a label out of range, or a mask with another size than the image.
    """
    parsed = tf.io.parse_single_example(serialized, _spec(masks=masks))
    image = decode_image(parsed[features.IMAGE])
    edges = [parsed[key] for key in (features.YMIN, features.XMIN, features.YMAX, features.XMAX)]
    classes = parsed[features.OBJECT_LABEL] - info.label_offset
    count = tf.size(classes)
    checks = [
        tf.debugging.assert_equal(
            tf.size(edge), count, message="box edges must match object labels"
        )
        for edge in edges
    ]
    for key in (features.IS_CROWD, features.AREA, features.OBJECT_ID):
        length = tf.size(parsed[key])
        fits = (length == 0) | (length == count)
        checks.append(
            tf.debugging.Assert(
                fits, [f"{key}: must match object labels, or be absent", length, count]
            )
        )
    in_range = (classes >= 0) & (classes < info.num_classes)
    checks.append(tf.debugging.Assert(tf.reduce_all(in_range), ["label out of range", classes]))
    with tf.control_dependencies([check for check in checks if check is not None]):
        boxes = tf.reshape(tf.stack(edges, 1), (-1, 4))
    sides = (boxes[:, 2:] - boxes[:, :2]) * tf.cast(tf.shape(image)[:2], tf.float32)
    crowd = _or(parsed[features.IS_CROWD], tf.zeros_like(classes))
    return Sample(
        image=image,
        boxes=boxes,
        classes=tf.cast(classes, tf.int32),
        is_crowd=tf.cast(crowd, tf.bool),
        area=_or(parsed[features.AREA], sides[:, 0] * sides[:, 1]),
        ids=_or(parsed[features.OBJECT_ID], tf.range(tf.cast(count, tf.int64))),
        masks=_decode_masks(parsed[features.MASK], image, count)
        if masks
        else tf.zeros(tf.stack([count, 0, 0]), tf.uint8),
    )


def pad_objects(sample: Sample, max_boxes: int) -> tuple[Sample, tf.Tensor]:
    """The first `max_boxes` objects, padded with zeros.

    Args:
      sample: an image with its objects.
      max_boxes: M.

    Returns:
      The sample with arrays of length M, and (M,) float32: 1 for an object, 0 for padding.
    """

    def fit(values: tf.Tensor) -> tf.Tensor:
        shape: Any = values.shape
        values = values[:max_boxes]
        missing = max_boxes - tf.shape(values)[0]
        margins = tf.pad([[0, missing]], [[0, len(shape) - 1], [0, 0]])
        return tf.ensure_shape(tf.pad(values, margins), (max_boxes, *shape[1:]))

    mask = tf.cast(tf.range(max_boxes) < tf.shape(sample.classes)[0], tf.float32)
    return Sample(sample.image, *map(fit, sample[1:])), mask


def detection_batches(
    config: Config,
    info: DatasetInfo,
    split: str,
    *,
    epoch: int | None = None,
    masks: bool = False,
) -> tf.data.Dataset:
    """Batches of images with their objects, as dictionaries; see the table above.

    With `epoch`, for training: batches of `train.global_batch` images, shuffled and augmented by
    (`train.seed`, epoch), without an incomplete last batch. Otherwise, for evaluation: batches of
    `eval.batch` letterboxed images in file order, each image exactly once, the last batch padded.
    Iterate inside `named_errors(config, info, split)`. An image with more than `data.max_boxes`
    objects is an error in evaluation; in training, the surplus objects are dropped.

    Args:
      config: `data`, `train.seed`, `train.global_batch` and `eval.batch` are used.
      info: description of the data in `config.data.dir`.
      split: `train`, `validation` or `test`.
      epoch: number of the epoch, from 0; None for evaluation.
      masks: whether to decode masks, which take B x M x H x W bytes.

    Raises:
      DataError: the split is missing, or has less than one training batch.
      ConfigError: an unknown augmentation, or invalid options.
    """
    records = usable(config, info, split)
    make = functools.partial(_train if epoch is not None else _evaluate, masks=masks)
    return ready(make(records, config, info, epoch=epoch))


def _train(
    records: Usable, config: Config, info: DatasetInfo, *, epoch: int, masks: bool
) -> tf.data.Dataset:
    size = config.train.global_batch
    if records.examples < size:
        raise DataError(
            f"{config.data.dir} has {records.examples} training examples, less than one batch of "
            f"{size}; set train.global_batch to at most {records.examples}"
        )
    split_entries(config.data.augment)
    run_seed = [config.train.seed & _SEED_MASK, epoch]

    @tf.autograph.experimental.do_not_convert
    def example(position: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        sample = train_sample(
            parse_sample(serialized, info, masks=masks),
            tf.random.fold_in(run_seed, position),
            how=Preprocessing.of(config.data),
            entries=config.data.augment,
        )
        return _columns(sample, config.data.max_boxes, masks=masks)

    shuffled = read_serialized(records, seed=(config.train.seed, epoch)).enumerate()
    return shuffled.map(example, parallel_calls()).batch(size, drop_remainder=True)


def _evaluate(
    records: Usable, config: Config, info: DatasetInfo, *, epoch: None, masks: bool
) -> tf.data.Dataset:
    one = functools.partial(_eval_example, config=config, info=info, masks=masks)
    examples = read_serialized(records).map(one, parallel_calls())
    size = config.eval.batch
    return examples.batch(size).map(functools.partial(_padded, size=size))


@tf.autograph.experimental.do_not_convert
def _eval_example(
    serialized: tf.Tensor, *, config: Config, info: DatasetInfo, masks: bool
) -> dict[str, Any]:
    data = config.data
    stored = parse_sample(serialized, info, masks=masks)
    fits = tf.debugging.assert_less_equal(
        tf.size(stored.classes),
        data.max_boxes,
        message="more objects than data.max_boxes; set it to the maximum of the split",
    )
    with tf.control_dependencies([fits] if fits is not None else []):
        sample, ratio = resize_and_pad(stored, data.image_size, resize=data.resize)
    sample = sample._replace(area=stored.area)
    text = tf.io.FixedLenFeature((), tf.string, "")
    keys = (features.IMAGE, features.ID, features.SOURCE_ID, *info.slices)
    parsed = tf.io.parse_single_example(serialized, dict.fromkeys(keys, text))
    identity = parsed[features.ID]
    if info.foreign:
        computed = fingerprint(parsed[features.IMAGE][None])[0]
        identity = tf.where(identity == "", computed, identity)
    return {
        **_columns(sample, data.max_boxes, masks=masks),
        "mask": tf.ones(()),
        "ids": identity,
        "source_ids": parsed[features.SOURCE_ID],
        "sizes": tf.shape(stored.image)[:2],
        "ratios": ratio,
        "slices": {key: parsed[key] for key in info.slices},
    }


def _columns(sample: Sample, max_boxes: int, *, masks: bool) -> dict[str, tf.Tensor]:
    padded, object_mask = pad_objects(sample, max_boxes)
    columns = padded._asdict()
    columns["images"], columns["object_ids"] = columns.pop("image"), columns.pop("ids")
    if not masks:
        columns.pop("masks")
    return {**columns, "object_mask": object_mask}


@tf.autograph.experimental.do_not_convert
def _padded(part: dict[str, Any], *, size: int) -> dict[str, Any]:
    """A batch padded to `size` with zeros and empty strings."""

    def fill(values: tf.Tensor) -> tf.Tensor:
        shape: Any = values.shape
        missing = tf.concat([[size - tf.shape(values)[0]], tf.shape(values)[1:]], 0)
        full = tf.concat([values, tf.zeros(missing, values.dtype)], 0)
        return tf.ensure_shape(full, (size, *shape[1:]))

    return tf.nest.map_structure(fill, part)


def _spec(*, masks: bool) -> dict[str, Any]:
    kinds = {
        tf.float32: (features.YMIN, features.XMIN, features.YMAX, features.XMAX, features.AREA),
        tf.int64: (features.OBJECT_LABEL, features.IS_CROWD, features.OBJECT_ID),
        tf.string: (features.MASK,) if masks else (),
    }
    lists = {
        key: tf.io.FixedLenSequenceFeature((), kind, allow_missing=True)
        for kind, keys in kinds.items()
        for key in keys
    }
    return {features.IMAGE: tf.io.FixedLenFeature((), tf.string), **lists}


def _or(values: tf.Tensor, default: tf.Tensor) -> tf.Tensor:
    """`values`, or `default` if the record has none."""
    return tf.cond(tf.size(values) > 0, lambda: values, lambda: tf.cast(default, values.dtype))


def _decode_masks(encoded: tf.Tensor, image: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """(N, H, W) uint8 of 0 and 1 from N PNGs."""
    size = tf.shape(image)[:2]

    def decode(one: tf.Tensor) -> tf.Tensor:
        mask = tf.io.decode_png(one, channels=1)[..., 0]
        same = tf.debugging.assert_equal(
            tf.shape(mask), size, message="the mask of an object has another size than the image"
        )
        with tf.control_dependencies([same] if same is not None else []):
            return tf.cast(mask > 0, tf.uint8)

    spec = tf.TensorSpec((None, None), tf.uint8)
    every = tf.debugging.assert_equal(
        tf.size(encoded), count, message="masks must match object labels"
    )
    with tf.control_dependencies([every] if every is not None else []):
        # TensorFlow cannot stack an empty list of masks with a dynamic size.
        return tf.cond(
            count > 0,
            lambda: tf.map_fn(decode, encoded, fn_output_signature=spec),
            lambda: tf.zeros(tf.concat([[0], size], 0), tf.uint8),
        )
