"""Text files from Windows, for every kind of file that a job reads."""

import codecs
import json

import numpy as np
import pytest
from PIL import Image

from tfx_pipeline.ingest import IngestError, Request, jobs
from tfx_pipeline.ingest.sources.json_stream import Document, read_list
from tfx_pipeline.ingest.text_files import decode, read_lines, xml_as_utf8

ENCODINGS = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 the other way": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16-le without a mark": lambda text: text.encode("utf-16-le"),
    "utf-16-be without a mark": lambda text: text.encode("utf-16-be"),
}
encoded = pytest.mark.parametrize("encode", ENCODINGS.values(), ids=list(ENCODINGS))


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)


def read(job, where, work, **options):
    source = jobs.get(job)(Request(str(where), work), **options)
    return source, list(source.items)


@encoded
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists(tmp_path, encode, end):
    (tmp_path / "list.txt").write_bytes(encode(end.join(["caf\u00e9 1.jpg", "", " b.jpg ", ""])))
    assert read_lines(tmp_path / "list.txt") == ["caf\u00e9 1.jpg", "b.jpg"]


def test_what_is_no_unicode_is_refused():
    with pytest.raises(
        IngestError, match=r"a\.txt line 1 is not UTF-8 text: byte 3 is 0xe9 \('é' in"
    ):
        decode("caf\u00e9".encode("cp1252"), "a.txt")
    assert decode(b"one \0 in it", "a.txt") == "one \0 in it"


@encoded
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_tables(tmp_path, encode, separator):
    image(tmp_path / "img" / "a b.png")
    rows = [
        ["name", "file", "label"],
        ["x, y", "img\\a b.png", "caf\u00e9"],
        ["z", "img/a b.png", "tea"],
    ]
    lines = [separator.join(f'"{cell}"' if "," in cell else cell for cell in row) for row in rows]
    (tmp_path / "t.csv").write_bytes(encode("\r\n".join(lines) + "\r\n"))
    source, items = read("csv", tmp_path / "t.csv", tmp_path)
    assert source.classes == ("caf\u00e9", "tea")
    assert [one.name for one in items] == ["img/a b.png"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label,label\na,b,c\n", "has the column 'label' twice"),
        ("file,label\na.png,x,y\n", r"line 2 has 3 cells for 2 columns"),
        (
            'file,label\na.png,"two\nlines"\nb.png,c\n',
            r"line 2: the class name 'two\\nlines' contains",
        ),
        ("file,label\na.png,Cat\nb.png,cat\n", "'Cat' and 'cat' differ only in case"),
        ("file,label\na.png,1\nb.png,1.0\nc.png,2\n", "'1' and '1.0' are the same number"),
    ],
)
def test_tables_that_are_wrong(tmp_path, text, message):
    (tmp_path / "t.csv").write_bytes(text.encode())
    with pytest.raises(IngestError, match=message):
        read("csv", tmp_path / "t.csv", tmp_path)


def test_excels_hint_and_numbers(tmp_path):
    image(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("sep=;\nfile;label\na.png;10.0\na.png;9.0\na.png;1e1x\n"[:-11])
    source, _ = read("csv", tmp_path / "t.csv", tmp_path)
    assert source.classes == ("9.0", "10.0")


@encoded
def test_json(tmp_path, encode):
    content = {"wanted": [{"id": 1, "name": "caf\u00e9"}, {"id": 2, "name": "x" * 9000}]}
    (tmp_path / "a.json").write_bytes(encode(json.dumps(content, ensure_ascii=False)))
    assert list(read_list(Document(tmp_path / "a.json"), "wanted")) == content["wanted"]


@encoded
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="utf-8"?>\r\n'])
def test_voc(tmp_path, encode, declared):
    for stem in ("IMG (1)", "IMG (2)", "IMG_3"):
        image(tmp_path / "JPEGImages" / f"{stem}.png")
        xml = (
            f"{declared}<annotation><size><width>60</width><height>40</height></size><object>"
            "<name>caf\u00e9</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax>"
            "<ymax>30</ymax></bndbox></object></annotation>"
        )
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{stem}.xml").write_bytes(encode(xml))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes(encode("IMG (1)\r\nJPEGImages\\IMG (2).png\r\n"))
    (lists / "val.txt").write_bytes(encode("img_3.PNG\r\n"))
    source, items = read("voc", tmp_path, tmp_path)
    assert source.classes == ("caf\u00e9",)
    assert [(one.name, one.split) for one in items] == [
        ("JPEGImages/IMG (1).png", "train"),
        ("JPEGImages/IMG (2).png", "train"),
        ("JPEGImages/IMG_3.png", "validation"),
    ]


def test_xml_in_a_declared_encoding():
    text = '<?xml version="1.0" encoding="gbk"?><annotation>\u732b</annotation>'
    assert xml_as_utf8(text.encode("gbk"), "a.xml") == (text.encode(), "utf-8")
    with pytest.raises(IngestError, match=r"a\.xml is not gbk: .*; save it as UTF-8"):
        xml_as_utf8(b'<?xml version="1.0" encoding="gbk"?>\xff\xff', "a.xml")


@encoded
def test_yolo(tmp_path, encode):
    image(tmp_path / "Images" / "train" / "a b.png")
    image(tmp_path / "Images" / "val" / "c.png")
    for name in ("train/a b", "val/c"):
        label = tmp_path / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True)
        label.write_bytes(encode("0 .5 .5 .5 .5\r\n1 .5 .5 .2 .2\r\n1 .5 .5 .2 .2\r\n"))
    yaml = "train: train.txt\r\nval: Images\\val\r\nnames: [no, caf\u00e9]\r\n"
    (tmp_path / "data.yaml").write_bytes(encode(yaml))
    (tmp_path / "train.txt").write_bytes(encode(".\\Images\\train\\a b.png\r\n"))
    source, items = read("yolo", tmp_path, tmp_path)
    assert source.classes == ("no", "caf\u00e9")
    assert [(one.split, one.objects.classes) for one in items] == [
        ("train", (0, 1)),
        ("validation", (0, 1)),
    ]
    assert [one.kind for one in items[0].findings] == ["object_repeated"]


SCALARS = (
    *("yes", "no", "on", "off", "y", "n", "true", "null", "~", "0010", "1e3", "12:30"),
    *("2020-01-01", "0x1F", "1_000", ".5", "="),
)


def test_yaml_scalars_are_names_as_they_are_written(tmp_path):
    image(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 .5 .5 .5 .5\n")
    for names in (
        f"names: [{', '.join(SCALARS)}]",
        "names:\n" + "\n".join(f"  {place}: {text}" for place, text in enumerate(SCALARS)),
    ):
        (tmp_path / "data.yaml").write_text(
            f"train: images/train\nval: ~\nnc: {len(SCALARS)}\n{names}\n"
        )
        assert read("yolo", tmp_path, tmp_path)[0].classes == SCALARS


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [a, b]\nnc: 3", "`nc` is 3, but `names` has 2"),
        ("names: {0: a, 0: b}", "has the key '0' twice"),
        ("names: [Cat, cat]", "differ only in case"),
        ('names: ["two\\nlines", b]', "contains a line break"),
        ("names: [caf\u00e9, cafe\u0301]", "appears twice"),
        ("names: [a, b]\nvalid: images/train\nval: images/train", "both valid and val"),
    ],
)
def test_yaml_files_that_are_wrong(tmp_path, yaml, message):
    image(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "data.yaml").write_text(f"train: images/train\n{yaml}\n", encoding="utf-8")
    with pytest.raises(IngestError, match=message):
        read("yolo", tmp_path, tmp_path)


@pytest.mark.parametrize("job", ["coco"])
@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("images\\{}.png", True),
        (".\\images\\{}.png", True),
        ("..\\..\\media\\upload\\4\\{}.png", True),
        ("C:\\Users\\me\\images\\{}.png", True),
        ("/data/me/set/images/{}.png", True),
        ("other/{}.png", False),
    ],
)
def test_paths_of_other_machines_in_coco(tmp_path, job, written, found):
    images, annotations = [], []
    for number in range(3):
        image(tmp_path / "images" / f"{number}.png")
        name = written.format(number)
        images.append({"id": number, "file_name": name, "width": 60, "height": 40})
        box = {"id": number, "image_id": number, "category_id": 1, "bbox": [1, 2, 9, 9]}
        annotations += [box, {**box, "id": number + 10}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "work").mkdir()
    where = {"annotations": str(tmp_path / "a.json"), "images": str(tmp_path)}
    _, items = read(job, tmp_path, tmp_path / "work", **where)
    if not found:
        assert {one.kind for one in items} == {"image_missing"}
        assert f"{tmp_path} has no other/0.png" in items[0].detail
        return
    assert [one.path for one in items] == [str(tmp_path / "images" / f"{n}.png") for n in range(3)]
    # Equal annotations count once.
    assert [len(one.objects.boxes) for one in items] == [1, 1, 1]


def test_a_file_name_that_two_folders_have_is_not_guessed(tmp_path):
    for folder in ("a", "b"):
        image(tmp_path / folder / "0.png")
    content = {
        "images": [{"id": 0, "file_name": "..\\up\\0.png"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 2, 9, 9]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "work").mkdir()
    where = {"annotations": str(tmp_path / "a.json"), "images": str(tmp_path)}
    _, (item,) = read("coco", tmp_path, tmp_path / "work", **where)
    assert item.kind == "image_missing"
