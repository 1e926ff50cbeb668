"""Validation of labeled objects."""

import io
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from tfx_pipeline.ingest.objects import (
    clean,
    count_band,
    object_features,
    objects_from_json,
    objects_to_json,
)
from tfx_pipeline.ingest.source import Objects
from trainers.data import features

HEIGHT, WIDTH = 40, 60
SIZE = {"height": HEIGHT, "width": WIDTH}
SQUARE = [[10, 5, 20, 5, 20, 15, 10, 15]]


def cleaned(*boxes, num_classes=3, **columns):
    columns.setdefault("classes", (0,) * len(boxes))
    objects = Objects(boxes=boxes, **columns)
    return clean(objects, name="a.jpg", num_classes=num_classes, **SIZE)


def kinds(findings):
    return [one.kind for one in findings]


@pytest.mark.parametrize(
    ("box", "kept", "kind"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 4), None),
        ((0, 0, 60, 40), (0, 0, 60, 40), None),
        ((-5, -1, 70, 41), (0, 0, 60, 40), "box_clipped"),
        ((1, 2, 60.02, 4), (1, 2, 60, 4), "box_clipped"),
        ((-0.009, 2, 60.009, 4), (0, 2, 60, 4), None),
        ((61, 2, 70, 4), None, "box_outside"),
        ((60, 2, 70, 4), None, "box_outside"),
        ((-9, 2, 0, 4), None, "box_outside"),
        ((1, -9, 3, -4), None, "box_outside"),
        ((1, 40, 3, 44), None, "box_outside"),
        ((3, 2, 3, 4), None, "box_empty"),
        ((1, 4, 3, 4), None, "box_empty"),
        ((30, 2, math.nextafter(30, 31), 4), None, "box_empty"),
        ((3, 2, 1, 4), None, "box_invalid"),
        ((1, 4, 3, 2), None, "box_invalid"),
        ((1, 2, math.nan, 4), None, "box_invalid"),
        ((-math.inf, 2, 3, 4), None, "box_invalid"),
    ],
)
def test_each_kind_of_box(box, kept, kind):
    objects, findings = cleaned(box, ids=(77,))
    assert objects.boxes == ((kept,) if kept else ())
    assert kinds(findings) == ([kind] if kind else [])
    for one in findings:
        assert one.file == "a.jpg"
        assert one.detail.startswith("annotation 77: box xmin ")


def test_a_clipped_box_is_reported_with_both_values():
    _, (finding,) = cleaned((-5, 1, 70, 12.5), ids=(3,))
    assert finding.detail == (
        "annotation 3: box xmin -5, ymin 1, xmax 70, ymax 12.5 "
        "to xmin 0, ymin 1, xmax 60, ymax 12.5"
    )


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_that_does_not_exist_drops_the_object(label):
    objects, findings = cleaned((1, 2, 3, 4), (5, 6, 7, 8), classes=(label, 2), ids=(8, 9))
    assert (objects.classes, objects.ids) == ((2,), (9,))
    assert kinds(findings) == ["category_unknown"]
    assert "annotation 8: its category is not among the 3" in findings[0].detail


def test_no_objects_is_noted_only_where_there_were_none():
    assert kinds(cleaned()[1]) == ["no_objects"]
    objects, findings = cleaned((3, 2, 3, 4))
    assert not objects.boxes
    assert kinds(findings) == ["box_empty"]


def test_what_belongs_to_an_object_stays_with_it():
    objects, _ = cleaned(
        (1, 2, 3, 4),
        (9, 9, 9, 9),
        (5, 6, 7, 8),
        classes=(2, 0, 1),
        ids=(11, 12, 13),
        areas=(1.5, 2.5, math.nan),
        is_crowd=(0, 0, 1),
        segmentations=(None, None, SQUARE),
        flags={features.DIFFICULT: (0, 0, 1)},
    )
    assert objects == Objects(
        boxes=((1, 2, 3, 4), (5, 6, 7, 8)),
        classes=(2, 1),
        ids=(11, 13),
        areas=(1.5, -1.0),
        is_crowd=(0, 1),
        segmentations=(None, SQUARE),
        flags={features.DIFFICULT: (0, 1)},
    )


def test_fractions_become_pixels():
    objects, findings = cleaned(
        (0.25, 0.5, 1.5, 1.0),
        segmentations=([[0.5, 0.25, 1.0, 0.25, 1.0, 0.5]],),
        normalized=True,
    )
    assert objects.boxes == ((15, 20, 60, 40),)
    assert objects.segmentations == ([[30, 10, 60, 10, 60, 20]],)
    assert not objects.normalized
    assert kinds(findings) == ["box_clipped"]


def test_a_bad_mask_drops_its_object_by_name():
    rle = {"size": [HEIGHT, WIDTH + 1], "counts": [HEIGHT * (WIDTH + 1)]}
    objects, findings = cleaned((1, 2, 3, 4), (1, 2, 3, 4), segmentations=(rle, [[1, 2, 3]]))
    assert not objects.boxes
    assert kinds(findings) == ["mask_size", "mask_invalid"]
    assert "mask of [40, 61], image of [40, 60]" in findings[0].detail


def test_columns_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 boxes and 1 areas"):
        cleaned((1, 2, 3, 4), (1, 2, 3, 4), areas=(1.0,))
    with pytest.raises(ValueError, match=r"1 boxes and 2 image/object/difficult"):
        cleaned((1, 2, 3, 4), flags={features.DIFFICULT: (0, 1)})


SIDES = st.one_of(
    st.floats(-100, 200, width=32),
    st.sampled_from([0.0, -0.0, 40.0, 60.0, 1e-30, math.nan, math.inf, -math.inf, 1e308]),
    st.integers(-5, 65),
)
BOXES = st.lists(st.tuples(SIDES, SIDES, SIDES, SIDES), min_size=1, max_size=5)
DROPS = {"box_outside", "box_empty", "box_invalid", "category_unknown"}


@given(boxes=BOXES, classes=st.lists(st.integers(-2, 4), min_size=5, max_size=5))
def test_what_is_kept_is_inside_and_has_area_and_nothing_is_lost(boxes, classes):
    ids = tuple(range(100, 100 + len(boxes)))
    objects, findings = cleaned(*boxes, classes=tuple(classes[: len(boxes)]), ids=ids)
    dropped = [one for one in findings if one.kind in DROPS]
    assert len(objects.boxes) + len(dropped) == len(boxes)
    assert set(kinds(findings)) <= DROPS | {"box_clipped"}
    assert all(0 <= one < 3 for one in objects.classes)
    made = object_features(objects, classes="abc", label_offset=1, **SIZE)
    xmin, xmax, ymin, ymax = (
        np.array(made[key], np.float32)
        for key in (features.XMIN, features.XMAX, features.YMIN, features.YMAX)
    )
    assert ((xmin >= 0) & (xmin < xmax) & (xmax <= 1)).all()
    assert ((ymin >= 0) & (ymin < ymax) & (ymax <= 1)).all()
    for ident, box in zip(objects.ids, objects.boxes, strict=True):
        given_box = np.clip(boxes[ident - 100], 0, [WIDTH, HEIGHT] * 2)
        np.testing.assert_array_equal(box, given_box)


@given(boxes=BOXES)
def test_cleaning_twice_finds_nothing_more(boxes):
    once, _ = cleaned(*boxes)
    # The clipped rest in the first pixel looks like fractions, but the box did not.
    assume(all(max(box) > 1 for box in once.boxes))
    again, findings = clean(once, name="a.jpg", num_classes=3, **SIZE)
    assert again == once
    assert kinds(findings) == ([] if once.boxes else ["no_objects"])


def test_features_are_those_of_the_table():
    objects, _ = cleaned((15, 10, 30, 40), classes=(2,), ids=(7,), flags={features.TRUNCATED: (1,)})
    made = object_features(objects, classes=("a", "b", "c"), label_offset=1, **SIZE)
    assert made == {
        "image/object/bbox/xmin": [0.25],
        "image/object/bbox/xmax": [0.5],
        "image/object/bbox/ymin": [0.25],
        "image/object/bbox/ymax": [1.0],
        "image/object/class/label": [3],
        "image/object/class/text": ["c"],
        "image/object/is_crowd": [0],
        "image/object/area": [450.0],
        "image/object/id": [7],
        "image/object/truncated": [1],
    }


def test_features_of_no_objects_are_empty_lists():
    made = object_features(Objects(), classes=("a",), label_offset=0, **SIZE)
    assert made == {key: [] for key in features.OBJECT_KEYS}


def test_area_is_the_sources_else_the_masks_else_the_boxes():
    objects, findings = cleaned(
        *[(10, 5, 20, 15)] * 3,
        areas=(12.5, -1.0, -1.0),
        segmentations=(SQUARE, SQUARE, None),
    )
    assert not findings
    made = object_features(objects, classes=("a",), label_offset=0, **SIZE)
    assert made[features.AREA] == [12.5, 100.0, 100.0]
    tall, _ = cleaned((10, 5, 20, 25), segmentations=(SQUARE,))
    assert object_features(tall, classes="a", label_offset=0, **SIZE)[features.AREA] == [100.0]


def test_masks_are_png_of_zeros_and_ones():
    objects, _ = cleaned((10, 5, 20, 15), segmentations=(SQUARE,))
    (png,) = object_features(objects, classes="a", label_offset=0, **SIZE)[features.MASK]
    image = Image.open(io.BytesIO(png))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:15, 10:20] = 1
    assert (image.format, image.mode) == ("PNG", "L")
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_one_object_without_a_mask_leaves_out_all():
    objects, _ = cleaned((1, 2, 3, 4), (10, 5, 20, 15), segmentations=(None, SQUARE))
    made = object_features(objects, classes="a", label_offset=0, **SIZE)
    assert features.MASK not in made


def test_fractions_are_no_input_of_features():
    with pytest.raises(ValueError, match="in pixels"):
        object_features(Objects(normalized=True), classes="a", label_offset=0, **SIZE)


@pytest.mark.parametrize(
    ("count", "band"),
    [(0, "none"), (1, "one"), (2, "few"), (4, "few"), (5, "some"), (9, "some"), (10, "many")],
)
def test_bands_of_counts(count, band):
    assert count_band(count) == band


def test_json_keeps_everything():
    objects = Objects(
        boxes=((0.1, 2.0, 1e-17, 4.0), (1.0, 2.0, 3.0, 4.0)),
        classes=(-1, 2),
        ids=(1, 2**40),
        areas=(-1.0, 3.25),
        is_crowd=(0, 1),
        segmentations=([[0.5, 1, 2, 3, 4, 5.5]], {"size": [3, 4], "counts": "abc"}),
        flags={features.DIFFICULT: (1, 0)},
        normalized=True,
    )
    assert objects_from_json(objects_to_json(objects)) == objects
    assert objects_from_json(objects_to_json(Objects())) == Objects()


def test_json_takes_what_numpy_and_pycocotools_make():
    objects = Objects(
        boxes=(tuple(np.array([1, 2, 3, 4], np.float32)),),
        ids=(np.int64(5),),
        segmentations=({"size": np.array([3, 4]), "counts": b"abc"},),
    )
    again = objects_from_json(objects_to_json(objects))
    assert again.boxes == ((1.0, 2.0, 3.0, 4.0),)
    assert again.ids == (5,)
    assert again.segmentations == ({"size": [3, 4], "counts": "abc"},)
