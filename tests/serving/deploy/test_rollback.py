"""Rollback on folders that look like bundles, and once under a running server with traffic."""

import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import requests

from core import bundle as bundles
from core import model_folder
from core.bundle import BundleError
from serving.deploy import rollback as module
from serving.deploy.rollback import HISTORY_FILE, history, model_versions, rollback

DIGITS = set("0123456789")


def make(tmp_path, *names) -> Path:
    model = tmp_path / "bundles" / "m"
    for name in names:
        (model / str(name)).mkdir(parents=True)
        (model / str(name) / bundles.SAVED_MODEL_FILE).write_text(str(name))
    return model


def tf_serving_takes(model: Path) -> int | None:
    """The oracle: the largest child whose whole name is a number, as TF Serving's source has it."""
    return max((int(e.name) for e in model.iterdir() if set(e.name) <= DIGITS), default=None)


def folders(model: Path) -> dict[str, str]:
    return {
        entry.name: (entry / bundles.SAVED_MODEL_FILE).read_text()
        for entry in model.iterdir()
        if entry.is_dir()
    }


def test_the_one_before_is_served_and_the_undo_brings_back_everything(tmp_path):
    model = make(tmp_path, 1, 2, 3)
    before = folders(model)
    done = rollback(model, why="worse on sevens")
    assert (done.served_before, done.serves, done.withdrawn) == (3, 2, (3,))
    assert tf_serving_takes(model) == 2
    assert folders(model) == {"1": "1", "2": "2", ".withdrawn-3": "3"}
    undone = rollback(model, 3)
    assert (undone.served_before, undone.serves, undone.restored) == (2, 3, (3,))
    assert folders(model) == before
    assert [(e.serves, e.why, e.finished) for e in history(model)] == [
        (2, "worse on sevens", True),
        (3, "", True),
    ]
    assert "@" in history(model)[0].who


def test_a_given_version_and_what_went_with_the_one_that_comes_back(tmp_path):
    model = make(tmp_path, 1, 5, 6, 7)
    rollback(model, 6)
    shutil.copytree(model / "1", model / "8")
    rollback(model, 1)
    assert model_versions(model) == module.ModelVersions(1, (1,), (5, 6, 7, 8))
    # 7 was withdrawn before, on its own, and stays so.
    assert rollback(model, 8).restored == (8, 6, 5)
    assert model_versions(model) == module.ModelVersions(8, (1, 5, 6, 8), (7,))


def test_twice_back_then_there_is_nothing_older(tmp_path):
    model = make(tmp_path, 1, 2, 3)
    assert rollback(model).serves == 2
    assert rollback(model).serves == 1
    with pytest.raises(BundleError, match=r"no version before the served one: versions 1; with"):
        rollback(model)


def test_the_served_one_is_left_alone_without_a_record(tmp_path):
    model = make(tmp_path, 1, 2)
    assert not rollback(model, 2).changed
    assert not (model / HISTORY_FILE).exists()


@pytest.mark.parametrize("version", [0, 4, -1])
def test_an_unknown_version_is_an_error_with_the_list(tmp_path, version):
    model = make(tmp_path, 1, 2, 3)
    rollback(model)
    with pytest.raises(BundleError, match=f"no version {version}: versions 1, 2; withdrawn 3"):
        rollback(model, version)


def test_an_unknown_model_is_an_error_with_the_list(tmp_path):
    model = make(tmp_path, 1)
    with pytest.raises(BundleError, match=r"not a folder; .* has m$"):
        rollback(model.parent / "n")


def test_every_spelling_and_incomplete_versions_are_withdrawn_too(tmp_path):
    model = make(tmp_path, 1, "002", 2)
    (model / "9").mkdir()
    assert rollback(model, 1).withdrawn == (2, 9)
    assert tf_serving_takes(model) == 1
    assert sorted(folders_only(model)) == [".withdrawn-002", ".withdrawn-2", ".withdrawn-9", "1"]


def folders_only(model):
    return [entry.name for entry in model.iterdir() if entry.is_dir()]


def test_a_name_that_is_taken_is_refused_before_anything_moves(tmp_path):
    model = make(tmp_path, 1, 2, 3, ".withdrawn-3")
    before = folders(model)
    with pytest.raises(BundleError, match="both exist; move one"):
        rollback(model, 1)
    assert folders(model) == before


def test_a_changed_bundle_is_refused(tiny_copy, tmp_path):
    model = tmp_path / "bundles" / "colors"
    bundles.push(tiny_copy, model)
    shutil.copytree(model / "1", model / "2")
    (model / "1" / bundles.LABELS_FILE).write_text("blue\ngreen\nred\n")
    with pytest.raises(BundleError, match="changed after the push"):
        rollback(model)
    assert model_versions(model).served == 2
    assert not (model / HISTORY_FILE).exists()


@pytest.mark.parametrize(
    ("start", "first", "then"),
    [((1, 5, 6, 7), None, 1), ((1, 5, 6, 7), 1, 7), ((1, 5, 6, 7), 5, 6), ((4, 5), 4, 5)],
    ids=["withdraw_three", "restore_three", "restore_one_of_two", "restore_one"],
)
def test_a_crash_at_any_rename_leaves_a_version_and_can_be_finished(
    tmp_path, monkeypatch, start, first, then
):
    real, crashed = os.rename, 0
    for survived in range(6):
        model = make(tmp_path / str(survived), *start)
        if first is not None:
            rollback(model, first)
        served, left = tf_serving_takes(model), survived

        def crashing(source, target, model=model, served=served):
            nonlocal left
            assert tf_serving_takes(model) in (served, then)
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            real(source, target)

        monkeypatch.setattr(module.os, "rename", crashing)
        try:
            rollback(model, then, why="first try")
        except KeyboardInterrupt:
            crashed += 1
            assert tf_serving_takes(model) in (served, then)
            assert not history(model)[-1].finished
        monkeypatch.setattr(module.os, "rename", real)
        rollback(model, then)
        assert tf_serving_takes(model) == then
        last = history(model)[-1]
        assert last.finished
        assert (last.why, last.served_before) == ("first try", served)
        # The undo that the verb names restores all that the two tries moved.
        rollback(model, served)
        assert tf_serving_takes(model) == served
        if first is None:
            assert model_versions(model).present == start
    assert crashed >= 1


@pytest.mark.parametrize("survived", [0, 1])
def test_the_same_command_without_a_version_finishes_what_was_begun(
    tmp_path, monkeypatch, survived
):
    model, left = make(tmp_path, 5, 6, 7), survived

    def crashing(source, target, real=os.rename):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        real(source, target)

    def unrecorded(model_dir, entry, real=module._record):
        if entry.finished:
            raise KeyboardInterrupt
        real(model_dir, entry)

    with monkeypatch.context() as broken:
        broken.setattr(module.os, "rename", crashing)
        broken.setattr(module, "_record", unrecorded)
        with pytest.raises(KeyboardInterrupt):
            rollback(model)
    assert rollback(model).serves == 6
    assert tf_serving_takes(model) == 6
    assert rollback(model).serves == 5


def test_a_push_after_an_interrupted_rollback_is_what_the_next_one_leaves(tmp_path, monkeypatch):
    model = make(tmp_path, 5, 6, 7)
    with monkeypatch.context() as broken:
        broken.setattr(module, "_apply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rollback(model)
    make(tmp_path, 8)
    assert rollback(model).serves == 7


def interrupted(model_dir, plan):
    raise KeyboardInterrupt


def test_a_slow_listing_finds_a_version_while_versions_are_renamed(tmp_path, monkeypatch):
    model = make(tmp_path, 8, ".withdrawn-6")
    pauses = []

    def pause(seconds):
        # A listing from before the rename is still valid, and so is one from now on.
        pauses.append(seconds)
        assert bundles.versions(model) == [6, 8]

    monkeypatch.setattr(module.time, "sleep", pause)
    rollback(model, 6)
    assert pauses == [module._SETTLE_S]
    assert model_versions(model) == module.ModelVersions(6, (6,), (8,))


def test_a_truncated_line_of_the_history_does_not_prevent_a_rollback(tmp_path):
    model = make(tmp_path, 1, 2, 3)
    rollback(model)
    file = model / HISTORY_FILE
    file.write_text(file.read_text() + '{"model": "m", "serv')
    rollback(model)
    assert [entry.serves for entry in history(model)] == [2, 1]
    begun, ended = file.read_text().splitlines()[-2:]
    assert (json.loads(begun)["finished"], json.loads(ended)["finished"]) == (False, True)
    file.write_text('{"model": "m"}\n')
    with pytest.raises(BundleError, match="line 1 is not a record"):
        history(model)


def test_the_history_is_one_json_object_a_line(tmp_path):
    model = make(tmp_path, 1, 2)
    rollback(model, why='"quoted"\nand two lines')
    lines = [json.loads(line) for line in (model / HISTORY_FILE).read_text().splitlines()]
    assert [line["finished"] for line in lines] == [False, True]
    assert lines[1]["why"] == '"quoted"\nand two lines'


def test_nothing_moves_while_a_push_or_another_rollback_is_under_way(tmp_path, monkeypatch):
    model = make(tmp_path, 1, 2)
    monkeypatch.setattr(model_folder, "LOCK_WAIT_S", 0)
    under_way = pytest.raises(BundleError, match="another push or rollback of m is under way")
    with model_folder.locked(model), under_way:
        rollback(model)
    assert folders(model) == {"1": "1", "2": "2"}
    assert rollback(model).serves == 1


def test_a_file_that_tf_serving_treats_as_a_version_is_withdrawn_too(tmp_path):
    model = make(tmp_path, 1, 2)
    (model / "9").touch()
    assert rollback(model, 1).withdrawn == (2, 9)
    assert tf_serving_takes(model) == 1


def test_an_existing_target_name_is_an_error_before_anything_is_renamed(tmp_path):
    model = make(tmp_path, 1, 2, 3)
    rollback(model, 1)
    (model / "3").mkdir()
    (model / "3" / "half").touch()
    before, records = sorted(folders_only(model)), len(history(model))
    with pytest.raises(BundleError, match=r"withdrawn-3 and .*/3 both exist; move one"):
        rollback(model, 3)
    assert sorted(folders_only(model)) == before
    assert len(history(model)) == records


def test_naming_the_served_version_gives_up_an_interrupted_rollback(tmp_path, monkeypatch):
    model = make(tmp_path, 5, 6, 7)
    with monkeypatch.context() as broken:
        broken.setattr(module, "_apply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rollback(model, 5)
    assert not rollback(model, 7).changed
    assert rollback(model).serves == 6


@pytest.mark.parametrize(
    "torn",
    [b'{"model": "m", "why": "{brackets}', b'{"model": "m"\0\0\0\0', b"\0\0", b"\xff}"],
    ids=["at_a_bracket", "zeros_after", "zeros", "no_text"],
)
def test_a_partial_record_does_not_prevent_a_rollback(tmp_path, torn):
    model = make(tmp_path, 1, 2, 3)
    rollback(model)
    with (model / HISTORY_FILE).open("ab") as file:
        file.write(torn)
    rollback(model)
    assert [entry.serves for entry in history(model)] == [2, 1]


def test_a_full_disk_is_an_error_before_anything_is_renamed(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    model = make(tmp_path, 1, 2)
    with monkeypatch.context() as broken:
        broken.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            rollback(model)
    assert folders(model) == {"1": "1", "2": "2"}
    assert rollback(model).serves == 1


def test_the_next_push_is_above_withdrawn_versions_and_does_not_undo_a_rollback(
    tmp_path, write_bundle
):
    model = tmp_path / "bundles" / "m"
    drafts = [write_bundle(tmp_path / name, name) for name in ("first", "second", "third")]
    bundles.push(drafts[0], model)
    bundles.push(drafts[1], model)
    rollback(model)
    again = bundles.push(drafts[1], model)
    assert (again.version, again.pushed, again.withdrawn) == (2, False, True)
    assert tf_serving_takes(model) == 1
    assert bundles.push(drafts[2], model).version == 3
    assert rollback(model, 2).withdrawn == (3,)
    assert tf_serving_takes(model) == 2


def test_no_request_fails_while_versions_change(half_plus_two, tmp_path):
    from serving.server.lifecycle.server_process import ServerProcess

    model = tmp_path / "bundles" / "hp2"
    for version in ("1", "2", "3"):
        shutil.copytree(half_plus_two / "123", model / version)
    flags = ["--file_system_poll_wait_seconds=0.1"]
    with ServerProcess(model.parent, flags=flags) as server:
        url = f"{server.rest_url}/v1/models/hp2"
        done, wrong, good = threading.Event(), [], [0]

        def ask():
            session = requests.Session()
            while not done.is_set():
                try:
                    answer = session.post(f"{url}:predict", json={"instances": [2.0]}, timeout=60)
                    assert answer.json() == {"predictions": [3.0]}, answer.text
                    good[0] += 1
                except Exception as error:
                    wrong.append(error)

        def wait_for(version):
            deadline, available = time.monotonic() + 60, []
            while time.monotonic() < deadline:
                states = requests.get(url, timeout=60).json()["model_version_status"]
                available = [s["version"] for s in states if s["state"] == "AVAILABLE"]
                if available == [str(version)]:
                    return
                time.sleep(0.05)
            raise AssertionError(f"{available} and not {version}")

        clients = [threading.Thread(target=ask) for _ in range(2)]
        [client.start() for client in clients]
        try:
            for version in (1, 3, 2, 1, 3):
                rollback(model, version)
                wait_for(version)
        finally:
            done.set()
            [client.join() for client in clients]
    assert not wrong
    assert good[0] > 10
