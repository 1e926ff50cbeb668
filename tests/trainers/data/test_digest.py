"""The digest of a data set depends on its content only."""

import shutil
from dataclasses import replace

import pytest

from trainers.data.digest import data_digest, training_digest
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.identity.file_index import FileIndex

FILE = "data_tfrecord-00000-of-00001"


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for split in ("train", "validation", "test"):
        (folder / f"Split-{split}").mkdir(parents=True)
        (folder / f"Split-{split}" / FILE).write_bytes(f"records of {split}".encode())
    return folder


INFO = DatasetInfo(
    "pets",
    "classification",
    ("cat", "dog"),
    1,
    {name: SplitInfo(3, 1, {"cat": 1, "dog": 2}) for name in ("train", "validation", "test")},
    "f" * 64,
    source="a folder",
)


def both(data, info=INFO):
    return data_digest(data, info, FileIndex()), training_digest(data, info, FileIndex())


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ("dog", "cat")},
        {"classes": ("cat", "dog ")},
        {"label_offset": 0},
        {"task": "detection"},
        {"slices": ()},
        {"foreign": True},
        {"masks": True},
        {"exif": "upright"},
        {"splits": {**INFO.splits, "train": SplitInfo(2, 1, {})}},
    ],
)
def test_every_key_of_the_description_changes_the_digest(data, change):
    whole, training = both(data, replace(INFO, **change))
    assert whole != both(data)[0]
    assert training != both(data)[1]


@pytest.mark.parametrize(
    "change",
    [{"name": "dogs"}, {"source": "moved"}, {"rejected": 7}, {"turned": 3}, {"group": "(x)"}],
)
def test_descriptive_keys_do_not_change_the_training_digest(data, change):
    whole, training = both(data, replace(INFO, **change))
    assert whole != both(data)[0]
    assert training == both(data)[1]


@pytest.mark.parametrize(
    ("split", "trains"), [("train", True), ("validation", True), ("test", False)]
)
def test_every_byte_of_a_shard_changes_the_digest(data, split, trains):
    before = both(data)
    shard = data / f"Split-{split}" / FILE
    shard.write_bytes(shard.read_bytes()[:5] + bytes(shard.stat().st_size - 5))
    whole, training = both(data)
    assert whole != before[0]
    assert (training != before[1]) == trains


def test_an_added_or_removed_shard_changes_the_digest(data):
    before = both(data)
    extra = data / "Split-train/data_tfrecord-00001-of-00002"
    extra.write_bytes(b"")
    assert both(data)[0] != before[0]
    extra.unlink()
    (data / "Split-train/.hidden").write_bytes(b"a file system's own")
    assert both(data) == before


def test_a_copy_is_the_same_data(data, tmp_path):
    assert both(shutil.copytree(data, tmp_path / "copy")) == both(data)


def test_links_are_followed(data, tmp_path):
    linked = tmp_path / "linked"
    for shard in data.glob("Split-*/*"):
        link = linked / shard.relative_to(data)
        link.parent.mkdir(parents=True)
        link.symlink_to(shard)
    before = both(data)
    assert both(linked) == before
    (data / "Split-train" / FILE).write_bytes(b"other records")
    assert both(linked) == both(data) != before
