"""The lineage of a version: published with it, valid for it only, and never served."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core import bundle as bundles
from core import lineage
from core.lineage import Lineage, LineageError, read_lineage, store_state, write_lineage
from serving.deploy.rollback import model_versions, rollback
from serving.server.models.source import ModelSource


@pytest.fixture
def draft(write_bundle, tmp_path):
    """`draft(content)`: a bundle and the lineage that belongs to it."""

    def make(content):
        path = write_bundle(tmp_path / "drafts" / content, content)
        kept = tmp_path / "kept" / content
        kept.mkdir(parents=True)
        (kept / "statistics.pb").write_text(f"statistics of {content}")
        digest = bundles.open_bundle(path).manifest.content_digest
        write_lineage(kept, about(digest))
        return path, kept

    return make


def about(digest):
    return Lineage(
        content_digest=digest,
        recommended="none_fp32",
        classes=("a", "b"),
        label_offset=1,
        metrics={"top1": [0.9, 0.8, 1.0]},
        test_fingerprint="f",
        test_examples=3,
    )


def test_a_version_and_its_lineage_appear_together(draft, tmp_path):
    path, kept = draft("one")
    found = bundles.push(path, tmp_path / "m", lineage=kept)
    digest = bundles.content_digest(found.path)
    read = read_lineage(tmp_path / "m", 1, digest)
    assert (read.top1, read.classes, read.label_offset) == (0.9, ("a", "b"), 1)
    expected = hashlib.sha256(b"statistics of one").hexdigest()
    assert read.files == {"statistics.pb": expected}
    # Not in the bundle: nothing that is served and no digest changes.
    assert not (found.path / ".lineage").exists()
    assert digest == bundles.content_digest(path)
    assert not [*(tmp_path / "m").glob(".pushing-*")]


def test_a_lineage_is_not_a_version(draft, tmp_path):
    model = tmp_path / "bundles" / "m"
    for content in ("one", "two"):
        path, kept = draft(content)
        bundles.push(path, model, lineage=kept)
    assert bundles.find_models(tmp_path / "bundles") == {"m": [1, 2]}
    assert bundles.find_models(model) == {}
    assert [c.name for c in ModelSource(tmp_path / "bundles")()] == ["m"]
    assert ModelSource(model)() == []
    # TF Serving's rule for version folders: the children of the base path that are numbers.
    assert sorted(name for name in os.listdir(model) if name.isdigit()) == ["1", "2"]
    assert rollback(model).serves == 1
    assert str(model_versions(model)) == "versions 1; withdrawn 2"
    assert read_lineage(model, 2, bundles.content_digest(model / ".withdrawn-2"))
    assert rollback(model, 2).serves == 2
    assert read_lineage(model, 2, bundles.content_digest(model / "2"))


KILLED = """
import os, signal, sys
from pathlib import Path
from core import bundle, model_folder
rename = os.rename
def once(source, target):
    if str(target) == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
model_folder.os.rename = once
bundle.push(Path(sys.argv[1]), Path(sys.argv[2]), lineage=Path(sys.argv[3]))
"""


def test_a_push_killed_between_the_two_renames_leaves_no_valid_lineage(draft, tmp_path):
    model = tmp_path / "m"
    first, kept = draft("one")
    bundles.push(first, model, lineage=kept)
    second, kept = draft("two")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, (second, model, kept, model / "2"))], check=False
    )
    assert ended.returncode == -9
    assert (model / ".lineage" / "2").is_dir()
    before = store_state(model)
    assert list(before) == ["1"]
    assert bundles.versions(model) == [1]
    # The next push takes the number, by `sightline export` without a lineage.
    third, _ = draft("three")
    assert bundles.push(third, model).version == 2
    with pytest.raises(LineageError, match="no lineage was kept"):
        read_lineage(model, 2, bundles.content_digest(model / "2"))


def test_a_number_in_use_does_not_get_the_lineage(draft, tmp_path, monkeypatch):
    model = tmp_path / "m"
    path, kept = draft("one")
    other, _ = draft("other")
    rename = os.rename

    def race(source, target):
        if Path(target) == model / "1" and not Path(target).exists():
            shutil.copytree(other, target)
        rename(source, target)

    monkeypatch.setattr(bundles.model_folder.os, "rename", race)
    assert bundles.push(path, model, lineage=kept).version == 2
    assert read_lineage(model, 2, bundles.content_digest(model / "2"))
    assert os.listdir(model / ".lineage") == ["2"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda kept: shutil.rmtree(kept), "no lineage was kept"),
        (lambda kept: (kept / "lineage.json").write_text("{"), "cannot be read"),
        (lambda kept: (kept / "lineage.json").write_text("[]"), "cannot be read"),
        (lambda kept: (kept / "statistics.pb").write_text("other"), "missing or was changed"),
        (lambda kept: (kept / "statistics.pb").unlink(), "missing or was changed"),
    ],
)
def test_a_damaged_lineage_is_not_valid(draft, tmp_path, damage, message):
    path, kept = draft("one")
    pushed = bundles.push(path, tmp_path / "m", lineage=kept)
    damage(tmp_path / "m" / ".lineage" / "1")
    with pytest.raises(LineageError, match=message):
        read_lineage(tmp_path / "m", 1, bundles.content_digest(pushed.path))


def test_a_lineage_is_not_valid_for_other_content(draft, tmp_path):
    path, kept = draft("one")
    bundles.push(path, tmp_path / "m", lineage=kept)
    shutil.rmtree(tmp_path / "m" / "1")
    other, _ = draft("other")
    shutil.copytree(other, tmp_path / "m" / "1")
    for digest in (bundles.content_digest(tmp_path / "m" / "1"), ""):
        with pytest.raises(LineageError, match="other content"):
            read_lineage(tmp_path / "m", 1, digest)


def test_an_older_push_of_the_same_content_gets_the_lineage(draft, tmp_path):
    path, kept = draft("one")
    model = tmp_path / "m"
    bundles.push(path, model)
    assert lineage.adopt_lineage(model, 1, kept)
    assert read_lineage(model, 1, bundles.content_digest(model / "1")).top1 == 0.9
    assert not lineage.adopt_lineage(model, 1, kept)
    assert os.listdir(model / ".lineage") == ["1"]


def test_the_state_changes_with_every_push_rollback_deletion_and_lineage(draft, tmp_path):
    model = tmp_path / "m"
    states = [store_state(model)]
    assert states == [{}]

    def changed():
        states.append(store_state(model))
        return states[-1] != states[-2]

    path, kept = draft("one")
    bundles.push(path, model)
    assert changed()
    lineage.adopt_lineage(model, 1, kept)
    assert changed()
    path, kept = draft("two")
    bundles.push(path, model, lineage=kept)
    assert changed()
    rollback(model)
    assert changed()
    assert states[-1].keys() == {"1", ".withdrawn-2"}
    shutil.rmtree(model / ".withdrawn-2")
    assert changed()
    bundles.push(path, model, lineage=kept)
    shutil.rmtree(model / "1")
    assert changed()
    again = store_state(model)
    assert again == states[-1]
    assert json.loads(json.dumps(again)) == again


def test_an_error_of_the_check_stops_the_push(draft, tmp_path):
    path, kept = draft("one")

    def refuse():
        raise RuntimeError("the store changed")

    with pytest.raises(RuntimeError, match="the store changed"):
        bundles.push(path, tmp_path / "m", lineage=kept, check=refuse)
    assert os.listdir(tmp_path / "m") == [".lock"]


def test_metrics_without_a_number_are_not_measured():
    for metrics in ({}, {"top1": None}, {"top1": []}, {"top1": ["high"]}):
        assert dataclasses.replace(about("d"), metrics=metrics).top1 is None
    assert dataclasses.replace(about("d"), metrics={"top1": 0.5}).top1 == 0.5
