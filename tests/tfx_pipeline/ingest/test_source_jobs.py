"""Items and errors of the jobs, without Beam."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from core.image_header import ImageError
from tfx_pipeline.ingest import IngestError, Request, ingest, jobs
from tfx_pipeline.ingest.check import read_item
from trainers.registry import UnknownNameError


def image(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(path)


def folder(path):
    return jobs.get("folder")(Request(None if path is None else str(path), path))


def test_importing_the_package_loads_neither_beam_nor_tensorflow():
    code = (
        "import sys; from tfx_pipeline.ingest import jobs; jobs.names(); "
        "print([m for m in ('apache_beam', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_job_names_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown ingest job 'digit'.*digits"):
        ingest("digit", tmp_path / "out")


def test_digits_are_the_scans_losslessly():
    source = jobs.get("digits")(Request(None, None))
    scans = load_digits()
    assert source.classes == tuple("0123456789")
    items = list(source.items)
    assert len(items) == source.total == 1797
    for index in (0, 5, 1796):
        item = items[index]
        assert item.data.startswith(b"\x89PNG")
        assert item.class_name == str(scans.target[index])
        pixels = np.asarray(Image.open(io.BytesIO(item.data)))
        np.testing.assert_array_equal(np.round(pixels / 255 * 16), scans.images[index])


def test_digits_take_no_folder(tmp_path):
    with pytest.raises(IngestError, match="takes no SOURCE"):
        jobs.get("digits")(Request(str(tmp_path), tmp_path))


def test_class_folders_in_number_order_with_nested_linked_and_hidden_files(tmp_path):
    root = tmp_path / "signs"
    image(root / "10" / "a.png")
    image(root / "9" / "deep" / "b.png")
    image(root / "9" / ".hidden.png")
    image(root / ".git" / "c.png")
    image(tmp_path / "elsewhere" / "d.png")
    (root / "9" / "link").symlink_to(tmp_path / "elsewhere")
    (root / "9" / "loop").symlink_to(root / "9")
    (root / "labels.csv").write_text("not a class")
    (root / "10" / "notes.txt").write_text("becomes a rejection")
    source = folder(root)
    assert source.name == "signs"
    assert source.classes == ("9", "10")
    assert [(item.name, item.class_name, item.split) for item in source.items] == [
        ("9/deep/b.png", "9", ""),
        ("9/link/d.png", "9", ""),
        ("10/a.png", "10", ""),
        ("10/notes.txt", "10", ""),
    ]


def test_split_folders(tmp_path):
    for split in ("train", "val", "test"):
        for name in ("dog", "cat"):
            image(tmp_path / split / name / "x.png")
    source = folder(tmp_path)
    assert source.classes == ("cat", "dog")
    assert sorted({item.split for item in source.items}) == ["test", "train", "validation"]


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "bus"):
        image(tmp_path / name / "x.png")
    source = folder(tmp_path)
    assert source.classes == ("bus", "train")
    assert {item.split for item in source.items} == {""}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "contains nothing"),
        (["a.png", "b.png"], "contains 2 files without a label"),
        (["images/a.png"], "only one class, 'images'; add a second"),
        (["images/cat/a.png", "images/dog/a.png"], "did you mean .*images"),
        (["train/a.png", "test/a.png"], "split folders of .* have no class folders"),
        (["train/cat/a.png", "test/cat/a.png"], "only one class, 'cat'"),
        (["train/cat/a.png", "train/dog/a.png", "other/a.png"], r"\(train\) and other"),
        (
            ["train/c/a.png", "val/c/a.png", "validation/d/a.png"],
            "both val and validation, which both mean",
        ),
        (["cat/.keep", "dog/.keep"], "2 class folders but no file"),
    ],
)
def test_refused_layouts_say_what_was_found_and_what_to_do(tmp_path, files, message):
    for file in files:
        image(tmp_path / file) if file.endswith("png") else None
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(IngestError, match=message):
        folder(tmp_path)


def test_absent_folder(tmp_path):
    with pytest.raises(
        IngestError,
        match="is not a folder: it does not exist; expected a folder with images in DIR/<class>",
    ):
        folder(tmp_path / "nowhere")
    with pytest.raises(IngestError, match="needs a folder"):
        folder(None)


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    image(tmp_path / "b" / "x.png")
    refused = [item for item in folder(tmp_path).items if item.class_name == "a"]
    assert len(refused) == 2
    for item in refused:
        with pytest.raises(ImageError, match="not a regular file"):
            read_item(item)
