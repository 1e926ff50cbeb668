"""Records written by hand, read as COCO's dictionary; and COCO's own evaluation example."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask

from trainers.data.coco_format import FIGURES, evaluate_boxes, records_to_coco
from trainers.data.features import DATASET_FILE, DatasetError, DatasetInfo, SplitInfo

HEIGHT, WIDTH = 300, 640


def png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def example(source_id="7", boxes=((64.1, 30, 128.2, 150),), /, **other):
    """A record with keys spelled out; `other` replaces lists by the key's last two parts."""
    count = len(boxes)
    lists = {
        "image/source_id": [source_id],
        "image/filename": [f"{source_id}.jpg"],
        "image/height": [HEIGHT],
        "image/width": [WIDTH],
        "image/object/bbox/xmin": [box[0] / WIDTH for box in boxes],
        "image/object/bbox/ymin": [box[1] / HEIGHT for box in boxes],
        "image/object/bbox/xmax": [box[2] / WIDTH for box in boxes],
        "image/object/bbox/ymax": [box[3] / HEIGHT for box in boxes],
        "image/object/class/label": [1] * count,
        "image/object/id": [900 + place for place in range(count)],
        "image/object/is_crowd": [0] * count,
        "image/object/area": [12.5] * count,
    }
    lists |= {f"image/{key}": values for key, values in other.items()}
    made = {}
    for key, values in lists.items():
        if values and isinstance(values[0], (str, bytes)):
            data = [one.encode() if isinstance(one, str) else one for one in values]
            made[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=data))
        elif values and isinstance(values[0], float):
            made[key] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        elif len(values):
            made[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def write(folder, task="detection", category_ids=(18, 90), **splits):
    infos = {}
    for split, records in splits.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        name = str(folder / f"Split-{split}" / "data_tfrecord-00000-of-00001")
        with tf.io.TFRecordWriter(name) as writer:
            for record in records:
                writer.write(record)
        infos[split] = SplitInfo(len(records), 1, {})
    info = DatasetInfo("x", task, ("cat", "dog"), 1, infos, "f", category_ids=category_ids)
    (folder / DATASET_FILE).write_text(info.to_json())
    return folder


def test_a_record_as_coco_has_it(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[30:150, 65:128] = 1
    given = {"object/class/label": [2], "object/is_crowd": [1], "object/mask": [png(mask)]}
    made = records_to_coco(write(tmp_path, test=[example(**given)]), "test")
    assert made["categories"] == [{"id": 18, "name": "cat"}, {"id": 90, "name": "dog"}]
    assert made["images"] == [{"id": 7, "file_name": "7.jpg", "height": HEIGHT, "width": WIDTH}]
    (one,) = made["annotations"]
    assert one.pop("segmentation") == {
        "size": [HEIGHT, WIDTH],
        "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode(),
    }
    # 128.2 - 64.1 is 64.1 without what float32 adds.
    assert one == {
        "id": 900,
        "image_id": 7,
        "category_id": 90,
        "bbox": [64.1, 30, 64.1, 120],
        "area": 12.5,
        "iscrowd": 1,
    }
    json.dumps(made)


def test_splits_one_or_all(tmp_path):
    write(tmp_path, train=[example("3")], validation=[], test=[example("4"), example("5", ())])
    assert [one["id"] for one in records_to_coco(tmp_path)["images"]] == [3, 4, 5]
    made = records_to_coco(tmp_path, "test")
    assert [one["id"] for one in made["images"]] == [4, 5]
    assert [one["image_id"] for one in made["annotations"]] == [4]


@pytest.mark.parametrize("second", ["3", "b", "-4"])
def test_ids_that_do_not_serve_are_numbered(tmp_path, second):
    other = {"object/id": [77]}
    write(tmp_path, test=[example("3"), example(second, **other)])
    made = records_to_coco(tmp_path, "test")
    assert [one["id"] for one in made["images"]] == [1, 2]
    assert [(one["id"], one["image_id"]) for one in made["annotations"]] == [(900, 1), (77, 2)]


@pytest.mark.parametrize("ids", [[0], [900], []])
def test_object_ids_that_do_not_serve_are_numbered(tmp_path, ids):
    write(tmp_path, test=[example("3"), example("4", **{"object/id": ids})])
    made = records_to_coco(tmp_path, "test")
    assert [(one["id"], one["image_id"]) for one in made["annotations"]] == [(1, 3), (2, 4)]


def test_records_of_others_may_lack_much(tmp_path):
    lacking = ("source_id", "height", "width", "object/id", "object/is_crowd", "object/area")
    given = {key: [] for key in lacking} | {"encoded": [png(np.zeros((HEIGHT, WIDTH), np.uint8))]}
    made = records_to_coco(write(tmp_path, category_ids=(), test=[example(**given)]))
    assert [one["id"] for one in made["categories"]] == [0, 1]
    assert made["images"][0] | {"file_name": ""} == {
        "id": 1,
        "file_name": "",
        "height": HEIGHT,
        "width": WIDTH,
    }
    (one,) = made["annotations"]
    assert (one["id"], one["iscrowd"], one["category_id"]) == (1, 0, 0)
    assert one["area"] == pytest.approx(64.1 * 120, rel=1e-6)
    assert "segmentation" not in one


def test_what_is_no_detection_record(tmp_path):
    with pytest.raises(DatasetError):
        records_to_coco(tmp_path)
    write(tmp_path / "a", task="classification", test=[example()])
    with pytest.raises(ValueError, match="is a classification data set"):
        records_to_coco(tmp_path / "a")
    for label in (0, 3):
        write(tmp_path / str(label), test=[example(**{"object/class/label": [label]})])
        with pytest.raises(
            ValueError, match=rf"7\.jpg has label {label}, which is not one of the 2 classes"
        ):
            records_to_coco(tmp_path / str(label))
    write(tmp_path / "b", test=[example(**{"object/class/label": [1, 1]})])
    with pytest.raises(ValueError, match="has 1 boxes and 2 labels"):
        records_to_coco(tmp_path / "b")


@pytest.mark.parametrize(("side", "decimals"), [(10, 4), (838, 4), (840, 3), (8388, 3), (8390, 2)])
def test_decimals_are_as_good_as_float32(tmp_path, side, decimals):
    """Any width with that many decimals comes back exactly, and the next one would not."""
    rng = np.random.default_rng(0)
    starts = np.round(rng.uniform(side * 0.5, side * 0.7, 200), decimals)
    ends = np.round(rng.uniform(side * 0.75, side, 200), decimals)
    boxes = [(float(a), 1.0, float(b), 2.0) for a, b in zip(starts, ends, strict=True)]
    given = {"width": [side], "object/bbox/xmin": [a[0] / side for a in boxes]}
    given["object/bbox/xmax"] = [a[2] / side for a in boxes]
    write(tmp_path, test=[example("7", boxes, **given)])
    got = [one["bbox"] for one in records_to_coco(tmp_path)["annotations"]]
    assert [one[0] for one in got] == [a[0] for a in boxes]
    assert [one[2] for one in got] == [round(a[2] - a[0], decimals) for a in boxes]


TRUTH = {
    "images": [{"id": 1, "height": 100, "width": 100}, {"id": 2, "height": 100, "width": 100}],
    "categories": [{"id": 0, "name": "cat"}],
    "annotations": [
        {"id": 0, "image_id": 1, "category_id": 0, "bbox": [0, 0, 10, 10], "area": 100}
        | {"iscrowd": 0, "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]},
        {"id": 1, "image_id": 2, "category_id": 0, "bbox": [0, 0, 50, 50], "area": 2500}
        | {"iscrowd": 0, "segmentation": [[0, 0, 50, 0, 50, 50, 0, 50]]},
    ],
}


def result(image_id, box, score=0.5):
    return {"image_id": image_id, "category_id": 0, "bbox": box, "score": score}


class TestEvaluate:
    def test_figures_by_hand(self):
        """One of two objects is found, with an overlap of 0.8: 7 of 10 thresholds pass."""
        figures = evaluate_boxes(TRUTH, [result(1, [0, 0, 10, 8])])
        assert tuple(figures) == FIGURES
        # At half the recall, 51 of the 101 points have precision 1.
        assert figures["ap50"] == pytest.approx(51 / 101)
        assert figures["ap"] == pytest.approx(51 / 101 * 0.7)
        assert figures["ap_small"] == pytest.approx(0.7)
        assert (figures["ap_medium"], figures["ap_large"]) == (0, -1)
        assert figures["ar_1"] == figures["ar_100"] == pytest.approx(0.35)

    def test_an_annotation_with_id_0_counts(self):
        assert evaluate_boxes(TRUTH, [result(1, [0, 0, 10, 10])])["ap_small"] == pytest.approx(1)

    def test_masks(self):
        mask = np.zeros((100, 100), np.uint8)
        mask[:10, :10] = 1
        rle = coco_mask.encode(np.asfortranarray(mask))
        found = [{"image_id": 1, "category_id": 0, "score": 1.0, "segmentation": rle}]
        assert evaluate_boxes(TRUTH, found, "segm")["ap_small"] == pytest.approx(1)

    def test_no_results_at_all(self):
        assert set(evaluate_boxes(TRUTH, []).values()) == {0.0, -1.0}

    def test_nothing_is_printed_or_changed(self, capfd):
        truth, results = json.loads(json.dumps(TRUTH)), [result(1, [0, 0, 10, 10])]
        evaluate_boxes(truth, results)
        evaluate_boxes(truth, [], "segm")
        assert truth == TRUTH
        assert results == [result(1, [0, 0, 10, 10])]
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(
        ("results", "iou_type", "words"),
        [
            ([], "box", "`iou_type` must be one of bbox, segm, got 'box'"),
            ([result(9, [0, 0, 1, 1])], "bbox", "1 images of `results` .* the first is 9"),
            ([result(1, [0, 0, 1, 1])], "segm", "result of image 1 has no 'segmentation'"),
        ],
    )
    def test_refusals(self, results, iou_type, words):
        with pytest.raises(ValueError, match=words):
            evaluate_boxes(TRUTH, results, iou_type)

    @pytest.mark.shared_data
    @pytest.mark.parametrize(("iou_type", "name"), [("bbox", "fakebbox"), ("segm", "fakesegm")])
    def test_cocos_own_example(self, extract, iou_type, name):
        kit = extract("coco_eval_kit_A")
        truth = json.loads((kit / "instances_val2014_100.json").read_text())
        results = json.loads((kit / f"instances_val2014_{name}100_results.json").read_text())
        expected = json.loads((kit / "expected_metrics.json").read_text())[iou_type]
        figures = evaluate_boxes(truth, results, iou_type)
        np.testing.assert_allclose(list(figures.values()), expected, rtol=0, atol=6e-7)
