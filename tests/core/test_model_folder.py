"""Locks, incomplete versions, and version numbers in a model's folder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from core import model_folder
from core.model_folder import BundleError, give_number, locked, staging


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(model_folder, "LOCK_WAIT_S", 0)


def test_the_error_of_the_second_names_the_lock_and_its_holder(tmp_path, impatient):
    with locked(tmp_path):
        taken = pytest.raises(BundleError, match=f"push or rollback of {tmp_path.name} is under")
        with taken, locked(tmp_path):
            pytest.fail("two hold it")
    with locked(tmp_path):
        pass


def test_the_second_waits_until_the_first_is_done(tmp_path):
    order, inside, go = [], threading.Event(), threading.Event()

    def first():
        with locked(tmp_path):
            inside.set()
            go.wait(60)
            order.append("first")

    def second():
        with locked(tmp_path):
            order.append("second")

    workers = [threading.Thread(target=first), threading.Thread(target=second)]
    workers[0].start()
    assert inside.wait(60)
    workers[1].start()
    go.set()
    [worker.join() for worker in workers]
    assert order == ["first", "second"]


HOLD = """
import sys, time
from pathlib import Path
from core import model_folder
with model_folder.staging(Path(sys.argv[1])) as path, model_folder.locked(Path(sys.argv[1])):
    path.mkdir()
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_releases_its_locks_and_its_files_are_removed(tmp_path, impatient):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BundleError, match="is under way"), locked(tmp_path):
        pytest.fail("two hold it")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert len(list(tmp_path.glob(".pushing-*"))) == 2
    with staging(tmp_path):
        pass
    assert os.listdir(tmp_path) == [".lock"]


def test_a_forked_child_does_not_keep_the_lock(tmp_path, monkeypatch, impatient):
    copies = []

    def opening(*arguments, real=os.open):
        descriptor = real(*arguments)
        copies.append(os.dup(descriptor))  # What a fork does to every descriptor.
        return descriptor

    with monkeypatch.context() as forking:
        forking.setattr(model_folder.os, "open", opening)
        with locked(tmp_path):
            pass
    assert copies
    with locked(tmp_path):
        pass
    [os.close(descriptor) for descriptor in copies]


def test_a_file_system_without_locks_is_an_error(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    refused = pytest.raises(BundleError, match=r"\.lock cannot be locked \(No locks available\)")
    with refused, locked(tmp_path):
        pytest.fail("nothing is locked")


def test_a_lock_file_of_another_user_can_be_locked(tmp_path, monkeypatch, impatient):
    def opening(path, flags, *mode, real=os.open):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *mode)

    with locked(tmp_path):
        pass
    monkeypatch.setattr(model_folder.os, "open", opening)
    with locked(tmp_path), pytest.raises(BundleError, match="is under way"), locked(tmp_path):
        pytest.fail("two hold it")
    (tmp_path / ".lock").unlink()
    with pytest.raises(PermissionError), locked(tmp_path):
        pytest.fail("nothing is locked")


def test_a_version_in_progress_is_kept_until_its_push_ends(tmp_path):
    with staging(tmp_path) as first:
        first.mkdir()
        with staging(tmp_path) as second:
            second.mkdir()
            assert first != second
            assert first.is_dir()
        assert not second.exists()
    assert os.listdir(tmp_path) == [".lock"]


@pytest.mark.parametrize("names", [[".pushing-1-a"], [".pushing-b.lock"], [".pushing-c", "1"]])
def test_only_the_remains_of_killed_pushes_are_removed(tmp_path, names):
    for name in names:
        if name.endswith(".lock"):
            (tmp_path / name).touch()
        else:
            (tmp_path / name).mkdir()
    with staging(tmp_path) as path:
        path.mkdir()
        give_number(path, tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([".lock", "1", *(["2"] if "1" in names else [])])


def test_an_error_leaves_nothing(tmp_path):
    def stop(path):
        path.mkdir()
        (path / "file").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), staging(tmp_path) as path:
        stop(path)
    assert os.listdir(tmp_path) == [".lock"]


def test_a_number_is_above_those_of_incomplete_and_withdrawn_versions(tmp_path):
    for name in ("1", "0004", ".withdrawn-6", "notes", ".pushing-9"):
        (tmp_path / name).mkdir()
    (tmp_path / "new").mkdir()
    assert give_number(tmp_path / "new", tmp_path) == (7, tmp_path / "7")


def test_a_number_that_is_used_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    def late(source, target, real=os.rename):
        monkeypatch.undo()
        target.mkdir()
        (target / "theirs").touch()
        real(source, target)

    monkeypatch.setattr(model_folder.os, "rename", late)
    (tmp_path / "new").mkdir()
    assert give_number(tmp_path / "new", tmp_path)[0] == 2
    assert os.listdir(tmp_path / "1") == ["theirs"]
