"""The pushed versions that a candidate is compared with, on real bundle stores."""

import json
import shutil
import subprocess
import sys

import pytest

from components.live import Live, LiveModelError, find_live, write_live
from core import bundle as bundles
from core.lineage import Lineage, write_lineage
from serving.deploy.rollback import rollback

CLASSES = ("a", "b")


@pytest.fixture
def model(tmp_path):
    """The model's folder in the store."""
    return tmp_path / "bundles" / "m"


@pytest.fixture
def store(tmp_path, model, write_bundle):
    """`store(content, top1=..., split=...)` pushes a version; None leaves it without a lineage."""

    def push(content, top1=None, *, split="s", classes=CLASSES, manifest_top1=None):
        draft = write_bundle(tmp_path / "drafts" / content, content)
        manifest = json.loads((draft / "manifest.json").read_text())
        if manifest_top1 is not None:
            manifest["metrics"] = {"none_fp32": {"top1": [manifest_top1, 0, 1]}}
        if classes != CLASSES:
            (draft / "assets/labels.txt").write_text("".join(f"{name}\n" for name in classes))
            manifest["num_classes"] = len(classes)
            manifest["content_digest"] = bundles.content_digest(draft)
        (draft / "manifest.json").write_text(json.dumps(manifest))
        kept = None
        if top1 is not None:
            kept = tmp_path / "kept" / content
            kept.mkdir(parents=True)
            (kept / "statistics.pb").write_text(content)
            (kept / "predictions.tfrecord").write_text(content)
            digest = bundles.content_digest(draft)
            metrics = {"top1": [top1, 0.0, 1.0]}
            about = Lineage(digest, "none_fp32", classes, 1, metrics, split, 9)
            write_lineage(kept, about)
        return bundles.push(draft, model, lineage=kept).version

    return push


def test_an_empty_store_has_no_live_model(tmp_path):
    found = find_live(tmp_path / "m", CLASSES)
    assert (found.served, found.baseline, found.best, found.contenders) == (None, None, None, ())
    assert found.state == {}


def test_the_newest_is_live_and_the_highest_is_best(store, model):
    for content, top1 in (("one", 0.97), ("two", 0.99), ("three", 0.98)):
        store(content, top1)
    found = find_live(model, CLASSES)
    assert (found.served, found.baseline, found.best) == (3, 3, 2)
    assert found.contenders == (2,)
    assert found.versions[2].top1 == 0.99
    assert set(found.versions) == {2, 3}


def test_equal_accuracies_go_to_the_newer_and_the_live_one_can_be_the_best(store, model):
    for content in ("one", "two", "three"):
        store(content, 0.9)
    found = find_live(model, CLASSES)
    assert (found.baseline, found.best, found.contenders) == (3, 3, ())


def test_a_version_that_was_rolled_back_is_neither_live_nor_best(store, model):
    store("one", 0.9)
    store("two", 0.99)
    rollback(model)
    found = find_live(model, CLASSES)
    assert (found.served, found.baseline, found.best, found.contenders) == (1, 1, 1, ())
    rollback(model, 2)
    assert find_live(model, CLASSES).baseline == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from core import bundle, model_folder
model_folder.give_number = lambda *rest: os.kill(os.getpid(), signal.SIGKILL)
bundle.push(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_push_that_was_killed_or_is_incomplete_is_neither_live_nor_best(
    store, model, write_bundle, tmp_path
):
    store("one", 0.9)
    draft = write_bundle(tmp_path / "two", "two")
    arguments = [sys.executable, "-c", KILLED, str(draft), str(model)]
    assert subprocess.run(arguments, check=False).returncode == -9
    assert [*model.glob(".pushing-*")]
    # An interrupted manual copy: a number without the file that makes it a version.
    (model / "7").mkdir()
    (model / "7" / "manifest.json").write_text("{}")
    found = find_live(model, CLASSES)
    assert (found.served, found.baseline, found.best) == (1, 1, 1)


def test_a_deleted_version_is_not_compared_with(store, model):
    store("one", 0.99)
    store("two", 0.9)
    shutil.rmtree(model / "1")
    found = find_live(model, CLASSES)
    assert (found.baseline, found.best, found.contenders) == (2, 2, ())


def test_a_damaged_live_model_is_reported_and_the_one_before_compared_with(store, model):
    store("one", 0.9)
    store("two", 0.95)
    (model / "2" / "model_none_fp32.tflite").write_text("changed")
    found = find_live(model, CLASSES)
    assert (found.served, found.baseline, found.best) == (2, 1, 1)
    assert "was changed after its push" in found.unusable[2]
    (model / "3").mkdir()
    (model / "3" / "saved_model.pb").write_text("another model")
    found = find_live(model, CLASSES)
    assert (found.served, found.baseline) == (3, 1)
    assert "not a Sightline bundle" in found.unusable[3]


def test_without_a_lineage_the_manifest_or_a_new_prediction_decides(store, model):
    store("one", manifest_top1=0.98)
    store("two")
    store("three", 0.9)
    found = find_live(model, CLASSES)
    assert found.best == 1
    # Version 1 was measured on an unknown split, version 2 never: both may be the best now.
    assert found.contenders == (1, 2)
    assert "no lineage was kept" in found.versions[1].no_lineage
    assert found.versions[2].top1 is None


def test_the_best_of_each_test_split_contends(store, model):
    for content, top1, split in (
        *(("one", 0.99, "easy"), ("two", 0.98, "easy")),
        *(("three", 0.8, "hard"), ("four", 0.85, "hard"), ("five", 0.82, "hard")),
    ):
        store(content, top1, split=split)
    found = find_live(model, CLASSES)
    assert (found.baseline, found.best, found.contenders) == (5, 1, (1, 4))


def test_a_model_of_other_classes_is_not_the_best_but_can_be_live(store, model):
    store("one", 0.99, classes=("a", "b", "c"))
    store("two", 0.9, classes=("b", "a"))
    assert find_live(model, CLASSES).contenders == ()
    assert find_live(model, CLASSES).best == 2
    store("three", 0.8, classes=("a", "z"))
    found = find_live(model, CLASSES)
    assert (found.baseline, found.best, found.contenders) == (3, 2, (2,))


def test_the_artifact_is_a_copy(store, model, tmp_path):
    store("one", 0.99)
    store("two", 0.9)
    found = find_live(model, CLASSES)
    write_live(found, model, tmp_path / "artifact")
    shutil.rmtree(model)
    live = Live.load(str(tmp_path / "artifact"))
    assert live.state == found.state
    assert live.versions == found.versions
    assert live.contenders == (1,)
    opened = live.bundle(2)
    assert opened.tflite_path(opened.manifest.recommended).read_text() == "two"
    assert live.statistics(2).read_text() == "two"
    assert live.predictions(1).read_text() == "one"


def test_without_lineage_the_artifact_has_no_statistics(store, model, tmp_path):
    store("one")
    write_live(find_live(model, CLASSES), model, tmp_path / "artifact")
    live = Live.load(str(tmp_path / "artifact"))
    assert live.statistics(1) is None
    assert live.predictions(1) is None


def test_a_store_that_changes_while_it_is_read_is_an_error(store, model, tmp_path):
    store("one", 0.9)
    found = find_live(model, CLASSES)
    store("two", 0.9)
    with pytest.raises(LiveModelError, match="changed during this run"):
        write_live(found, model, tmp_path / "artifact")
    shutil.rmtree(model / "1")
    with pytest.raises(LiveModelError, match="Run the same command again"):
        write_live(found, model, tmp_path / "other")


def test_the_component_refuses_a_store_that_changed_since_the_graph_was_made(
    store, model, tmp_path
):
    from components.artifacts import LiveModel as Artifact
    from components.live_model import LiveModel
    from core.lineage import store_state

    store("one", 0.9)
    made = Artifact()
    made.uri = str(tmp_path / "artifact")
    arguments = {
        "live": made,
        "model_dir": str(model),
        "classes": json.dumps(CLASSES),
        "code_digest": "",
    }
    function = LiveModel.EXECUTOR_SPEC.executor_class._FUNCTION
    function(**arguments, state=json.dumps(store_state(model)))
    assert Live.load(made.uri).baseline == 1
    with pytest.raises(LiveModelError, match=r"during this run \(1\): a push, a rollback"):
        function(**arguments, state="{}")


def test_damaged_predictions_are_recomputed_and_a_damaged_best_is_replaced(store, model, tmp_path):
    for content, top1 in (("one", 0.97), ("two", 0.99), ("three", 0.9)):
        store(content, top1)
    (model / ".lineage" / "3" / "predictions.tfrecord").write_text("changed")
    (model / "2" / "saved_model.pb").write_text("changed")
    found = find_live(model, CLASSES)
    assert "missing or was changed" in found.versions[3].no_lineage
    assert (found.baseline, found.best, found.contenders) == (3, 1, (1,))
    assert "was changed after its push" in found.unusable[2]
    write_live(found, model, tmp_path / "artifact")
    assert Live.load(str(tmp_path / "artifact")).predictions(3) is None


def test_only_the_versions_that_are_compared_with_are_read_in_full(store, model, monkeypatch):
    for number in range(5):
        store(f"v{number}", 0.9 + number / 100)
    read = []
    whole = bundles.content_digest
    monkeypatch.setattr(bundles, "content_digest", lambda path: read.append(path) or whole(path))
    found = find_live(model, CLASSES)
    assert (found.baseline, found.contenders) == (5, ())
    assert read == [model / "5"]
