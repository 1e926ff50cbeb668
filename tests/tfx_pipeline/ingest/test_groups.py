"""Groups stay in one split; counted on the index, without Beam."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from tfx_pipeline.ingest import IngestError, Request, ingest, jobs
from tfx_pipeline.ingest.check import Verdict, verdict_file
from tfx_pipeline.ingest.groups import with_groups
from tfx_pipeline.ingest.images import ImageFacts
from tfx_pipeline.ingest.index import connect, create
from tfx_pipeline.ingest.merge import assign_splits, merge
from tfx_pipeline.ingest.output import writing
from tfx_pipeline.ingest.result_checks import ObjectCounts
from tfx_pipeline.ingest.source import Item

FRACTIONS = (0.6, 0.2, 0.2)


def placed(tmp_path, items, group, *, every_class=True):
    """Image -> split."""
    import json

    index = tmp_path / "index.sqlite"
    index.unlink(missing_ok=True)
    listing = create(index, with_groups(items, group) if group else items)
    (tmp_path / "verdicts").mkdir(exist_ok=True)
    path = verdict_file(tmp_path / "verdicts", 0)
    with writing(path) as file:
        for row in range(listing.items):
            digest = f"{row * 7919 % 65536:04x}" * 16
            facts = ImageFacts(digest, "PNG", 4, 4, 3, "RGB", 1, 1, False, {})
            line = json.dumps(dataclasses.asdict(Verdict(row, facts, ())))
            file.write(f"{line}\n".encode())
    merge(index, [path], keep_duplicates=True)
    assign_splits(index, fractions=FRACTIONS, shards=1, every_class=every_class)
    with connect(index) as opened:
        query = "SELECT name, facts.split FROM items JOIN facts USING (row)"
        return {name.decode(): split for name, split in opened.execute(query)}


def frames(tracks, each=6, classes=2, split=""):
    return [
        Item(f"{track:03d}_{number}.png", f"c{track % classes}", split=split)
        for track, number in itertools.product(range(tracks), range(each))
    ]


@pytest.mark.parametrize("tracks", [3, 4, 7, 40])
def test_a_group_is_in_one_split_and_every_split_has_one(tmp_path, tracks):
    found = placed(tmp_path, frames(tracks, classes=1), r"^(\d+)_")
    by_track = {}
    for name, split in found.items():
        by_track.setdefault(name[:3], set()).add(split)
    assert all(len(splits) == 1 for splits in by_track.values())
    assert set(found.values()) == {"train", "validation", "test"}
    without = placed(tmp_path, frames(tracks, classes=1), "")
    if tracks > 4:
        torn = {
            name[:3] for name, split in without.items() if split != without[f"{name[:3]}_0.png"]
        }
        assert torn, "without groups the frames of a track are spread"


def test_every_class_has_a_group_to_train_on(tmp_path):
    items = frames(30, classes=30)
    found = placed(tmp_path, items, r"^(\d+)_")
    trained = {item.class_name for item in items if found[item.name] == "train"}
    assert trained == {f"c{number}" for number in range(30)}


def test_more_groups_leave_the_others_where_they_are(tmp_path):
    few = placed(tmp_path, frames(40), r"^(\d+)_")
    more = placed(tmp_path, frames(60), r"^(\d+)_")
    moved = [name for name, split in few.items() if more[name] != split]
    assert len(moved) <= 0.1 * len(few)


def test_a_group_that_the_source_has_in_two_splits_is_refused(tmp_path):
    items = [Item("7_a.png", "c0", split="train"), Item("7_b.png", "c0", split="test")]
    with pytest.raises(
        IngestError, match=r"1 of 1 groups .*'7' in test and train: 7_b\.png and 7_a"
    ):
        placed(tmp_path, items, r"^(\d+)_")
    items = [*frames(5, split="train"), Item("9_0.png", "c0", split="test")]
    found = placed(tmp_path, items, r"^(\d+)_")
    assert found["9_0.png"] == "test"
    assert set(found.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("group", "message"), [("(", "not a column"), (r"x(\d)", "gives no group")]
)
def test_expressions_that_find_nothing(tmp_path, group, message):
    with pytest.raises(IngestError, match=message):
        placed(tmp_path, frames(3), group)


def test_columns_of_a_table(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("file,label,track\na.png,x,1\na.png,y,\n")
    for group, expected in (
        ("track", ["1", ""]),
        ("label,track", ["x/1", "y/"]),
        ("none", ["", ""]),
    ):
        request = Request(str(tmp_path / "t.csv"), tmp_path, group)
        assert [one.group for one in jobs.get("csv")(request).items] == expected


def test_records_in_place_take_no_groups(tmp_path):
    with pytest.raises(IngestError, match="--group has no effect"):
        ingest("tfrecord", tmp_path / "out", where=tmp_path, group="x")


def test_the_share_of_repairs():
    assert ObjectCounts(kept=8, dropped=2, clipped=1).repaired_share == pytest.approx(0.3)
    assert ObjectCounts(0, 0, 0).repaired_share == 0
