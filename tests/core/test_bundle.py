import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading

import pytest

from core import bundle as bundles
from core import files, model_folder
from core.bundle import BundleError


def test_push_is_idempotent(tiny_copy, tmp_path):
    model = tmp_path / "models" / "colors"
    first = bundles.push(tiny_copy, model)
    assert (first.version, first.pushed, first.path) == (1, True, model / "1")
    again = bundles.push(tiny_copy, model)
    assert (again.version, again.pushed) == (1, False)
    # A card is not content.
    (tiny_copy / "card.html").write_text("<p>hello</p>")
    assert not bundles.push(tiny_copy, model).pushed
    assert visible(model) == ["1"]


def visible(model):
    """What is in a model's folder beside the lock."""
    return sorted(name for name in os.listdir(model) if name != ".lock")


def change(draft, text):
    """Other content, and a manifest that says so."""
    (draft / "assets.extra" / "note.txt").write_text(text)
    manifest = json.loads((draft / "manifest.json").read_text())
    manifest["content_digest"] = bundles.content_digest(draft)
    (draft / "manifest.json").write_text(json.dumps(manifest))


def test_new_content_is_the_next_version(tiny_copy, tmp_path):
    model = tmp_path / "models" / "colors"
    bundles.push(tiny_copy, model)
    change(tiny_copy, "two")
    assert bundles.push(tiny_copy, model).version == 2
    assert bundles.open_bundle(model).version == 2
    assert bundles.find_models(tmp_path / "models") == {"colors": [1, 2]}


def test_a_manifest_without_digest_is_compared_by_its_files(tiny_copy, tmp_path):
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    manifest["content_digest"] = ""
    (tiny_copy / "manifest.json").write_text(json.dumps(manifest))
    assert bundles.push(tiny_copy, tmp_path / "m").pushed
    assert not bundles.push(tiny_copy, tmp_path / "m").pushed


def test_a_draft_changed_after_its_manifest_is_refused(tiny_copy, tmp_path):
    (tiny_copy / "assets.extra" / "note.txt").write_text("late")
    with pytest.raises(BundleError, match="changed after its manifest"):
        bundles.push(tiny_copy, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_full_disk_leaves_nothing(tiny_copy, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        bundles.push(tiny_copy, tmp_path / "m")
    assert visible(tmp_path / "m") == []


SLOW_PUSH = """
import shutil, sys, time
from pathlib import Path
from core import bundle
copy = shutil.copy2
def slow(*args, **kwargs):
    print("copying", flush=True)
    time.sleep(0.5)
    return copy(*args, **kwargs)
tree = shutil.copytree
bundle.shutil.copytree = lambda a, b, *rest, **more: tree(a, b, copy_function=slow)
bundle.push(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_kill_in_the_middle_of_a_push(tiny_copy, tmp_path):
    model = tmp_path / "models" / "colors"
    bundles.push(tiny_copy, model)
    change(tiny_copy, "two")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_PUSH, str(tiny_copy), str(model)], stdout=subprocess.PIPE
    )
    for _ in range(3):
        assert process.stdout.readline() == b"copying\n"
    (half,) = [path for path in model.glob(".pushing-*") if path.is_dir()]
    assert any(half.rglob("*"))
    # While it runs, readers do not see a version, and another push does not remove it.
    assert bundles.versions(model) == [1]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert bundles.versions(model) == [1]
    assert bundles.open_bundle(model).version == 1
    assert bundles.push(tiny_copy, model).version == 2
    assert visible(model) == ["1", "2"]
    assert bundles.content_digest(model / "2") == bundles.content_digest(tiny_copy)


@pytest.fixture
def drafts(write_bundle, tmp_path):
    """Three bundles of other content."""
    return [write_bundle(tmp_path / name, name) for name in ("first", "second", "third")]


@pytest.fixture
def while_copying(monkeypatch):
    """`while_copying(action)`: the next push does `action(copy)` once it has written its copy."""
    flush = files.sync_tree

    def prepare(action):
        def flushing(copy):
            flush(copy)
            action(copy)

        monkeypatch.setattr(files, "sync_tree", flushing)

    return prepare


def test_a_push_does_not_affect_another_one_in_progress(
    drafts, tmp_path, while_copying, monkeypatch
):
    model, others = tmp_path / "m", []

    def push_the_other(copy):
        monkeypatch.undo()
        others.append(bundles.push(drafts[1], model))
        assert bundles.content_digest(copy) == bundles.content_digest(drafts[0])

    while_copying(push_the_other)
    assert bundles.push(drafts[0], model).version == 2
    assert [result.version for result in others] == [1]
    assert visible(model) == ["1", "2"]


def test_the_same_content_pushed_by_two_at_once_is_one_version(drafts, tmp_path, while_copying):
    # Both have looked and found nothing before either gets its number.
    barrier, results = threading.Barrier(2), []
    while_copying(lambda copy: barrier.wait(60))

    def push():
        results.append(bundles.push(drafts[0], tmp_path / "m"))

    workers = [threading.Thread(target=push) for _ in range(2)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert sorted(result.pushed for result in results) == [False, True]
    assert [result.version for result in results] == [1, 1]
    assert visible(tmp_path / "m") == ["1"]


def test_content_with_a_waived_gate_is_a_separate_version(drafts, tmp_path):
    model, path = tmp_path / "m", drafts[0] / bundles.MANIFEST_FILE
    held = path.read_text("utf-8")
    assert bundles.push(drafts[0], model).version == 1
    path.write_text(json.dumps({**json.loads(held), "gates": {"not_held": {"change/top1": "x"}}}))
    found = [bundles.push(drafts[0], model) for _ in range(2)]
    assert [(one.version, one.pushed) for one in found] == [(2, True), (2, False)]
    path.write_text(held)
    assert (bundles.push(drafts[0], model).version, visible(model)) == (1, ["1", "2"])


def test_a_push_gets_no_number_during_a_rollback(drafts, tmp_path, while_copying, monkeypatch):
    model, held = tmp_path / "m", contextlib.ExitStack()
    while_copying(lambda copy: held.enter_context(model_folder.locked(model)))
    monkeypatch.setattr(model_folder, "LOCK_WAIT_S", 0)
    with held, pytest.raises(BundleError, match="another push or rollback of m is under way"):
        bundles.push(drafts[0], model)
    assert visible(model) == []


def test_a_rollback_does_not_wait_for_the_copy_of_a_push(drafts, tmp_path, while_copying):
    from serving.deploy.rollback import rollback

    model = tmp_path / "m"
    bundles.push(drafts[0], model)
    bundles.push(drafts[1], model)
    while_copying(lambda copy: rollback(model))
    assert bundles.push(drafts[2], model).version == 3
    assert visible(model) == [".withdrawn-2", "1", "3", "rollbacks.jsonl"]


def withdraw(model, version):
    (model / str(version)).rename(model / f".withdrawn-{version}")


def test_withdrawn_content_is_not_pushed_and_the_error_names_the_rollback_command(drafts, tmp_path):
    model = tmp_path / "my bundles" / "m"
    bundles.push(drafts[0], model)
    bundles.push(drafts[1], model)
    withdraw(model, 2)
    found = bundles.push(drafts[1], model)
    assert (found.version, found.pushed, found.withdrawn) == (2, False, True)
    assert found.path == model / ".withdrawn-2"
    where = ["--bundles", str(model.parent)]
    assert shlex.split(found.way_back) == ["sightline", "rollback", "m", "2", *where]
    assert visible(model) == [".withdrawn-2", "1"]


def test_a_push_of_a_model_folder_takes_the_newest_version(drafts, tmp_path):
    for draft in drafts:
        bundles.push(draft, tmp_path / "m")
    pushed = bundles.push(tmp_path / "m", tmp_path / "elsewhere").path
    assert bundles.content_digest(pushed) == bundles.content_digest(drafts[2])


def test_content_that_is_both_pushed_and_withdrawn_counts_as_pushed(drafts, tmp_path):
    model = tmp_path / "m"
    bundles.push(drafts[0], model)
    bundles.shutil.copytree(model / "1", model / ".withdrawn-7")
    assert bundles.push(drafts[0], model) == bundles.PushResult(model / "1", 1, pushed=False)


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"\xff\xfe", b'{"format_version": 2}', None], ids=repr
)
def test_a_version_without_a_readable_manifest_is_not_a_match(drafts, tmp_path, manifest):
    model = tmp_path / "m"
    for draft in drafts[:2]:
        bundles.push(draft, model)
    file = model / "2" / bundles.MANIFEST_FILE
    file.unlink()
    if manifest is None:
        file.mkdir()
    else:
        file.write_bytes(manifest)
    assert bundles.push(drafts[0], model).version == 1
    replaced = bundles.push(drafts[1], model)
    assert (replaced.version, replaced.pushed) == (3, True)
    # After a rollback, no push replaces it.
    withdraw(model, 3)
    bundles.shutil.rmtree(model / "2")
    (model / ".withdrawn-3" / bundles.MANIFEST_FILE).write_text("{")
    assert bundles.push(drafts[1], model).withdrawn


def test_a_push_replaces_a_version_whose_files_were_changed(drafts, tmp_path):
    model = tmp_path / "m"
    bundles.push(drafts[0], model)
    (model / "1" / bundles.SAVED_MODEL_FILE).write_text("other")
    assert bundles.push(drafts[0], model).version == 2
    withdraw(model, 2)
    (model / ".withdrawn-2" / bundles.SAVED_MODEL_FILE).write_text("other")
    assert bundles.push(drafts[0], model).withdrawn


@pytest.mark.parametrize("name", [bundles.SAVED_MODEL_FILE, bundles.MANIFEST_FILE])
def test_a_copy_that_is_not_the_draft_is_refused(drafts, tmp_path, while_copying, name):
    while_copying(lambda copy: (copy / name).write_text("{}"))
    with pytest.raises(BundleError, match=r"not what was to be pushed|not a bundle manifest"):
        bundles.push(drafts[0], tmp_path / "m")
    assert visible(tmp_path / "m") == []


def test_concurrent_pushes_get_different_versions(tiny_draft, tmp_path):
    import shutil

    drafts = []
    for index in range(4):
        draft = shutil.copytree(tiny_draft, tmp_path / f"draft{index}")
        change(draft, str(index))
        drafts.append(draft)
    results = []
    barrier = threading.Barrier(4)

    def push(draft):
        barrier.wait()
        results.append(bundles.push(draft, tmp_path / "m").version)

    workers = [threading.Thread(target=push, args=(draft,)) for draft in drafts]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert sorted(results) == [1, 2, 3, 4]
    assert bundles.versions(tmp_path / "m") == [1, 2, 3, 4]


def test_versions_as_tf_serving_reads_them(tmp_path):
    for name in ("00000123", "7", "²", "x1", "-3", ".pushing-1-a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    (tmp_path / "9").mkdir()
    assert bundles.version_dirs(tmp_path) == {7: tmp_path / "7", 123: tmp_path / "00000123"}
    assert bundles.versions(tmp_path / "nowhere") == []


def test_open_names_missing_files(tiny_copy, tmp_path):
    with pytest.raises(BundleError, match="not a folder"):
        bundles.open_bundle(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="holds no version"):
        bundles.open_bundle(tmp_path / "empty")
    (tiny_copy / "assets" / "labels.txt").write_text("red\n")
    with pytest.raises(BundleError, match="1 lines, but the manifest has 2"):
        bundles.open_bundle(tiny_copy)
    (tiny_copy / "assets" / "labels.txt").unlink()
    with pytest.raises(BundleError, match=r"labels\.txt is missing"):
        bundles.open_bundle(tiny_copy)
    (tiny_copy / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="not a bundle manifest"):
        bundles.open_bundle(tiny_copy)
    (tiny_copy / "manifest.json").write_text('{"format_version": 2}')
    with pytest.raises(BundleError, match="upgrade sightline"):
        bundles.open_bundle(tiny_copy)
    (tiny_copy / "manifest.json").unlink()
    with pytest.raises(BundleError, match="not a Sightline bundle"):
        bundles.open_bundle(tiny_copy)


def test_manifest_round_trip(tiny_draft):
    manifest = bundles.open_bundle(tiny_draft).manifest
    assert bundles.Manifest.from_json(manifest.to_json(), "x") == manifest
