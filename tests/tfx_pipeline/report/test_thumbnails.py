import base64
import io
import struct

import numpy as np
import pytest
from PIL import Image

from tfx_pipeline.report.thumbnails import ImageIndex, Thumbnails, index_images


def decoded(source):
    kind, data = source.split(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_each_id_has_its_own_image_and_file_name(records, image_bytes):
    folder, ids = records
    index = index_images(folder, "test")
    thumbnails = Thumbnails(index)

    assert index.problem == ""
    assert len(ids) == len(index.records) == 300
    for number in (0, 7, 299):
        assert index.files[ids[number]] == f"{number}.jpg"
        image = decoded(thumbnails.source(ids[number]))
        assert image.size == (112, 84)
        own = Image.open(io.BytesIO(image_bytes(number))).getpixel((80, 60))
        assert np.allclose(image.getpixel((50, 40)), own, atol=4)
    assert thumbnails.note() == ""


def test_a_small_image_keeps_its_size(tmp_path, write_records, image_bytes):
    ids = write_records(tmp_path / "d", [("a.jpg", image_bytes(1, (32, 20)))])
    source = Thumbnails(index_images(tmp_path / "d", "test")).source(ids[0])
    assert decoded(source).size == (32, 20)


def test_the_budget_counts_every_use_and_the_note_every_image_left_out(records):
    folder, ids = records
    index = index_images(folder, "test")
    one = len(Thumbnails(index).source(ids[0]))
    thumbnails = Thumbnails(index, budget=3 * one + one // 2)

    sources = [thumbnails.source(image_id) for image_id in [ids[0]] * 4 + ids[1:20]]

    assert [bool(source) for source in sources[:5]] == [True, True, True, False, False]
    assert sum(map(len, sources)) == thumbnails.used <= 3 * one + one // 2
    assert thumbnails.reason(ids[5]) == "beyond the size budget of the page"
    assert thumbnails.note() == (
        "Images without a thumbnail: 20 beyond the size budget of the page."
    )


def test_images_that_are_missing_or_broken_are_counted(tmp_path, write_records, image_bytes):
    whole = image_bytes(1)
    found = [("a.jpg", whole), ("cut.jpg", whole[:300]), ("text.jpg", b"no image"), ("empty", b"")]
    ids = write_records(tmp_path / "d", found)
    thumbnails = Thumbnails(index_images(tmp_path / "d", "test"))

    sources = [thumbnails.source(image_id) for image_id in [*ids, "0" * 64]]

    assert [bool(source) for source in sources] == [True, False, False, False, False]
    assert thumbnails.reason(ids[1]) == "cannot be decoded"
    assert thumbnails.note() == (
        "Images without a thumbnail: 1 not in the records; 3 cannot be decoded."
    )


@pytest.mark.parametrize("given", ["none", "gone", "no split"])
def test_without_records_the_note_has_the_reason(tmp_path, records, given):
    data = {"none": None, "gone": tmp_path / "gone", "no split": records[0]}[given]
    split = "test" if given != "no split" else "held_out"
    thumbnails = Thumbnails(index_images(data, split))

    assert thumbnails.source("0" * 64) == ""

    reason = {
        "none": "The records are not known: give their folder with --data.",
        "gone": "gone",
        "no split": "have no split 'held_out' (known: test).",
    }[given]
    assert thumbnails.note().startswith("The page has no thumbnails of 1 images. The records ")
    assert reason in thumbnails.note()


def test_a_truncated_shard_gives_what_it_has_and_a_note(tmp_path, write_records, image_bytes):
    ids = write_records(tmp_path / "d", [(f"{i}.jpg", image_bytes(i)) for i in range(3)])
    (shard,) = (tmp_path / "d" / "Split-test").iterdir()
    shard.write_bytes(shard.read_bytes()[:-20])

    index = index_images(tmp_path / "d", "test")

    assert list(index.records) == ids[:2]
    start = index.records[ids[1]][1]
    (length,) = struct.unpack("<Q", shard.read_bytes()[start : start + 8])
    assert index.problem == f"{shard.name} cannot be read after byte {start + length + 16:,}."


def test_there_is_no_note_if_no_image_was_asked_for():
    assert Thumbnails(ImageIndex(problem="The records are not known.")).note() == ""
