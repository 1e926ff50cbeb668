"""YOLO folders and files."""

import json

import numpy as np
import pytest
import yaml

from tfx_pipeline.ingest import IngestError, Request, ingest
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.masks import encode_gray_png
from tfx_pipeline.ingest.objects import clean
from tfx_pipeline.ingest.sources.yolo import source
from trainers.data import features
from trainers.data.coco_format import records_to_coco

HEIGHT, WIDTH = 40, 80
BOX = "1 0.5 0.5 0.25 0.5"
_GREYS = iter(range(1, 10**9))


def write(folder, labels, data=None):
    """`labels`: image's path below the folder -> its label text, None for no label file."""
    for name, text in labels.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        number = np.frombuffer(next(_GREYS).to_bytes(4, "big"), np.uint8)
        path.write_bytes(encode_gray_png(np.resize(number, (HEIGHT, WIDTH))))
        if text is not None:
            label = folder / name.replace("images", "labels").replace(".png", ".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_bytes(text if isinstance(text, bytes) else text.encode())
    if data is not None:
        (folder / "data.yaml").write_text(yaml.safe_dump(data))


def read(path, **options):
    made = source(Request(str(path), path), **options)
    return made, list(made.items)


def places(items):
    return [(one.name, one.split) for one in items]


PLAIN = {"images/train/a.png": BOX, "images/val/b.png": BOX}
NAMES = {"names": ["cat", "dog"], "train": "images/train", "val": "images/val"}


def test_boxes_become_those_of_the_image(tmp_path):
    write(tmp_path, {"images/train/a.png": f"{BOX}\n\n0 0.1 0.2 0.2 0.4\n"}, NAMES | {"val": None})
    made, (item,) = read(tmp_path)
    assert (made.classes, made.task, made.masks) == (("cat", "dog"), "detection", False)
    assert item.objects.normalized
    objects, findings = clean(item.objects, height=HEIGHT, width=WIDTH, name="a", num_classes=2)
    np.testing.assert_allclose(objects.boxes, [[30, 10, 50, 30], [0, 0, 16, 16]], atol=1e-9)
    assert objects.classes == (1, 0)
    assert objects.ids == (1, 3)
    assert not findings


def test_polygons_are_masks_and_give_the_box(tmp_path):
    write(tmp_path, {"images/train/a.png": "0 0.25 0.5 0.75 0.5 0.5 0.75"}, NAMES | {"val": ""})
    made, (item,) = read(tmp_path)
    assert made.masks
    assert item.objects.boxes == ((0.25, 0.5, 0.75, 0.75),)
    assert item.objects.segmentations == ([[0.25, 0.5, 0.75, 0.5, 0.5, 0.75]],)


@pytest.mark.parametrize("shape", [[2, 3], [3, 2]])
def test_keypoints_behind_a_box_are_no_polygon(tmp_path, shape):
    lines = f"{BOX} 0.9 0.9 2 0.1 0.1 1\n{BOX}\n{BOX} 0.9 0.9"
    data = NAMES | {"val": "", "kpt_shape": shape}
    write(tmp_path, {"images/train/a.png": lines}, data)
    made, (item,) = read(tmp_path)
    assert not made.masks
    assert item.objects.boxes == ((0.375, 0.25, 0.625, 0.75),)
    assert item.objects.segmentations == (None,)
    assert [one.detail.partition(": ")[2][:15] for one in item.findings] == [
        "it has 5 values",
        "it has 7 values",
    ]


@pytest.mark.parametrize("shape", [17, [17], [0, 3], [17, 4], ["a", 2]])
def test_a_wrong_shape_of_keypoints(tmp_path, shape):
    write(tmp_path, PLAIN, NAMES | {"kpt_shape": shape})
    with pytest.raises(IngestError, match="`kpt_shape` must be"):
        read(tmp_path)


def test_a_box_among_polygons_leaves_the_set_without_masks(tmp_path):
    write(tmp_path, {"images/train/a.png": f"0 0 0 1 0 1 1\n{BOX}"}, NAMES | {"val": ""})
    assert not read(tmp_path)[0].masks


@pytest.mark.parametrize(
    "data",
    [
        NAMES,
        NAMES | {"names": {0: "cat", 1: "dog"}},
        NAMES | {"path": "."},
        NAMES | {"path": "/no/such/folder/of/another/machine"},
        NAMES | {"train": ["images/train"], "val": ["images/val"]},
        NAMES | {"train": "../images/train", "val": "../images/val"},
        NAMES | {"train": "train.txt", "val": "lists/val.txt"},
        {"names": ["cat", "dog"], "train": "images/train", "test": None, "valid": "images/val"},
    ],
)
def test_spellings_of_the_yaml_file(tmp_path, data):
    write(tmp_path / "set", PLAIN, data)
    (tmp_path / "set" / "train.txt").write_text("./images/train/a.png\n\n")
    (tmp_path / "set" / "lists").mkdir()
    (tmp_path / "set" / "lists" / "val.txt").write_text("images/val/b.png\n")
    made, items = read(tmp_path / "set")
    assert made.classes == ("cat", "dog")
    assert places(items) == [("images/train/a.png", "train"), ("images/val/b.png", "validation")]
    assert places(read(tmp_path / "set" / "data.yaml")[1]) == places(items)


def test_a_listed_image_that_is_not_there(tmp_path):
    write(tmp_path, PLAIN, NAMES | {"train": "train.txt"})
    (tmp_path / "train.txt").write_text("images/train/a.png\nimages/train/c.png\n")
    missing = tmp_path / "images" / "train" / "c.png"
    assert read(tmp_path)[1][1] == IngestFinding(
        "image_missing", "images/train/c.png", f"listed, but {missing} does not exist"
    )


def test_a_path_elsewhere(tmp_path):
    write(tmp_path / "photos", PLAIN)
    write(tmp_path / "about", {}, None)
    (tmp_path / "about").mkdir()
    (tmp_path / "about" / "pets.yaml").write_text(yaml.safe_dump(NAMES | {"path": "../photos"}))
    assert len(read(tmp_path / "about")[1]) == 2


@pytest.mark.parametrize("layout", ["images/{}", "{}/images"])
def test_folders_without_a_yaml_file(tmp_path, layout):
    images = {f"{layout.format(split)}/{split}.png": BOX for split in ("train", "val", "test")}
    write(tmp_path, images)
    with pytest.raises(IngestError, match="set names=first,second"):
        read(tmp_path)
    made, items = read(tmp_path, names="cat, dog")
    assert made.classes == ("cat", "dog")
    assert [one.split for one in items] == ["train", "validation", "test"]
    assert all(len(one.objects.boxes) == 1 for one in items)
    (tmp_path / "classes.txt").write_text("fox\nowl\n\n")
    assert read(tmp_path)[0].classes == ("fox", "owl")


def test_images_with_their_labels_beside_them(tmp_path):
    write(tmp_path, {"a.png": None, "b.png": None})
    (tmp_path / "a.txt").write_text(BOX)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    _, items = read(tmp_path)
    assert places(items) == [("a.png", ""), ("b.png", "")]
    assert [len(one.objects.boxes) for one in items] == [1, 0]


def test_negatives_are_kept(tmp_path):
    write(tmp_path, PLAIN | {"images/train/c.png": None, "images/train/d.png": " \n"}, NAMES)
    items = read(tmp_path)[1]
    assert {one.name: len(one.objects.boxes) for one in items} == {
        "images/train/a.png": 1,
        "images/train/c.png": 0,
        "images/train/d.png": 0,
        "images/val/b.png": 1,
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 0.5 0.5 0.25", "it has 4 values"),
        ("1 0.5 0.5 0.25 0.5 0.9", "it has 6 values"),
        ("1 0.5 0.5 0.25 0.5 0.9 0.1 0.2", "it has 8 values"),
        ("dog 0.5 0.5 0.25 0.5", "a line must consist of numbers, got 'dog 0.5"),
        ("1 0.5 0.5 0,25 0.5", "a line must consist of numbers"),
        ("1.5 0.5 0.5 0.25 0.5", "the class must be an integer, got 1.5"),
        ("inf 0.5 0.5 0.25 0.5", "a line must consist of numbers"),
        ("nan 0.5 0.5 0.25 0.5", "a line must consist of numbers"),
    ],
)
def test_a_line_that_is_no_object(tmp_path, line, words):
    write(tmp_path, PLAIN | {"images/train/a.png": f"{BOX}\n{line}\n0 0.5 0.5 0.25 0.5\n"}, NAMES)
    item = read(tmp_path)[1][0]
    assert item.objects.ids == (1, 3)
    (finding,) = item.findings
    assert (finding.kind, finding.file) == ("annotation_invalid", "images/train/a.png")
    assert finding.detail.startswith("labels/train/a.txt line 2: ")
    assert words in finding.detail


@pytest.mark.parametrize("label", ["2", "-1", "1e9"])
def test_a_class_out_of_range_is_left_to_clean(tmp_path, label):
    write(tmp_path, PLAIN | {"images/train/a.png": f"{label} .5 .5 .2 .2\n0 .5 .5 .2 .2"}, NAMES)
    assert read(tmp_path)[1][0].objects.classes == (-1, 0)


def test_labels_that_are_no_text_cost_their_image(tmp_path):
    write(tmp_path, PLAIN | {"images/train/a.png": b"\xff\xfe\x00"}, NAMES)
    first, second = read(tmp_path)[1]
    assert (first.kind, first.file) == ("label_missing", "images/train/a.png")
    assert second.name == "images/val/b.png"


def test_labels_without_an_image(tmp_path):
    write(tmp_path, PLAIN, NAMES)
    (tmp_path / "labels" / "val" / "c.txt").write_text(BOX)
    (tmp_path / "labels" / "val" / "classes.txt").write_text("cat\ndog\n")
    assert read(tmp_path)[1][2:] == [
        IngestFinding("image_missing", "labels/val/c.txt", "labels of an image that does not exist")
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"names": ["cat"]}, "it needs `names` and `train`"),
        (["cat"], "it needs `names` and `train`"),
        (NAMES | {"names": None}, "`names` must be a list of class names, got None"),
        (NAMES | {"names": {0: "cat", 2: "dog"}}, r"have the keys 0, 1, 2, \.\.\., got 0, 2"),
        (NAMES | {"names": ["cat", "cat"]}, "'cat' appears twice"),
        (NAMES | {"train": "images/absent"}, "names images/absent, but .* does not exist"),
    ],
)
def test_yaml_files_that_are_wrong(tmp_path, data, words):
    write(tmp_path, PLAIN, data)
    with pytest.raises(IngestError, match=words):
        read(tmp_path)


def test_what_is_no_data_set(tmp_path):
    write(tmp_path, {"images/train/a.png": None}, NAMES | {"val": None})
    with pytest.raises(IngestError, match=r"none of the 1 images .*/labels/train/a\.txt"):
        read(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [cat")
    with pytest.raises(IngestError, match="is not YAML"):
        read(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "one.yaml")
    (tmp_path / "two.yaml").write_text("")
    with pytest.raises(IngestError, match=r"has one\.yaml, two\.yaml; use the one"):
        read(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(IngestError, match="has no images"):
        read(empty, names="cat")


def test_through_the_whole_job(tmp_path):
    polygon = "0 0.25 0.5 0.75 0.5 0.75 1.0 0.25 1.0"
    labels = {
        f"images/{split}/{split}{number}.png": f"{polygon}\n1 0 0 .5 0 .5 .5 0 .5\n"
        for split in ("train", "val", "test")
        for number in range(2)
    }
    labels["images/train/bad.png"] = f"{polygon}\n7 0 0 .5 0 .5 .5\n0 2 2 3 2 3 3\n"
    labels["images/train/none.png"] = None
    data = NAMES | {"test": "images/test"}
    write(tmp_path / "in", labels, data)
    info = ingest("yolo", tmp_path / "out", where=tmp_path / "in")
    assert {split: one.examples for split, one in info.splits.items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }
    assert info.masks
    report = json.loads((tmp_path / "out" / features.REPORT_FILE).read_text())
    found = {kind: entry["count"] for kind, entry in report["findings"].items()}
    assert found.pop("grayscale", 8) == 8
    assert found == {"category_unknown": 1, "box_outside": 1, "no_objects": 1}
    made = records_to_coco(tmp_path / "out", "test")
    assert [one["bbox"] for one in made["annotations"]] == [[20, 20, 40, 20], [0, 0, 40, 20]] * 2
    assert [one["area"] for one in made["annotations"]] == [800, 800] * 2
    assert [one["category_id"] for one in made["annotations"]] == [0, 1] * 2
    assert [one["id"] for one in made["annotations"]] == [1, 2, 3, 4]
