"""Objects in the formats of labeling tools are read correctly or rejected with a reason."""

import json
import struct

import numpy as np
import pytest
from PIL import Image

from tfx_pipeline.ingest import IngestError, Item, Request, ingest, jobs
from trainers.data import features

SPLIT_DATA = "train: images/train\nval: images/val\n"


def image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def read(job, where, **options):
    return jobs.get(job)(Request(str(where), where if where.is_dir() else where.parent), **options)


def listed(source):
    """(name, class, split) of each item, and (kind, file) of each finding."""
    every = list(source.items)
    items = [one for one in every if isinstance(one, Item)]
    found = [(one.kind, one.file) for one in every if not isinstance(one, Item)]
    found += [(one.kind, one.file) for item in items for one in item.findings]
    return [(one.name, one.class_name, one.split) for one in items], found


def write(folder, text, name="labels.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def yolo(root, names="names: [a, b]\n", line="0 0.5 0.5 0.4 0.4", suffix="png", count=4):
    for at in range(count):
        split = "val" if at == count - 1 else "train"
        image(root / "images" / split / f"{at}.{suffix}", at)
        label = root / "labels" / split / f"{at}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(line + "\n")
    (root / "data.yaml").write_text(names if "train:" in names else SPLIT_DATA + names)


def _bomb(key):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]" for at in range(1, 9)]
    return "\n".join([*lines, f"{key}: *a8", ""])


@pytest.mark.parametrize("key", ["names", "path", "nc", "kpt_shape", "test"])
def test_yaml_whose_aliases_explode_is_refused_at_once(tmp_path, key):
    yolo(tmp_path, (SPLIT_DATA + "names: [a, b]\n" if key != "names" else SPLIT_DATA) + _bomb(key))
    with pytest.raises(IngestError, match="expands to over 100,000 values") as caught:
        read("yolo", tmp_path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("names: [a, a]\n", "'a' appears twice"),
        (f"names: [[{'x' * 5000}]]\n", "must be a list of class names, got .{,210}$"),
        (
            "train: [[images/train]]\nnames: [a]\n",
            "a split must be a folder, a list file or a list",
        ),
        ("train: images/train\nval: ../valid/images\nnames: [a]\n", "correct or remove that line"),
        ("names: !!python/object/apply:os.system [x]\n", "must be a list of class names|one class"),
    ],
)
def test_yaml_files_that_are_refused(tmp_path, names, message):
    yolo(tmp_path, names)
    if "apply" in names:
        assert read("yolo", tmp_path).classes == ("x",)  # The tag is only text.
        return
    with pytest.raises(IngestError, match=message):
        read("yolo", tmp_path)


def test_folders_of_the_machine_that_wrote_the_yaml(tmp_path):
    head = "path: D:\\data\ntrain: D:\\data\\images\\train\nval: /content/data/images/val\n"
    yolo(tmp_path, head + "names: [a, b]\n")
    splits = [split for _, _, split in listed(read("yolo", tmp_path))[0]]
    assert splits == ["train"] * 3 + ["validation"]


@pytest.mark.parametrize("suffix", ["JPG", "jfif", "avif", "heic", "jp2"])
def test_images_of_any_ending_are_seen(tmp_path, suffix):
    yolo(tmp_path, suffix=suffix)
    assert len(listed(read("yolo", tmp_path))[0]) == 4


def test_boxes_that_are_corners(tmp_path):
    yolo(tmp_path, line="0 0.3 0.3 0.9 0.8")
    with pytest.raises(IngestError, match=r"look like corners .*0 0\.3 0\.3 0\.9 0\.8"):
        read("yolo", tmp_path)
    # A box that is not a pair of corners, and one inside the image.
    (tmp_path / "labels" / "train" / "0.txt").write_text("0 0.8 0.8 0.3 0.3\n")
    read("yolo", tmp_path)
    yolo(tmp_path / "in", line="0 0.4 0.4 0.5 0.5")
    read("yolo", tmp_path / "in")


def test_labels_in_capitals_and_lists_with_gaps(tmp_path):
    yolo(tmp_path)
    label = tmp_path / "labels" / "train" / "0.txt"
    label.rename(label.with_suffix(".TXT"))
    source = read("yolo", tmp_path)
    assert all(one.objects.boxes for one in source.items)
    (tmp_path / "data.yaml").unlink()
    write(tmp_path, "a\n\nb\n", "classes.txt")
    with pytest.raises(IngestError, match=r"classes\.txt line 2 is empty"):
        read("yolo", tmp_path)
    write(tmp_path, "a\nb\n\n\n", "classes.txt")
    assert read("yolo", tmp_path).classes == ("a", "b")


def voc(root, **lists):
    for at, stem in enumerate(("cafe\u0301", "p1", "p2")):
        image(root / "JPEGImages" / f"{stem}.png", at)
        box = "<xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax>"
        one = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
        (root / "Annotations").mkdir(exist_ok=True)
        write(root / "Annotations", f"<annotation>{one}</annotation>", f"{stem}.xml")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, text in lists.items():
        write(root / "ImageSets" / "Main", text, f"{name}.txt")


def test_lists_of_voc(tmp_path):
    voc(tmp_path, train="caf\u00e9\nP1.PNG\n", cat_train="p2 1\n", all="p1\n")
    assert len(listed(read("voc", tmp_path))[0]) == 2
    write(tmp_path / "ImageSets" / "Main", "p2\n", "holdout.txt")
    with pytest.raises(IngestError, match=r"holdout\.txt lists 1 images .* e\.g\. p2"):
        read("voc", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmin>1<", "<xmin>1,5<", r"object 0 \(cat\) has no complete bndbox"),
        ("<annotation>", "<!DOCTYPE a><annotation>", "a DOCTYPE is not allowed"),
    ],
)
def test_xml_without_an_object_is_named(tmp_path, old, new, message):
    voc(tmp_path)
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(IngestError, match=f"no XML file with an object, e.g. .*{message}"):
        read("voc", tmp_path)


def coco(root, name, file, **more):
    image(root / "images" / file, 1)
    one = {"id": 1, "file_name": name, "width": 8, "height": 8, **more}
    note = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "iscrowd": 0}
    found = {"images": [one], "annotations": [note], "categories": [{"id": 1, "name": "cat"}]}
    (root / "work").mkdir()
    write(root, json.dumps(found), "a.json")
    options = {"annotations": str(root / "a.json"), "images": str(root / "images")}
    return jobs.get("coco")(Request(None, root / "work"), **options)


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("p.jpg", "p.jpg", None),
        ("P.JPG", "sub/p.jpg", "spelling_differs"),
        ("caf\u00e9.png", "cafe\u0301.png", "spelling_differs"),
        ("a%20b.png", "a b.png", "spelling_differs"),
        ("https://x.org/y/p.jpg?size=2", "p.jpg", "spelling_differs"),
        ("..\\4\\p.jpg", "sub/p.jpg", "image_by_name"),
        ("q.jpg", "p.jpg", "image_missing"),
    ],
)
def test_images_of_coco_are_found(tmp_path, name, file, kind):
    items, found = listed(coco(tmp_path, name, file))
    assert [one for one, _ in found] == ([kind] if kind else [])
    assert len(items) == (kind != "image_missing")


def test_a_size_of_0_is_unknown(tmp_path):
    (item,) = coco(tmp_path, "p.png", "p.png", width=0, height=0).items
    assert features.HEIGHT not in item.attributes


def idx(folder, stem, labels, *, order=">"):
    labels = np.asarray(labels, np.uint8)
    pixels = np.arange(len(labels) * 4, dtype=np.uint8).reshape(-1, 2, 2)
    head = bytes((0, 0, 8, 3)) + struct.pack(f"{order}3I", *pixels.shape)
    write(folder, head + pixels.tobytes(), f"{stem}-images-idx3-ubyte")
    head = bytes((0, 0, 8, 1)) + struct.pack(">I", len(labels))
    write(folder, head + labels.tobytes(), f"{stem}-labels-idx1-ubyte")


def test_idx_files(tmp_path):
    idx(tmp_path, "emnist-letters-train", [1, 2, 3])
    source = read("idx", tmp_path)
    assert source.classes == ("1", "2", "3")  # There is no class 0 without images.
    items, found = listed(source)
    assert [name for _, name, _ in items] == ["1", "2", "3"]
    assert found == [("maybe_transposed", "emnist-letters-train-images-idx3-ubyte")]
    assert not listed(read("idx", tmp_path, transposed=True))[1]
    with pytest.raises(IngestError, match="labels from 1 to 3, but classes= has 3 names"):
        read("idx", tmp_path, classes="a,b,c")
    idx(tmp_path, "emnist-letters-test", [1, 2])
    assert len(listed(read("idx", tmp_path))[0]) == 5
    idx(tmp_path, "emnist-digits-train", [0, 1])
    with pytest.raises(IngestError, match="files of several data sets, emnist-digits"):
        read("idx", tmp_path)


def test_idx_files_in_the_wrong_byte_order(tmp_path):
    idx(tmp_path, "train", [1, 2, 3], order="<")
    with pytest.raises(IngestError, match=r"little-endian order \(3 x 2 x 2\)"):
        list(read("idx", tmp_path).items)


@pytest.mark.parametrize(("lost", "passes"), [(4, True), (5, False)])
def test_a_fifth_of_the_objects_may_be_repaired_and_no_more(tmp_path, lost, passes):
    lines = ["0 0.5 0.5 0.4 0.4"] * 20
    for at in range(20):
        image(tmp_path / "images" / f"{at}.png", at)
        (tmp_path / "labels").mkdir(exist_ok=True)
        # Half outside: clipped, and kept.
        line = "0 0.9 0.5 0.4 0.4" if at < lost else lines[at]
        write(tmp_path / "labels", line, f"{at}.txt")
    if passes:
        info = ingest("yolo", tmp_path / "out", where=tmp_path, options=["names=a"])
        assert sum(one.objects for one in info.splits.values()) == 20
        return
    with pytest.raises(IngestError, match=r"5 of 20 objects .* more than 20%"):
        ingest("yolo", tmp_path / "out", where=tmp_path, options=["names=a"])
