"""Names of splits, in every job that reads folders, lists, keys or columns."""

import json

import numpy as np
import pytest
from PIL import Image

from tfx_pipeline.ingest import IngestError, Request, jobs
from tfx_pipeline.ingest.split_words import split_in_name, split_of_word
from tfx_pipeline.ingest.tfrecord import adopt

SPELLINGS = {
    "train": (
        "train",
        "TRAIN",
        "Training",
        "training_set",
        "training-set",
        "Train_Data",
        "train2017",
    ),
    "validation": (
        "val",
        "Valid",
        "validation",
        "VALIDATION",
        "val_set",
        "dev",
        "eval",
        "valid2012",
    ),
    "test": ("test", "Testing", "TEST", "test_set", "test-images", "testset", "test_2015"),
}
EVERY = [(word, split) for split, words in SPELLINGS.items() for word in words]


def image(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(path)


def read(job, where, **options):
    work = where.parent / "work" if where.is_file() else where / "work"
    source = jobs.get(job)(Request(str(where), work), **options)
    return source, list(source.items)


@pytest.mark.parametrize(("word", "split"), EVERY)
def test_every_spelling(word, split):
    assert split_of_word(word) == split


@pytest.mark.parametrize(
    "word", ["", "cat", "latest", "strain", "valley", "contest", "1", "tests1"]
)
def test_words_that_are_no_split(word):
    assert split_of_word(word) is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-01024", "train"),
        ("mnist-train.tfrecord-00000-of-00001", "train"),
        ("Validation/part_0.record", "validation"),
        ("own-dev.tfrecord-00000-of-00001", "validation"),
        # The name of the file has precedence over the name of its folder.
        ("test_bench/train-00000-of-00001", "train"),
        ("trainset/a.tfrecord", "train"),
        ("latest/a.tfrecord", None),
    ],
)
def test_words_within_names(name, split):
    assert split_in_name(name) == split


@pytest.mark.parametrize("words", [("Training", "Testing"), ("train_set", "valid", "TEST")])
def test_split_folders(tmp_path, words):
    for word in words:
        for level, name in enumerate(("cat", "dog")):
            image(tmp_path / word / name / f"{word}.png", level)
    source, items = read("folder", tmp_path)
    assert source.classes == ("cat", "dog")
    assert {one.name.split("/")[0]: one.split for one in items} == {
        word: split_of_word(word) for word in words
    }


def test_a_folder_with_a_test_split_alone(tmp_path):
    for name in ("cat", "dog"):
        image(tmp_path / "test" / name / "a.png")
    assert {one.split for one in read("folder", tmp_path)[1]} == {"test"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("Fold A/cat/a.png", "Fold A/dog/a.png", "Fold B/cat/b.png", "Fold B/dog/b.png"), "mean"),
        (("cat/train/a.png", "cat/test/b.png", "dog/train/c.png", "dog/test/d.png"), "mean splits"),
        (
            ("train/cat/x/a.png", "train/cat/y/b.png", "train/dog/x/c.png", "train/dog/y/d.png"),
            "mean",
        ),
        (("Train/cat/a.png", "train/cat/a.png", "train/dog/a.png"), "both Train and train"),
        (("train/cat/a.png", "train/dog/a.png", "extra/cat/a.png"), r"\(train\) and extra"),
    ],
)
def test_folders_that_hide_splits_are_refused(tmp_path, files, message):
    for file in files:
        image(tmp_path / file)
    with pytest.raises(IngestError, match=message):
        read("folder", tmp_path)


def test_folders_within_classes_that_are_no_splits(tmp_path):
    for file in ("cat/images/a.png", "dog/images/b.png"):
        image(tmp_path / file)
    assert len(read("folder", tmp_path)[1]) == 2
    for file in ("cat/2020/a.png", "dog/2020/b.png"):
        image(tmp_path / file)
    with pytest.raises(IngestError, match="nested=true"):
        read("folder", tmp_path)
    assert len(read("folder", tmp_path, nested=True)[1]) == 4


@pytest.mark.parametrize(("word", "split"), EVERY)
def test_a_column_of_a_table(tmp_path, word, split):
    image(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(f"file,label,Split\na.png,x,{word}\na.png,y,\n")
    assert [one.split for one in read("csv", tmp_path / "t.csv")[1]] == [split, ""]


def test_lists_of_voc(tmp_path):
    xml = "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax>"
    for stem in "abc":
        image(tmp_path / "JPEGImages" / f"{stem}.png")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(
            f"{xml}<ymax>3</ymax></bndbox></object></annotation>"
        )
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for word, stem in (("Training", "a"), ("valid", "b"), ("TEST", "c")):
        (lists / f"{word}.txt").write_text(f"{stem}\n")
    (lists / "cat_train.txt").write_text("a 1\nb -1\n")
    splits = {one.name[-5]: one.split for one in read("voc", tmp_path)[1]}
    assert splits == {"a": "train", "b": "validation", "c": "test"}


@pytest.mark.parametrize("layout", ["yaml", "images/{}", "{}/images"])
def test_yolo(tmp_path, layout):
    lines = ["names: [cat]"]
    for word in ("Training", "dev", "test_set"):
        folder = (layout if layout != "yaml" else "images/{}").format(word)
        image(tmp_path / folder / f"{word}.png")
        label = tmp_path / folder.replace("images", "labels") / f"{word}.txt"
        label.parent.mkdir(parents=True)
        label.write_text("0 .5 .5 .5 .5\n")
        lines.append(f"{word}: {folder}")
    if layout == "yaml":
        (tmp_path / "data.yaml").write_text("\n".join(lines))
    items = read("yolo", tmp_path, names="cat")[1]
    assert [one.split for one in items] == ["train", "validation", "test"]
    if layout == "images/{}":
        image(tmp_path / "images" / "rest" / "a.png")
        with pytest.raises(IngestError, match="rest, which is in none"):
            read("yolo", tmp_path, names="cat")


def instances(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 4, "height": 4}],
        "annotations": [{"id": 1, "image_id": number, "category_id": 1, "bbox": [0, 0, 2, 3]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path.write_text(json.dumps(content))


def coco(where, **options):
    (where / "work").mkdir(exist_ok=True)
    (where / "work" / "coco.sqlite").unlink(missing_ok=True)
    source = jobs.get("coco")(Request(str(where), where / "work"), **options)
    return {one.attributes["image/source_id"][0]: one.split for one in source.items}


def test_coco_as_roboflow_exports_it(tmp_path):
    for number, word in enumerate(("train", "valid", "test")):
        instances(tmp_path / word / "_annotations.coco.json", number)
        image(tmp_path / word / f"{number}.png", number)
    assert coco(tmp_path) == {"0": "train", "1": "validation", "2": "test"}
    assert coco(tmp_path, only="valid") == {"1": "validation"}
    one = {"annotations": str(tmp_path / "valid" / "_annotations.coco.json")}
    assert coco(tmp_path, images=str(tmp_path / "valid"), **one) == {"1": "validation"}


def test_coco_with_three_labeled_splits(tmp_path):
    for number, word in enumerate(("training", "val", "test")):
        instances(tmp_path / "annotations" / f"instances_{word}.json", number)
        image(tmp_path / word / f"{number}.png", number)
    assert coco(tmp_path) == {"0": "train", "1": "validation", "2": "test"}


def shard(path, label):
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x%d" % label])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    with tf.io.TFRecordWriter(str(path)) as writer:
        example = tf.train.Example(features=tf.train.Features(feature=values))
        writer.write(example.SerializeToString())


def test_shards(tmp_path):
    for word in ("Training", "dev", "Testing"):
        shard(tmp_path / "in" / f"{word}-00000-of-00001", 0)
    info = adopt(tmp_path / "in", tmp_path / "out")
    assert {name: one.examples for name, one in info.splits.items()} == dict.fromkeys(
        ("train", "validation", "test"), 1
    )
    shard(tmp_path / "in" / "extra-00000-of-00001", 0)
    with pytest.raises(IngestError, match=r"extra-00000-of-00001 has no name of a split"):
        adopt(tmp_path / "in", tmp_path / "out2")


@pytest.mark.parametrize(
    ("labels", "classes", "offset"),
    [
        ((0, 3), "", 0),
        ((1, 3), "", 1),
        ((5, 9), "", None),
        ((1, 2), "a b", 1),
        ((1, 2), "a b c", None),
    ],
)
def test_labels_that_do_not_say_where_they_start(tmp_path, labels, classes, offset):
    for number, label in enumerate(labels):
        shard(tmp_path / "in" / f"train-{number:05d}-of-00002", label)
    options = {}
    if classes:
        (tmp_path / "names.txt").write_text(classes.replace(" ", "\r\n"), encoding="utf-16")
        options = {"classes": str(tmp_path / "names.txt")}
    if offset is None:
        with pytest.raises(IngestError, match="set label_offset=0 or label_offset=1"):
            adopt(tmp_path / "in", tmp_path / "out", options=options)
        options["label_offset"] = 0
    info = adopt(tmp_path / "in", tmp_path / "out", options=options)
    assert info.label_offset == (offset or 0)
