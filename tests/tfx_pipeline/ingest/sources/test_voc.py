"""Pascal VOC folders, real and broken ones."""

import json
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest

from tfx_pipeline.ingest import IngestError, Request, ingest
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.masks import encode_gray_png
from tfx_pipeline.ingest.objects import clean
from tfx_pipeline.ingest.sources.voc import source
from trainers.data import features
from trainers.data.coco_format import records_to_coco

HEIGHT, WIDTH = 30, 40


def item_xml(name="cat", box=(1, 2, 11, 22), *, difficult=0, truncated=0):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inside = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return (
        f"<object><name>{name}</name><truncated>{truncated}</truncated>"
        f"<difficult>{difficult}</difficult><bndbox>{inside}</bndbox></object>"
    )


def voc(folder, images=("a", "b"), *, xml=None, lists=None):
    """Writes a VOC folder; `xml` replaces annotation files by stem, None leaves one out."""
    for name in ("JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for place, stem in enumerate(images):
        data = encode_gray_png(np.full((HEIGHT, WIDTH), place, np.uint8))
        (folder / "JPEGImages" / f"{stem}.png").write_bytes(data)
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    texts = dict.fromkeys(images, f"<annotation>{size}{item_xml()}</annotation>") | (xml or {})
    for stem, text in texts.items():
        if text is not None:
            data = text if isinstance(text, bytes) else text.encode()
            (folder / "Annotations" / f"{stem}.xml").write_bytes(data)
    for name, stems in (lists or {}).items():
        (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems) + "\n")


def read(folder, **options):
    made = source(Request(str(folder), folder), **options)
    return made, list(made.items)


def test_objects_and_flags(tmp_path):
    objects = item_xml("dog", (1.5, 2, 3, 4), difficult=1) + item_xml("cat", truncated=1)
    voc(tmp_path, ("a",), xml={"a": f"<annotation>{objects}</annotation>"})
    made, (item,) = read(tmp_path)
    assert (made.task, made.classes, made.masks) == ("detection", ("cat", "dog"), False)
    assert (item.name, item.split) == ("JPEGImages/a.png", "")
    assert item.attributes == {features.SOURCE_ID: ["a"]}
    assert item.objects.boxes == ((1.5, 2, 3, 4), (1, 2, 11, 22))
    assert item.objects.classes == (1, 0)
    assert item.objects.ids == (0, 1)
    assert item.objects.flags == {features.DIFFICULT: (1, 0), features.TRUNCATED: (0, 1)}


def test_declared_sizes(tmp_path):
    none = "<annotation><size><width>0</width><height>0</height></size></annotation>"
    text = none.replace("0", "many")
    voc(tmp_path, ("a", "b", "c"), xml={"b": none, "c": text})
    _, items = read(tmp_path)
    assert items[0].attributes[features.HEIGHT] == [HEIGHT]
    assert items[0].attributes[features.WIDTH] == [WIDTH]
    assert [features.HEIGHT in one.attributes for one in items] == [True, False, False]


def test_splits_are_those_of_the_lists(tmp_path):
    lists = {"train": ["a"], "val": ["b  1"], "trainval": ["a", "b", "c"], "test": ["", "d"]}
    voc(tmp_path, tuple("abcde"), lists=lists)
    made, items = read(tmp_path)
    assert [(one.attributes[features.SOURCE_ID][0], one.split) for one in items] == [
        ("a", "train"),
        ("b", "validation"),
        ("c", ""),
        ("d", "test"),
    ]
    assert made.description.endswith("of 5 those in its lists")


def test_an_image_to_evaluate_on_is_not_trained_on(tmp_path):
    voc(tmp_path, lists={"train": ["a", "b"], "test": ["b"]})
    with pytest.raises(IngestError, match="has b in both the train and the test list"):
        read(tmp_path)


@pytest.mark.parametrize("below", ["VOC2007", "VOCdevkit/VOC2007"])
def test_folders_one_or_two_levels_down(tmp_path, below):
    voc(tmp_path / below)
    voc(tmp_path / below.replace("2007", "2012"))
    names = [one.name for one in read(tmp_path)[1]]
    assert names[0] == f"{below}/JPEGImages/a.png"
    assert len(names) == 4


def test_given_classes_decide(tmp_path):
    voc(tmp_path, ("a",), xml={"a": f"<annotation>{item_xml('dog')}{item_xml()}</annotation>"})
    made, (item,) = read(tmp_path, classes="fox, cat")
    assert made.classes == ("fox", "cat")
    assert item.objects.classes == (1,)
    assert [(one.kind, one.level) for one in item.findings] == [("class_left_out", "note")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no a.xml"),
        ("", "a.xml: no element found"),
        ("<annotation><object>", "a.xml: no element found"),
        ("<annotation></object></annotation>", "a.xml: mismatched tag"),
        ("<html></html>", "a.xml is <html>, not <annotation>"),
        ('<!DOCTYPE annotation [<!ENTITY x "y">]><annotation>&x;</annotation>', "DOCTYPE"),
        ("<!DOCTYPE annotation><annotation/>".encode("utf-16"), "DOCTYPE"),
        ("<annotation>&x;</annotation>", "a.xml: undefined entity"),
        (b"<?xml version='1.0' encoding='none-such'?><annotation/>", "a.xml: unknown encoding"),
        (b"<annotation>\xff</annotation>", "a.xml: not well-formed"),
    ],
)
def test_xml_that_is_no_annotation_costs_the_image_only(tmp_path, text, words):
    voc(tmp_path, xml={"a": text})
    first, second = read(tmp_path)[1]
    assert (first.kind, first.file) == ("label_missing", "JPEGImages/a.png")
    assert words in first.detail
    assert second.name == "JPEGImages/b.png"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<object><name>cat</name></object>", "a.xml: object 0 (cat) has no complete bndbox"),
        (item_xml(box=(1, 2, "", 4)), "object 0 (cat) has no complete bndbox"),
        (item_xml(box=(1, 2, "three", 4)), "object 0 (cat) has no complete bndbox"),
        (item_xml(name=" "), "object 0 has no name"),
    ],
)
def test_an_object_that_is_none(tmp_path, text, words):
    voc(tmp_path, ("a",), xml={"a": f"<annotation>{text}{item_xml()}</annotation>"})
    (item,) = read(tmp_path)[1]
    assert item.objects.ids == (1,)
    assert [(one.kind, one.file) for one in item.findings] == [
        ("annotation_invalid", "JPEGImages/a.png")
    ]
    assert words in item.findings[0].detail


def test_what_has_no_image(tmp_path):
    voc(tmp_path, ("a",), xml={"b": f"<annotation>{item_xml()}</annotation>"})
    assert read(tmp_path)[1][1] == IngestFinding(
        "image_missing", "Annotations/b.xml", "there is no image with this name"
    )
    voc(tmp_path, ("a",), lists={"train": ["a", "c"]})
    absent = tmp_path / "JPEGImages" / "c"
    assert read(tmp_path)[1][1] == IngestFinding(
        "image_missing",
        "JPEGImages/c",
        f"listed in ImageSets/Main, but there is no {absent}.jpg or the like",
    )


def test_folders_that_are_no_voc(tmp_path):
    with pytest.raises(IngestError, match="has no JPEGImages folder; expected a Pascal VOC folder"):
        read(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(IngestError, match="has JPEGImages but no Annotations"):
        read(tmp_path)
    voc(tmp_path, xml={"a": "<annotation/>", "b": "<annotation/>"})
    with pytest.raises(IngestError, match="no XML file with an object"):
        read(tmp_path)
    (tmp_path / "JPEGImages" / "a.jpg").write_bytes(b"")
    with pytest.raises(IngestError, match="have the same annotation file"):
        read(tmp_path)


def test_semantic_masks(tmp_path):
    voc(tmp_path)
    (tmp_path / "SegmentationClass").mkdir()
    stored = np.resize(np.array([0, 1, 20, 255], np.uint8), (HEIGHT, WIDTH))
    (tmp_path / "SegmentationClass" / "a.png").write_bytes(encode_gray_png(stored))
    (tmp_path / "SegmentationClass" / "b.png").write_bytes(b"no image")
    first, second = read(tmp_path, semantic=True)[1]
    expected = encode_gray_png(np.where(stored == 255, 0, stored).astype(np.uint8))
    assert first.attributes[features.SEMANTIC] == [expected]
    assert [one.kind for one in second.findings] == ["mask_invalid"]
    assert features.SEMANTIC not in read(tmp_path)[1][0].attributes


@pytest.mark.shared_data
def test_blood_cells_as_published(extract, tmp_path):
    """Counts of README: 4,888 boxes, of which two have no area and are named."""
    folder = extract("bccd_voc")
    made, items = read(folder)
    assert made.classes == ("Platelets", "RBC", "WBC")
    assert Counter(one.split for one in items) == {"train": 205, "validation": 87, "test": 72}
    counts = Counter(made.classes[label] for one in items for label in one.objects.classes)
    assert counts == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    found = [
        finding
        for one in items
        for finding in clean(one.objects, height=480, width=640, name=one.name, num_classes=3)[1]
    ]
    assert [(one.kind, one.file) for one in found] == [
        ("box_empty", "BCCD/JPEGImages/BloodImage_00338.jpg"),
        ("box_empty", "BCCD/JPEGImages/BloodImage_00343.jpg"),
    ]


@pytest.mark.shared_data
def test_blood_cells_through_the_whole_job(extract, tmp_path):
    """Every box compared with the XML files, read independently."""
    folder = extract("bccd_voc")
    info = ingest("voc", tmp_path / "out", where=folder)
    assert sum(one.objects for one in info.splits.values()) == 4886
    assert (info.rejected, info.repaired) == (0, 2)
    report = json.loads((tmp_path / "out" / features.REPORT_FILE).read_text())
    assert [one["file"][-9:-4] for one in report["findings"]["box_empty"]["files"]] == [
        "00338",
        "00343",
    ]
    made = records_to_coco(tmp_path / "out")
    names = {one["id"]: one["name"] for one in made["categories"]}
    files = {one["id"]: one["file_name"].rpartition("/")[2] for one in made["images"]}
    got = Counter()
    for one in made["annotations"]:
        x, y, width, height = (round(value) for value in one["bbox"])
        np.testing.assert_allclose(one["bbox"], [x, y, width, height], atol=1e-4)
        key = (files[one["image_id"]], names[one["category_id"]])
        got[(*key, x, y, x + width, y + height)] += 1
    expected = Counter()
    for path in (folder / "BCCD" / "Annotations").glob("*.xml"):
        top = ElementTree.parse(path).getroot()
        for one in top.iter("object"):
            box = [int(one.find("bndbox").find(side).text) for side in ("xmin", "ymin")]
            box += [int(one.find("bndbox").find(side).text) for side in ("xmax", "ymax")]
            if box[0] < box[2] and box[1] < box[3]:
                expected[(f"{path.stem}.jpg", one.find("name").text, *box)] += 1
    assert got == expected
