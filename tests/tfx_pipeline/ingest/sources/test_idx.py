"""MNIST's files, written byte by byte by the specification."""

import gzip
import io
import struct

import numpy as np
import pytest
from PIL import Image

from tfx_pipeline.ingest import IngestError, Request, jobs

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 6), dtype=np.uint8)


def idx(array):
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def write(folder, stem="train", labels=(0, 2, 1, 0, 2), *, zipped=False, images=IMAGES):
    suffix, pack = (".gz", gzip.compress) if zipped else ("", bytes)
    (folder / f"{stem}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
    (folder / f"{stem}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.array(labels))))


def read(folder, **options):
    source = jobs.get("idx")(Request(str(folder), folder), **options)
    return source, list(source.items)


@pytest.mark.parametrize("zipped", [False, True])
def test_images_labels_and_splits(tmp_path, zipped):
    write(tmp_path, zipped=zipped)
    write(tmp_path, "t10k", (1, 1), images=IMAGES[:2], zipped=zipped)
    source, items = read(tmp_path)
    assert source.classes == ("0", "1", "2")
    assert source.total == len(items) == 7
    train = [one for one in items if one.split == "train"]
    assert [one.class_name for one in train] == ["0", "2", "1", "0", "2"]
    assert [one.split for one in items].count("test") == 2
    for one, pixels in zip(train, IMAGES, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(one.data))), pixels)


def test_names_and_transposed_rows(tmp_path):
    write(tmp_path, "emnist-letters-train")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    source, items = read(tmp_path, classes=str(tmp_path / "names.txt"), transposed=True)
    assert source.classes == ("ant", "bee", "cat")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(items[0].data))), IMAGES[0].T)
    with pytest.raises(IngestError, match="has labels from 0 to 2, but classes= has 2 names"):
        read(tmp_path, classes="ant,bee")


def test_files_that_are_wrong(tmp_path):
    with pytest.raises(IngestError, match="has no IDX images"):
        read(tmp_path)
    write(tmp_path, labels=(0, 1))
    with pytest.raises(IngestError, match=r"has 5 images, .* 2 labels"):
        read(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte"
    write(tmp_path)
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(IngestError, match="it is truncated"):
        read(tmp_path)
    images.write_bytes(b"PK\3\4" + bytes(40))
    with pytest.raises(IngestError, match="not an IDX file of bytes with 3 dimensions"):
        read(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(IngestError, match="has no labels; add"):
        read(tmp_path)
