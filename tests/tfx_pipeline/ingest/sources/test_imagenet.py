"""ImageNet from folders and tars, labeled by sorted synset."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_pipeline.ingest import IngestError, Request, ingest, jobs
from tfx_pipeline.ingest.findings import IngestFinding
from trainers.data import features
from trainers.data.records_check import shard_files

SYNSETS = ("n02000001", "n02000002", "n02000003")
TWO = "n02000001 a\nn02000002 b"
KERAS = {"0": ["n02000001", "crane"], "1": ["n02000002", "auk"], "2": ["n02000003", "crane"]}


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write(root, names):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(seed))


def add(archive, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def source(path, **options):
    return jobs.get("imagenet")(Request(str(path), path), **options)


def items(path, **options):
    found = source(path, **options).items
    return [
        one if isinstance(one, IngestFinding) else (one.name, one.class_name, one.split)
        for one in found
    ]


def records(folder, split):
    info = features.DatasetInfo.load(folder)
    for file in shard_files(folder, split, info):
        for raw in tf.data.TFRecordDataset(file).as_numpy_iterator():
            yield tf.train.Example.FromString(raw).features.feature


@pytest.mark.shared_data
def test_the_photographs_get_the_labels_of_their_synsets(extract, tmp_path):
    root = extract("imagenet_sample_A")
    info = ingest("imagenet", tmp_path / "out", where=root, split="test")
    with (root / "labels.csv").open(newline="") as lines:
        expected = {row["file"].rpartition("/")[2]: row for row in csv.DictReader(lines)}
    assert len(expected) == 167
    assert info.num_classes == 1000
    assert info.splits["test"].examples == 167
    keras = json.loads((root / "imagenet_class_index.json").read_text())
    for feature in records(tmp_path / "out", "test"):
        name = feature[features.FILENAME].bytes_list.value[0].decode().rpartition("/")[2]
        row = expected.pop(name)
        label = feature[features.LABEL].int64_list.value[0]
        assert label == int(row["class_index"]) + 1
        assert feature[features.SYNSET].bytes_list.value[0].decode() == row["wnid"]
        assert feature[features.WIDTH].int64_list.value[0] == int(row["width"])
        assert info.classes[label - 1].startswith(keras[str(label - 1)][1])
    assert not expected


def test_the_official_tars_without_the_devkit(tmp_path):
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
        for number, synset in enumerate(SYNSETS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for image in range(40):
                    add(archive, f"{synset}_{image}.JPEG", jpeg(100 * number + image))
            add(outer, f"{synset}.tar", inner.getvalue())
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as archive:
        for number in range(1, 5):
            add(archive, f"ILSVRC2012_val_{number:08d}.JPEG", jpeg(1000 + number))
    with tarfile.open(tmp_path / "ILSVRC2012_img_test.tar", "w") as archive:
        add(archive, "test/ILSVRC2012_test_00000001.JPEG", jpeg(2000))
    with pytest.raises(IngestError, match=r"no label for .*val_00000001.*set val_labels="):
        list(source(tmp_path).items)
    labels = tmp_path / "val.txt"
    labels.write_text("\n".join([SYNSETS[2], SYNSETS[0], SYNSETS[0], SYNSETS[1]]) + "\n")
    out = tmp_path / "out"
    info = ingest(
        "imagenet",
        out,
        where=tmp_path,
        options={"val_labels": str(labels)},
        fractions=(0.8, 0.1, 0.1),
    )
    assert info.classes == SYNSETS
    assert info.splits["test"].per_class == dict(zip(SYNSETS, (2, 1, 1), strict=True))
    assert info.splits["train"].examples + info.splits["validation"].examples == 120
    assert info.splits["validation"].examples > 0
    report = json.loads((out / features.REPORT_FILE).read_text())
    (missing,) = report["findings"]["label_missing"]["files"]
    assert missing["detail"].startswith("1 images of a test")
    stored = {bytes(f[features.IMAGE].bytes_list.value[0]) for f in records(out, "test")}
    assert stored == {jpeg(1000 + number) for number in range(1, 5)}


def test_trees_class_lists_and_strangers(tmp_path):
    names = [
        "train/n02000001/n02000001_7.JPEG",
        "train/n02000003/other name.JPEG",
        "val/n02000002/ILSVRC2012_val_00000003.JPEG",
        "train/n02999999/n02999999_1.JPEG",
        "train/unsorted.JPEG",
    ]
    write(tmp_path, names)
    (tmp_path / "imagenet_class_index.json").write_text(json.dumps(KERAS))
    made = source(tmp_path)
    assert made.classes == ("crane (n02000001)", "auk", "crane (n02000003)")
    assert made.fractions[1] / made.fractions[0] == pytest.approx(0.01, abs=0.001)
    assert items(tmp_path) == [
        IngestFinding("label_missing", names[4], "no synset in its path"),
        (names[0], "crane (n02000001)", "train"),
        (names[1], "crane (n02000003)", "train"),
        IngestFinding("label_unknown", names[3], "n02999999 is not in the class list"),
        (names[2], "auk", "test"),
    ]


def test_kaggles_labels_of_flat_validation_images(tmp_path):
    write(tmp_path, ["ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG"])
    write(tmp_path, [f"ILSVRC/Data/CLS-LOC/train/{one}/{one}_1.JPEG" for one in SYNSETS])
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000002,n02000002 1 2 3 4 \n"
        "ILSVRC2012_val_00000001,n02000001 1 2 3 4 n02000003 5 6 7 8 \n"
    )
    (tmp_path / "LOC_synset_mapping.txt").write_text(
        "n02000001 crane, lifting\nn02000002 auk\nn02000003 crane\n"
    )
    assert items(tmp_path)[-1] == (
        "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG",
        "auk",
        "test",
    )


def test_boxes_become_fractions(tmp_path):
    write(tmp_path / "images", [f"train/{one}/{one}_1.JPEG" for one in SYNSETS])
    folder = tmp_path / "boxes" / SYNSETS[0]
    folder.mkdir(parents=True)
    (folder / f"{SYNSETS[0]}_1.xml").write_text(
        "<annotation><size><width>16</width><height>32</height></size><object><name>x</name>"
        "<bndbox><xmin>4</xmin><ymin>8</ymin><xmax>20</xmax><ymax>16</ymax></bndbox></object>"
        "</annotation>"
    )
    (folder.parent / f"{SYNSETS[1]}_1.xml").write_text("<annotation><size>")
    first, second, third = source(tmp_path / "images", boxes=str(tmp_path / "boxes")).items
    assert first.attributes[features.XMIN] == [0.25]
    assert first.attributes[features.XMAX] == [1.0]
    assert first.attributes[features.YMIN] == [0.25]
    assert second.findings[0].kind == "annotation_invalid"
    assert third.attributes[features.XMIN] == []
    with pytest.raises(IngestError, match=r"boxes=.* is not a folder"):
        source(tmp_path / "images", boxes=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, "only images of the synset none"),
        ({"n02000001/n02000001_1.JPEG": ""}, {}, "only images of the synset n02000001"),
        ({"imagenet_class_index.json": "{"}, {}, "is not a class list"),
        ({"imagenet_class_index.json": '{"0": ["n2", "a"], "1": ["n1", "b"]}'}, {}, "in order of"),
        ({"synset_words.txt": "tench\n"}, {}, "is not a class list; expected lines such as"),
        ({"LOC_synset_mapping.txt": TWO}, {"val_labels": "x"}, "not exist"),
        (
            {"LOC_synset_mapping.txt": TWO, "LOC_val_solution.csv": "a\nb"},
            {},
            "line 2 has no synset",
        ),
    ],
)
def test_refusals(tmp_path, files, options, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(IngestError, match=message):
        source(tmp_path, **options)


def test_a_missing_source():
    with pytest.raises(IngestError, match="needs a SOURCE"):
        jobs.get("imagenet")(Request(None, None))
    with pytest.raises(IngestError, match="does not exist; expected"):
        jobs.get("imagenet")(Request("/nowhere/at/all", None))
