"""Unusual folders and tables are read correctly or rejected with a reason."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tfx_pipeline.ingest import IngestError, Item, Request, ingest, jobs
from tfx_pipeline.ingest.class_names import check_names
from tfx_pipeline.ingest.file_names import Finder
from trainers.data import features


def image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def images(root, *names):
    for seed, name in enumerate(names):
        image(root / name, seed)


def read(job, where, **options):
    return jobs.get(job)(Request(str(where), where if where.is_dir() else where.parent), **options)


def listed(source):
    """(name, class, split) of each item, and (kind, file) of each finding."""
    every = list(source.items)
    items = [one for one in every if isinstance(one, Item)]
    found = [(one.kind, one.file) for one in every if not isinstance(one, Item)]
    found += [(one.kind, one.file) for item in items for one in item.findings]
    return [(one.name, one.class_name, one.split) for one in items], found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "\uff43\uff41\uff54"),
        ("cat", "cat\u200b"),
        ("cat", "\u202ecat"),
        ("golden retriever", "golden\u00a0retriever"),
        ("golden retriever", "golden  retriever"),
        ("istanbul", "\u0130stanbul"),
        ("\u0131sparta", "ISPARTA"),
        ("fish", "\ufb01sh"),
    ],
)
def test_names_that_look_alike_are_refused(one, other):
    assert unicodedata.normalize("NFC", one) != unicodedata.normalize("NFC", other)
    with pytest.raises(IngestError, match=r"differ only in case or in .* look alike"):
        check_names([one, "dog", other], "here", typed=True)
    check_names([one, "dog", other], "published names", typed=False)


def test_names_of_other_words_are_kept_apart():
    # `k\u0131r` is Turkish for countryside, `kir` for dirt.
    check_names(["k\u0131r", "kir", "cat", "cats", "golden_retriever", "m2", "m3"], "h", typed=True)
    check_names(["\uff11", "1", "\u2460"], "single characters of handwriting", typed=True)


@pytest.mark.parametrize("names", [["a", "b", "a"], ["cat", "dog", "".join(["c", "at"])]])
@pytest.mark.parametrize("typed", [True, False])
def test_a_name_that_is_there_twice(names, typed):
    # Short texts are one object in memory, others are not.
    with pytest.raises(IngestError, match=f"{names[0]!r} appears twice"):
        check_names(names, "here", typed=typed)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/1.png", "train/b/2.png", "test/3.png"], "test has 1 images but no class"),
        (["cat/train/1.png", "cat/test/2.png", "dog/3.png"], "test, train: did you mean splits"),
        (["trainA/1.png", "trainB/2.png", "testA/3.png"], "have names of splits"),
        (["train1/1.png", "test1/2.png"], "have names of splits"),
        (["train/a/1.png", "train/b/2.png", "holdout/a/3.png"], r"\(train\) and holdout"),
        (["holdout/a/1.png", "holdout/b/2.png", "rest/a/3.png", "rest/b/4.png"], "mean splits"),
        (["data/data/a/1.png", "data/data/b/2.png"], "only one class, 'data'"),
    ],
)
def test_folders_that_hide_their_splits(tmp_path, files, message):
    images(tmp_path, *files)
    with pytest.raises(IngestError, match=message):
        read("folder", tmp_path)


def test_archives_are_named(tmp_path):
    (tmp_path / "pets.zip").touch()
    with pytest.raises(IngestError, match=r"pets\.zip is an archive, .* unpack it"):
        read("folder", tmp_path / "pets.zip")
    with pytest.raises(IngestError, match=r"contains 1 files without a label; unpack pets\.zip"):
        read("folder", tmp_path)


@pytest.mark.parametrize(
    "names", [("train", "car", "bus"), ("trains", "tests"), ("test_tube", "flask")]
)
def test_classes_that_are_called_as_splits_are(tmp_path, names):
    images(tmp_path, *[f"{name}/{at}.png" for at, name in enumerate(names)])
    items, found = listed(read("folder", tmp_path))
    assert {name for _, name, _ in items} == set(names)
    assert not found


def test_nothing_of_a_folder_is_left_out_in_silence(tmp_path):
    images(tmp_path, "train/a/1.png", "train/b/2.PNG", "train/3.jfif", "train/a/4.JPEG", "5.heic")
    (tmp_path / "test" / "a").mkdir(parents=True)
    junk = ("Thumbs.db", "desktop.ini", "Icon\r", ".DS_Store", "._1.png", "__MACOSX/1.png")
    images(tmp_path / "train" / "a", *junk)
    items, found = listed(read("folder", tmp_path))
    assert items == [
        ("train/a/1.png", "a", "train"),
        ("train/a/4.JPEG", "a", "train"),
        ("train/b/2.PNG", "b", "train"),
    ]
    assert found == [
        ("label_missing", "5.heic"),
        ("label_missing", "train/3.jfif"),
        ("split_empty", "test"),
    ]


FILES = ("img/a.png", "img/cafe\u0301.png", "img/b c.png", "IMG2/D.PNG")


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("img/a.png", 0),
        (".\\img\\a.png", 0),
        ("img/A.PNG", 0),
        ("img/a", 0),
        ("C:\\data\\img\\a.png", 0),
        ("/mnt/x/img/a.png", 0),
        ("../../other/img/a.png", 0),
        ("https://example.com/x/img/a.png?size=2", 0),
        ("file:///home/me/img/a.png", 0),
        ("img/caf\u00e9.png", 1),
        ("img/b%20c.png", 2),
        ("img2/d.png", 3),
        ("a.png", None),
        ("other/a.png", None),
        ("C:\\data\\other\\a.png", None),
        ("img/a.jpg", None),
        ("img", None),
        ("img/\0.png", None),
        ("x" * 5000, None),
        ("", None),
    ],
)
def test_files_are_found_by_the_names_that_lists_write(tmp_path, written, file):
    images(tmp_path, *FILES)
    found = Finder(tmp_path).find(written)
    assert found == (None if file is None else tmp_path / FILES[file])


def test_a_name_of_two_files_is_of_none(tmp_path):
    images(tmp_path, "a.png", "A.png", "b.png", "b.jpg")
    finder = Finder(tmp_path)
    assert finder.find("A.png") == tmp_path / "A.png"
    assert finder.find("A.PNG") is None
    assert finder.find("b") is None


def write(folder, text, name="labels.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,label\na.png,x\nb.png,caf\u00e9\n".encode("cp1252"),
            r"line 3 .* byte 28 is 0xe9 \(",
        ),
        (b"file,label\r\na.png,x\r\nb.png,\0\r\n", "line 3 contains a NUL byte"),
        ("filename,Class\na.png,x\n", r"e\.g\. file=filename label=Class"),
        ("file label\na.png x\n", "separated by commas, semicolons, tabs or bars"),
        ('file,label\na.png,"x\nb.png,y\n', "line 2: the class name .* line break"),
        ("file,label\na.png,nan\nb.png,1\n", "has 1 classes"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    images(tmp_path, "a.png", "b.png")
    with pytest.raises(IngestError, match=message):
        list(read("csv", write(tmp_path, text)).items)


def test_missing_labels_among_numbers_are_no_class(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png", "d.PNG")
    text = "file,label\na.png,1\nb.png,NaN\nc.png,-2\nd.png,\n"
    source = read("csv", write(tmp_path, text))
    assert source.classes == ("-2", "1")
    items, found = listed(source)
    assert [name for name, _, _ in items] == ["a.png", "c.png"]
    assert found == [("label_missing", "b.png"), ("label_missing", "d.png")]
    words = "file,label\na.png,nan\nb.png,naan\nc.png,pita\nd.png,nan\n"
    source = read("csv", write(tmp_path, words))
    assert source.classes == ("naan", "nan", "pita")
    assert listed(source)[1] == [("spelling_differs", "d.png")]


def test_utf16_without_a_mark_in_other_scripts(tmp_path):
    images(tmp_path, "a.png", "b.png")
    names = ("\u043a\u043e\u0442" * 300, "\u043f\u0451\u0441" * 300)
    text = f"file,label\na.png,{names[0]}\nb.png,{names[1]}\n"
    for encoding in ("utf-16-le", "utf-16-be"):
        assert read("csv", write(tmp_path, text.encode(encoding))).classes == names


def test_a_refused_job_leaves_nothing(tmp_path):
    images(tmp_path / "pets", "cat/1.png", "dog/2.png")
    out = tmp_path / "out" / "pets"
    with pytest.raises(IngestError, match=r"the split .* has no image|no training image"):
        ingest("folder", out, where=tmp_path / "pets")
    with pytest.raises(IngestError, match="does not exist"):
        ingest("folder", out, where=tmp_path / "nowhere")
    with pytest.raises(IngestError, match=r"a label for an image that does not exist .*line 2"):
        ingest("csv", out, where=write(tmp_path, "file,label\nx.png,a\ny.png,b\n"))
    (tmp_path / "records").mkdir()
    with pytest.raises(IngestError, match="no shards"):
        ingest("tfrecord", out, where=tmp_path / "records")
    assert not list((tmp_path / "out").iterdir())


def test_images_that_a_table_lists_twice(tmp_path):
    names = [f"{at}.png" for at in range(12)]
    images(tmp_path, *names)
    rows = "".join(f"{name},{'xy'[at % 2]}\n" for at, name in enumerate(names))
    path = write(tmp_path, f"file,label\n{rows}0.png,x\n")
    ingest("csv", tmp_path / "out", where=path)
    report = json.loads((tmp_path / "out" / features.REPORT_FILE).read_text())
    assert report["counts"]["note"] == {"listed_twice": 1}
    assert sum(report["records"].values()) == 12
    with pytest.raises(IngestError, match=r"lists '0\.png' twice, with class 'x' and 'y'"):
        ingest("csv", tmp_path / "out", where=write(tmp_path, f"file,label\n{rows}0.png,y\n"))


def test_groups_that_cannot_fill_the_splits(tmp_path):
    images(tmp_path, *[f"{'ab'[at % 2]}/{at}.png" for at in range(12)])
    with pytest.raises(IngestError, match=r"the split .* has no image.* the images form 1 groups"):
        ingest("folder", tmp_path / "out", where=tmp_path, group="(p)ng")
