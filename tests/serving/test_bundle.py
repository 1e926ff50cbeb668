import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from serving import bundle as bundles
from serving.bundle import BundleError


def test_push_is_idempotent(tiny_copy, tmp_path):
    model = tmp_path / "models" / "colours"
    first = bundles.push(tiny_copy, model)
    assert (first.version, first.pushed, first.path) == (1, True, model / "1")
    again = bundles.push(tiny_copy, model)
    assert (again.version, again.pushed) == (1, False)
    # A card is not content.
    (tiny_copy / "card.html").write_text("<p>hello</p>")
    assert not bundles.push(tiny_copy, model).pushed
    assert os.listdir(model) == ["1"]


def change(draft, text):
    """Other content, and a manifest that says so."""
    (draft / "assets.extra" / "note.txt").write_text(text)
    manifest = json.loads((draft / "manifest.json").read_text())
    manifest["content_digest"] = bundles.content_digest(draft)
    (draft / "manifest.json").write_text(json.dumps(manifest))


def test_new_content_is_the_next_version(tiny_copy, tmp_path):
    model = tmp_path / "models" / "colours"
    bundles.push(tiny_copy, model)
    change(tiny_copy, "two")
    assert bundles.push(tiny_copy, model).version == 2
    assert bundles.open_bundle(model).version == 2
    assert bundles.find_models(tmp_path / "models") == {"colours": [1, 2]}


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

    monkeypatch.setattr(bundles.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        bundles.push(tiny_copy, tmp_path / "m")
    assert os.listdir(tmp_path / "m") == []


SLOW_PUSH = """
import shutil, sys, time
from pathlib import Path
from serving import bundle
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
    model = tmp_path / "models" / "colours"
    bundles.push(tiny_copy, model)
    change(tiny_copy, "two")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_PUSH, str(tiny_copy), str(model)], stdout=subprocess.PIPE
    )
    for _ in range(3):
        assert process.stdout.readline() == b"copying\n"
    half = list(model.glob(".pushing-*"))
    assert len(half) == 1
    assert any(half[0].rglob("*"))
    # While it runs, neither readers nor another push mistake it for a version or for rubbish.
    assert bundles.versions(model) == [1]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert bundles.versions(model) == [1]
    assert bundles.open_bundle(model).version == 1
    assert bundles.push(tiny_copy, model).version == 2
    assert sorted(os.listdir(model)) == ["1", "2"]
    assert bundles.content_digest(model / "2") == bundles.content_digest(tiny_copy)


def test_sweep_spares_a_running_push(tiny_copy, tmp_path):
    model = tmp_path / "m"
    model.mkdir()
    (model / f".pushing-{os.getpid()}-abc").mkdir()
    (model / ".pushing-1-abc").mkdir()  # init runs, whoever owns it
    bundles.push(tiny_copy, model)
    assert (model / f".pushing-{os.getpid()}-abc").is_dir()
    assert (model / ".pushing-1-abc").is_dir()


def test_pushes_at_once_get_a_version_each(tiny_draft, tmp_path):
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


def test_open_says_what_is_missing(tiny_copy, tmp_path):
    with pytest.raises(BundleError, match="not a folder"):
        bundles.open_bundle(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="holds no version"):
        bundles.open_bundle(tmp_path / "empty")
    (tiny_copy / "assets" / "labels.txt").write_text("red\n")
    with pytest.raises(BundleError, match="1 lines, the manifest says 3"):
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
    with pytest.raises(BundleError, match="not a sightline bundle"):
        bundles.open_bundle(tiny_copy)


def test_manifest_round_trip(tiny_draft):
    manifest = bundles.open_bundle(tiny_draft).manifest
    assert bundles.Manifest.from_json(manifest.to_json(), "x") == manifest
