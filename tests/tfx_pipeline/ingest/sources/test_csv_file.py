"""Images listed in a table."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_pipeline.ingest import IngestError, Request, ingest, jobs
from trainers.data import features
from trainers.data.records_check import shard_files


def table(folder, text):
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def source(path, **options):
    return jobs.get("csv")(Request(str(path), path.parent), **options)


@pytest.mark.shared_data
def test_attributes_of_faces_become_slices(extract, tmp_path):
    path = extract("fairface_A") / "labels.csv"
    info = ingest("csv", tmp_path / "out", where=path, options=["label=gender", "slices=race,age"])
    assert info.classes == ("Female", "Male")
    assert info.slices == (*features.SLICES, "slice/race", "slice/age")
    rows = {line.split(",")[0]: line.split(",") for line in path.read_text().splitlines()[1:]}
    columns = path.read_text().splitlines()[0].split(",")
    seen = 0
    for split in features.SPLITS:
        for file in shard_files(tmp_path / "out", split, info):
            for raw in tf.data.TFRecordDataset(file).as_numpy_iterator():
                feature = tf.train.Example.FromString(raw).features.feature
                row = rows[feature[features.FILENAME].bytes_list.value[0].decode()]
                for key, column in (("slice/race", "race"), (features.TEXT, "gender")):
                    expected = row[columns.index(column)].encode()
                    assert feature[key].bytes_list.value[0] == expected
                seen += 1
    assert seen == 500


def test_missing_labels_and_images_are_named_and_splits_taken(tmp_path):
    for number in range(3):
        pixels = np.full((4, 4, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    path = table(
        tmp_path,
        "file,label,split\n0.png,10,train\n1.png,9,Val\n2.png,,test\nabsent.png,9,test\n",
    )
    found = source(path)
    assert found.classes == ("9", "10")
    items = list(found.items)
    assert [(one.name, one.class_name, one.split) for one in items[:2]] == [
        ("0.png", "10", "train"),
        ("1.png", "9", "validation"),
    ]
    assert [(one.kind, one.file, one.detail) for one in items[2:]] == [
        ("label_missing", "2.png", "labels.csv line 4"),
        (
            "image_missing",
            "absent.png",
            f"labels.csv line 5: {tmp_path / 'absent.png'} does not exist",
        ),
    ]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,label\na.png,x\n", {}, r"no column 'file', it has path, label; choose the columns"),
        ("file,label\na.png,x\n", {"slices": "age"}, "no column 'age'"),
        ("file,label\na.png,x\nb.png,x\n", {}, "1 classes in its column 'label'"),
        ("", {}, "no column"),
    ],
)
def test_refusals(tmp_path, text, options, message):
    with pytest.raises(IngestError, match=message):
        source(table(tmp_path, text), **options)
    with pytest.raises(IngestError, match="is not a file"):
        source(tmp_path / "nowhere.csv")


def test_words_that_are_no_split_are_not_trained_on(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    for word, expected in (("valid", "validation"), ("DEV", "validation"), ("", "")):
        path = table(tmp_path, f"file,label,split\na.png,x,{word}\na.png,y,test\n")
        assert next(iter(source(path).items)).split == expected
    path = table(tmp_path, "file,label,split\na.png,x,holdout\na.png,y,test\n")
    with pytest.raises(IngestError, match=r"labels\.csv line 2: unknown split 'holdout'"):
        list(source(path).items)
    with pytest.raises(IngestError, match="no column 'phase'"):
        source(path, split="phase")
    path.write_bytes("file,label\na.png,caf\u00e9\n".encode("cp1252"))
    with pytest.raises(IngestError, match="line 2 is not UTF-8 text: byte 20 is 0xe9"):
        source(path)


def test_unknown_options_name_the_nearest(tmp_path):
    path = table(tmp_path, "file,label\n")
    with pytest.raises(IngestError, match=r"`csv` has no option 'slice'.*slices"):
        ingest("csv", tmp_path / "out", where=path, options=["slice=age"])
    with pytest.raises(IngestError, match="not `key=value`"):
        ingest("csv", tmp_path / "out", where=path, options=["age"])
    with pytest.raises(IngestError, match="download takes true or false, got 'maybe'"):
        ingest("tfds", tmp_path / "out", where="mnist", options=["download=maybe"])
    assert json.loads(json.dumps(sorted(one.name for one in tmp_path.iterdir()))) == ["labels.csv"]
