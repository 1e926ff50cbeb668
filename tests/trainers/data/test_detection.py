"""Transforms of images with objects, compared with NumPy and COCO's masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools.coco import COCO

from trainers.config import ConfigError
from trainers.data import detection, detection_augment
from trainers.data.detection import Sample, crop, pad, resize_and_pad, stretch
from trainers.data.detection_augment import (
    detection_augmentations,
    split_entries,
    train_sample,
)
from trainers.data.preprocess import ANTIALIAS, Preprocessing

RNG = np.random.default_rng(0)


def how_for(image_size):
    return Preprocessing(image_size, 1.0, ANTIALIAS, "crop")


def made(height=40, width=60, count=5, *, masks=True):
    """A sample whose boxes are the tight boxes of random blobs."""
    start = RNG.integers(0, [height - 4, width - 4], (count, 2))
    end = start + RNG.integers(2, 20, (count, 2))
    end = np.minimum(end, [height, width])
    blobs = np.zeros((count, height, width), np.uint8)
    for blob, (top, left), (bottom, right) in zip(blobs, start, end, strict=True):
        blob[top:bottom, left:right] = 1
    boxes = np.concatenate([start, end], 1) / [height, width, height, width]
    return Sample(
        tf.constant(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)),
        tf.constant(boxes.reshape(-1, 4), tf.float32),
        tf.range(count),
        tf.constant(np.arange(count) % 2 == 1),
        tf.constant(blobs.sum((1, 2)), tf.float32),
        tf.range(100, 100 + count, dtype=tf.int64),
        tf.constant(blobs if masks else np.zeros((count, 0, 0), np.uint8)),
    )


def same(a, b):
    """Exactly equal, except for floats, which a graph may multiply in another order."""
    for one, other in zip(a, b, strict=True):
        if one.dtype == tf.float32:
            np.testing.assert_allclose(one, other, rtol=1e-6)
        else:
            np.testing.assert_array_equal(one, other)


def pixel_boxes(sample):
    height, width = sample.image.shape[:2]
    return sample.boxes.numpy() * [height, width, height, width]


def extents(masks):
    """Tight boxes by NumPy; None where a mask is empty."""
    found = []
    for mask in np.asarray(masks):
        ys, xs = np.nonzero(mask)
        found.append((ys.min(), xs.min(), ys.max() + 1, xs.max() + 1) if len(ys) else None)
    return found


def assert_parallel(sample, original):
    """Every array holds the same objects, identified by id, in order."""
    ids = sample.ids.numpy()
    at = [list(original.ids.numpy()).index(one) for one in ids]
    assert at == sorted(at)
    np.testing.assert_array_equal(sample.classes, original.classes.numpy()[at])
    np.testing.assert_array_equal(sample.is_crowd, original.is_crowd.numpy()[at])
    assert sample.boxes.shape == (len(at), 4)
    assert sample.area.shape == (len(at),)
    assert sample.masks.shape[0] == len(at)


@pytest.fixture(scope="module")
def photographs(extract):
    """20 images of COCO with their masks, crowds and all; the last has no objects."""
    folder = Path(extract("coco_subset_A"))
    coco = COCO(folder / "annotations" / "instances_val2017.json")
    crowds = {one["image_id"] for one in coco.anns.values() if one["iscrowd"]}
    chosen = sorted(coco.imgs, key=lambda one: (one not in crowds, one))[:20]
    found = []
    for image_id in chosen:
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        if image_id == chosen[-1]:
            annotations = []
        name = coco.imgs[image_id]["file_name"]
        image = np.array(Image.open(folder / "val2017" / name).convert("RGB"))
        height, width = image.shape[:2]
        left, top, wide, high = np.array([a["bbox"] for a in annotations]).reshape(-1, 4).T
        boxes = np.stack([top / height, left / width, (top + high) / height, (left + wide) / width])
        masks = [coco.annToMask(a) for a in annotations] or np.zeros((0, height, width))
        found.append(
            Sample(
                tf.constant(image),
                tf.constant(boxes.T, tf.float32),
                tf.constant([a["category_id"] for a in annotations], tf.int32),
                tf.constant([a["iscrowd"] == 1 for a in annotations], tf.bool),
                tf.constant([a["area"] for a in annotations], tf.float32),
                tf.constant([a["id"] for a in annotations], tf.int64),
                tf.constant(np.array(masks), tf.uint8),
            )
        )
    return found


def distances(sample):
    """(N, 4) pixels by which each mask reaches out of its box; negative where it stays inside."""
    found = [
        (np.array(box) - extent) * [1, 1, -1, -1]
        for box, extent in zip(pixel_boxes(sample), extents(sample.masks), strict=True)
        if extent is not None
    ]
    return np.array(found).reshape(-1, 4)


def assert_masks_fit(sample):
    assert np.abs(distances(sample)).max(initial=0) <= 1.01


def quartered(original):
    """Every fourth pixel in both directions, with boxes that fit the masks exactly."""
    masks = original.masks.numpy()[:, ::4, ::4]
    shown = masks.any((1, 2))
    image = original.image[::4, ::4]
    rows = [one for one in extents(masks) if one is not None]
    boxes = np.array(rows).reshape(-1, 4) / np.tile(image.shape[:2], 2)
    kept = [tf.constant(np.asarray(value)[shown]) for value in original[2:6]]
    return Sample(image, tf.constant(boxes, tf.float32), *kept, tf.constant(masks[shown]))


def augmenter(entries, image_size):
    """`train_sample` as one graph for images of any size."""
    shapes = [(None, None, 3), (None, 4), (None,), (None,), (None,), (None,), (None, None, None)]
    kinds = [tf.uint8, tf.float32, tf.int32, tf.bool, tf.float32, tf.int64, tf.uint8]
    specs = Sample(*map(tf.TensorSpec, shapes, kinds))
    return tf.function(
        lambda sample, seed: train_sample(sample, seed, how=how_for(image_size), entries=entries),
        input_signature=[specs, tf.TensorSpec((2,), tf.int32)],
        autograph=False,
    )


@pytest.mark.shared_data
@pytest.mark.parametrize("entry", ["contrast", "random_scale_crop(1.0, 2.0)", "random_crop"])
def test_boxes_stay_at_their_masks_on_enlarged_photographs(photographs, entry):
    augment = augmenter(["flip", "brightness", entry], (192, 224))
    lost = seen = 0
    for number, original in enumerate(map(quartered, photographs)):
        for seed in range(3):
            sample = augment(original, tf.constant((number, seed)))
            assert sample.image.shape == (192, 224, 3)
            assert sample.masks.shape[1:] == (192, 224)
            assert_parallel(sample, original)
            assert_masks_fit(sample)
            seen += len(sample.ids)
            lost += len(sample.ids) < len(original.ids)
    assert seen > 300
    assert (lost > 0) == (entry != "contrast")


@pytest.mark.shared_data
def test_boxes_hold_their_masks_on_shrunk_photographs(photographs):
    augment = augmenter(["random_scale_crop", "flip"], (160, 160))
    found = []
    for number, original in enumerate(photographs):
        away = np.abs(distances(original)).max(initial=0)
        for seed in range(3):
            sample = augment(original, tf.constant((number, seed)))
            assert_parallel(sample, original)
            boxes = sample.boxes.numpy()
            assert (boxes >= -1e-6).all()
            assert (boxes <= 1 + 1e-6).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert (sample.masks.numpy().max((1, 2), initial=0) == 1).all()
            out = distances(sample)
            assert out.max(initial=0) <= 1.01 + 2 * away
            found.append(out)
    # Thin ends may fall between the pixels, so a few masks end well inside their boxes.
    assert (np.concatenate(found) > -1.5).mean() > 0.95


@pytest.mark.shared_data
def test_a_crop_of_a_photograph_is_a_slice_of_everything(photographs):
    for original in photographs[:8]:
        height, width = original.image.shape[:2]
        top, left, high, wide = height // 4, width // 3, height // 2, width // 3
        got = crop(original, tf.constant([top, left, high, wide]))
        rows, columns = slice(top, top + high), slice(left, left + wide)
        np.testing.assert_array_equal(got.image, original.image.numpy()[rows, columns])
        assert_parallel(got, original)
        masks = original.masks.numpy()
        ids = original.ids.numpy()
        shown = {one: mask[rows, columns] for one, mask in zip(ids, masks, strict=True)}
        for one, mask in zip(got.ids.numpy(), got.masks.numpy(), strict=True):
            np.testing.assert_array_equal(mask, shown[one])
        gone = set(shown) - set(got.ids.numpy())
        # COCO's polygons may cover a pixel that their box leaves out.
        assert all(shown[one].sum() <= 4 for one in gone)
        assert gone
        whole = masks.sum((1, 2)).clip(1)
        before = dict(zip(ids, original.area.numpy() / whole, strict=True))
        want = [shown[one].sum() * before[one] for one in got.ids.numpy()]
        np.testing.assert_allclose(got.area, want, rtol=1e-4)


def test_a_cut_object_keeps_the_box_of_what_its_mask_shows():
    mask = np.zeros((1, 10, 10), np.uint8)
    mask[0, :9, 0] = mask[0, 8, :9] = 1  # An L: its box is 9 x 9, its corner at the top empty.
    sample = made(10, 10, 1)._replace(
        boxes=tf.constant([[0.0, 0.0, 0.9, 0.9]]),
        masks=tf.constant(mask),
        area=tf.constant([17.0]),
    )
    got = crop(sample, tf.constant([2, 2, 8, 8]))
    np.testing.assert_allclose(pixel_boxes(got), [[6, 0, 7, 7]], atol=1e-5)
    np.testing.assert_allclose(got.area, [7.0])
    assert len(crop(sample, tf.constant([0, 2, 8, 8])).ids) == 0
    boxes_only = crop(
        sample._replace(masks=tf.zeros((1, 0, 0), tf.uint8)), tf.constant([0, 2, 8, 8])
    )
    np.testing.assert_allclose(pixel_boxes(boxes_only), [[0, 0, 8, 7]], atol=1e-5)
    np.testing.assert_allclose(boxes_only.area, [17 * 56 / 81], rtol=1e-5)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("count", [0, 4])
def test_every_step_takes_images_without_objects_and_masks(masks, count):
    sample = made(30, 20, count, masks=masks)
    mirrored = detection.flip(sample)
    np.testing.assert_array_equal(mirrored.image, sample.image.numpy()[:, ::-1])
    same(detection.flip(mirrored)[2:], sample[2:])
    for changed in (
        crop(sample, tf.constant([0, 0, 30, 20])),
        stretch(sample, (15, 40), resize=ANTIALIAS),
        pad(sample, (32, 40)),
        resize_and_pad(sample, (64, 64), resize=ANTIALIAS)[0],
    ):
        assert_parallel(changed, sample)
        assert len(changed.ids) == count
        if masks:
            assert changed.masks.shape[1:] == changed.image.shape[:2]
            assert_masks_fit(changed)
        else:
            assert changed.masks.shape[1:] == (0, 0)


def test_resizing_and_padding_keep_positions_and_scale_areas():
    sample = made(40, 60, 5)
    got, ratio = resize_and_pad(sample, (90, 90), resize=ANTIALIAS)
    np.testing.assert_allclose(ratio, [1.5, 1.5])
    np.testing.assert_allclose(pixel_boxes(got), pixel_boxes(sample) * 1.5, rtol=1e-5)
    np.testing.assert_allclose(got.area, sample.area * 2.25)
    assert not got.image.numpy()[60:].any()
    expected = tf.image.resize(sample.image, (60, 90)).numpy().round()
    assert np.abs(got.image.numpy()[:60] - expected).max() <= 1
    stretched = stretch(sample, (80, 60), resize=ANTIALIAS)
    np.testing.assert_array_equal(stretched.boxes, sample.boxes)
    np.testing.assert_array_equal(stretched.masks, sample.masks.numpy().repeat(2, axis=1))
    np.testing.assert_allclose(stretched.area, sample.area * 2)


@pytest.mark.parametrize("kind", ["antialias", "bilinear"])
def test_the_image_is_resized_as_the_configuration_says(kind):
    """Against Pillow and TensorFlow, letterboxed and by each crop, far below the stored size."""
    sample = made(300, 420, 3, masks=False)
    expected = {
        "antialias": np.asarray(
            Image.fromarray(sample.image.numpy()).resize((42, 30), Image.Resampling.BILINEAR)
        ),
        "bilinear": tf.image.resize(sample.image, (30, 42)).numpy().round(),
    }
    how = Preprocessing((42, 42), 1.0, kind, "crop")
    whole = "random_scale_crop(1.0, 1.0)"
    for got in (
        resize_and_pad(sample, (42, 42), resize=kind)[0],
        train_sample(sample, (0, 0), how=how, entries=()),
        train_sample(sample, (0, 0), how=how, entries=[whole]),
    ):
        found = got.image.numpy()[:30].astype(int)
        for name, image in expected.items():
            difference = np.abs(found - image).max()
            assert difference <= 1 if name == kind else difference > 20


def test_scale_jitter_reaches_its_ends_and_crops_where_it_enlarges():
    sample = made(48, 48, 6)
    white = sample._replace(image=tf.fill((48, 48, 3), tf.constant(255, tf.uint8)))
    shown = []
    augment = augmenter(["random_scale_crop(0.25, 1.5)"], (96, 96))
    for seed in range(60):
        got = augment(white, tf.constant((3, seed)))
        rows = got.image.numpy()[:, 0, 0] == 255
        shown.append(rows.sum())
        assert rows[: rows.sum()].all()
        assert len(got.ids) == 6 or rows.all()
    assert 24 <= min(shown) < 35
    assert max(shown) == 96
    assert 5 < sum(one == 96 for one in shown) < 40  # 0.5 / 1.25 of the draws enlarge


def overlap(a, b):
    """Intersection over union of two boxes, in plain numbers."""
    high = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    wide = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - high * wide
    return high * wide / union if union else 0.0


def test_random_crops_overlap_some_object_enough(monkeypatch):
    sample = made(60, 80, 1, masks=False)._replace(boxes=tf.constant([[0.2, 0.1, 0.8, 0.7]]))
    patches = []
    centered = detection_augment._centered
    monkeypatch.setattr(
        detection_augment,
        "_centered",
        lambda sample, patch: (patches.append(tuple(patch.numpy())), centered(sample, patch))[1],
    )
    for least in (0.0, 0.6):
        monkeypatch.setattr(detection_augment, "_LEAST_IOU", (-1.0, least, least))
        patches.clear()
        for seed in range(24):
            got = train_sample(sample, (5, seed), how=how_for((60, 80)), entries=["random_crop"])
            assert_parallel(got, sample)
            cut = patches[-1]
            middle = cut[0] <= 0.5 <= cut[2] and cut[1] <= 0.4 <= cut[3]
            assert len(got.ids) == middle
        whole = patches.count((0.0, 0.0, 1.0, 1.0))
        assert 3 <= whole <= 14  # A third is expected.
        found = [overlap(one, (0.2, 0.1, 0.8, 0.7)) for one in patches]
        parts = [value for value, one in zip(found, patches, strict=True) if one != (0, 0, 1, 1)]
        assert min(parts) >= least - 1e-5
        assert (min(parts) < 0.3) == (least == 0.0)
        assert len(set(parts)) == len(parts)
        sides = np.array([(c - a, d - b) for a, b, c, d in patches if (a, b, c, d) != (0, 0, 1, 1)])
        assert (sides.prod(1) >= 0.1 - 1e-5).all()
        assert (np.abs(np.log(sides[:, 1] / sides[:, 0])) <= np.log(2) + 1e-5).all()


def test_a_random_crop_that_no_patch_allows_is_the_whole_image(monkeypatch):
    monkeypatch.setattr(detection_augment, "_LEAST_IOU", (0.9,))
    sample = made(60, 80, 1, masks=False)._replace(boxes=tf.constant([[0.5, 0.5, 0.51, 0.51]]))
    for seed in range(5):
        got = train_sample(sample, (5, seed), how=how_for((60, 80)), entries=["random_crop"])
        same(got, sample)


def test_eager_and_tf_data_agree():
    sample = made(40, 60, 5)
    entries = ["random_scale_crop", "flip", "color_jitter(0.3, hue=0.1)"]

    @tf.autograph.experimental.do_not_convert
    def augment(seed):
        seeds = tf.stack([1, tf.cast(seed, tf.int32)])
        return train_sample(sample, seeds, how=how_for((32, 32)), entries=entries)

    dataset = tf.data.Dataset.range(5).map(augment)
    images = set()
    for seed, got in enumerate(dataset):
        want = train_sample(sample, (1, seed), how=how_for((32, 32)), entries=entries)
        same(got, want)
        images.add(got.image.numpy().tobytes())
    assert len(images) == 5


def test_color_ops_touch_nothing_but_pixels_and_take_their_options():
    sample = made()
    for name in set(detection_augmentations.names()) - {"flip"}:
        got = train_sample(sample, (1, 1), how=how_for((40, 60)), entries=[f"{name}(1.0)"])
        same(got[1:], sample[1:])
        assert (got.image.numpy() != sample.image.numpy()).any()


def test_entries_are_checked():
    first: Any
    first, rest = split_entries(["flip", "random_scale_crop(0.8, high=1.25)"])
    assert first.keywords == {"low": 0.8, "high": 1.25}
    assert rest == [detection_augmentations.get("flip")]
    with pytest.raises(ConfigError, match=r"'random_scale'.*random_scale_crop"):
        split_entries(["random_scale"])
    with pytest.raises(ConfigError, match="takes one crop, got random_crop, random_scale_crop"):
        split_entries(["random_crop", "random_scale_crop"])
    with pytest.raises(ConfigError, match=r"`high` must be a number in \[0.01, 10\]"):
        split_entries(["random_scale_crop(high=20)"])
    with pytest.raises(ConfigError, match=r"low <= high, got 2 and 1"):
        train_sample(made(), (0, 0), how=how_for((8, 8)), entries=["random_scale_crop(2, 1)"])
