"""Atomic writes and locks, with real processes that are killed and real limits on file sizes."""

import ast
import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core import files, locks
from core.files import replacing, replacing_folder, writing
from core.locks import LockHeldError, file_lock

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "trainers", "serving", "components", "tfx_pipeline", "tools")
BLOCK = 1 << 20

HALF = """
import sys, time
from pathlib import Path
from core.files import replacing_folder, writing

target = Path(sys.argv[2])
if sys.argv[1] == "file":
    with writing(target) as file:
        file.write(b"new")
        file.flush()
        print("half", flush=True)
        time.sleep(600)
with replacing_folder(target) as folder:
    (folder / "a").write_text("new")
    print("half", flush=True)
    time.sleep(600)
"""

MANY = """
import sys
from core.files import write_bytes

letter = sys.argv[2].encode()
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    write_bytes(sys.argv[1], letter * (1 << 20))
"""

HOLD = """
import sys, time
from pathlib import Path
from core.locks import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def started(code, *arguments, says):
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == f"{says}\n"
    return child


def killed(child):
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


@pytest.fixture
def limited():
    """A limit on file sizes fails a write as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_removes_the_rest(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    child = started(HALF, "file", target, says="half")
    assert len(os.listdir(tmp_path)) == 2
    files.write_text(tmp_path / "b.json", "another target")
    files.write_text(target, "between")
    assert len(list(tmp_path.glob(".a.json.*.tmp"))) == 1, "the file of a live writer is removed"
    killed(child)
    assert target.read_text() == "between"
    files.write_text(target, "last")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]
    assert target.read_text() == "last"


def test_a_killed_writer_leaves_the_old_folder_and_the_next_one_removes_the_rest(tmp_path):
    target = tmp_path / "cache"
    target.mkdir()
    (target / "a").write_text("old")
    child = started(HALF, "folder", target, says="half")
    killed(child)
    assert (target / "a").read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    with replacing_folder(target) as folder:
        (folder / "b").write_text("new")
    assert os.listdir(tmp_path) == ["cache"]
    assert os.listdir(target) == ["b"]


KILLED_BETWEEN = """
import os, pathlib, sys
from core import files, locks
files._exchanged = lambda first, second: False
rename, calls = pathlib.Path.rename, []
def second_never_happens(self, target):
    calls.append(target)
    os._exit(9) if len(calls) == 2 else rename(self, target)
pathlib.Path.rename = second_never_happens
with files.replacing_folder(sys.argv[1]) as folder:
    (folder / "a").write_text("new")
"""


def test_a_folder_whose_writer_was_killed_between_two_renames_is_restored(tmp_path):
    target = tmp_path / "draft"
    target.mkdir()
    (target / "a").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(target)], cwd=ROOT)
    assert (done.returncode, target.exists()) == (9, False)
    files.remove_leftovers(target)
    assert (target / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["draft"]


def can_exchange(folder):
    first, second = folder / "first", folder / "second"
    first.mkdir()
    second.mkdir()
    try:
        return files._exchanged(first, second)
    finally:
        first.rmdir()
        second.rmdir()


@pytest.mark.parametrize("exchanged", [True, False])
def test_an_error_in_the_rename_keeps_the_old_folder(tmp_path, monkeypatch, exchanged):
    target = tmp_path / "draft"
    target.mkdir()
    (target / "a").write_text("old")
    if not exchanged:
        monkeypatch.setattr(files, "_exchanged", lambda first, second: False)
    elif not can_exchange(tmp_path):
        pytest.skip("this system or file system cannot exchange folders")
    rename = Path.rename

    def broken(self, to):
        if self.suffix == ".tmp":
            raise OSError(errno.EIO, "broken disk")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", broken)
    with contextlib.ExitStack() as stack:
        if not exchanged:
            stack.enter_context(pytest.raises(OSError, match="broken disk"))
        with files.replacing_folder(target) as folder:
            (folder / "a").write_text("new")
    assert (target / "a").read_text() == ("new" if exchanged else "old")
    assert os.listdir(tmp_path) == ["draft"]


def test_a_folder_is_there_at_every_moment_of_its_replacement(tmp_path):
    target = tmp_path / "draft"
    with files.replacing_folder(target) as folder:
        (folder / "a").write_text("0")
    if not can_exchange(tmp_path):
        pytest.skip("this system or file system cannot exchange folders")
    done, missing = threading.Event(), []

    def read():
        while not done.is_set():
            missing.extend([1] if not (target / "a").exists() else [])

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        with files.replacing_folder(target) as folder:
            (folder / "a").write_text(str(number))
    done.set()
    reader.join()
    assert not missing


def test_of_two_writers_and_a_kill_at_any_moment_a_reader_sees_whole_files_only(tmp_path):
    target = tmp_path / "model.bin"
    target.write_bytes(b"o" * BLOCK)
    whole = {letter * BLOCK for letter in (b"o", b"a", b"b")}
    children = [started(MANY, target, letter, 60, says="ready") for letter in "ab"]
    while any(child.poll() is None for child in children):
        assert target.read_bytes() in whole
    assert [child.returncode for child in children] == [0, 0]
    [child.stdout.close() for child in children]
    assert os.listdir(tmp_path) == ["model.bin"]
    for reads in range(5):  # The number of reads moves the moment of the kill.
        child = started(MANY, target, "b", 1000, says="ready")
        for _ in range(1 + 3 * reads):
            assert target.read_bytes() in whole
        killed(child)
        assert target.read_bytes() in whole


def test_a_folder_is_replaced_by_a_rename(tmp_path):
    target = tmp_path / "cache"
    for _ in range(2):
        with replacing_folder(target) as folder:
            (folder / "a").touch()
            written = folder.stat().st_ino
        assert target.stat().st_ino == written
    assert os.listdir(tmp_path) == ["cache"]


def test_writers_with_one_process_number_do_not_share_a_temporary_file(tmp_path, monkeypatch):
    """Two hosts, or two containers, that write to one folder."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    target = tmp_path / "a"
    with writing(target) as first:
        first.write(b"first")
        with writing(target) as second:
            second.write(b"second")
        assert target.read_bytes() == b"second"
    assert target.read_bytes() == b"first"


def test_content_is_on_the_disk_before_the_rename_and_the_name_after_it(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, os.replace

    def record_sync(descriptor):
        found = os.fstat(descriptor)
        events.append("folder" if found.st_ino == tmp_path.stat().st_ino else found.st_size)
        sync(descriptor)

    def record_replace(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    files.write_bytes(tmp_path / "a", b"12345")
    assert events == [5, "rename", "folder"]


@pytest.mark.usefixtures("limited")
def test_a_full_disk_names_the_file_and_leaves_the_old_content(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match=rf"File too large: '{target}'"):
        files.write_bytes(target, b"x" * 2000)
    assert target.read_bytes() == b"old"
    with pytest.raises(OSError, match="File too large"), replacing_folder(tmp_path / "f") as folder:
        (folder / "a").write_bytes(b"x" * 2000)
    assert os.listdir(tmp_path) == ["a.bin"]


def test_an_error_in_the_block_leaves_the_old_content(tmp_path):
    target = tmp_path / "a"
    target.write_text("old")

    def stop(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(target) as temporary:
        stop(temporary)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_text_json_long_names_permissions_and_missing_folders(tmp_path):
    name = "ü" * 126 + "x"  # 253 bytes
    path = tmp_path / "new" / name
    files.write_text(path, "a\r\nb\n")
    assert path.read_bytes() == b"a\r\nb\n"
    mask = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", {"b": [1]})
    finally:
        os.umask(mask)
    assert (tmp_path / "a.json").read_text() == json.dumps({"b": [1]}, indent=2) + "\n"
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640
    assert files.read_json(tmp_path / "a.json") == {"b": [1]}
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "bad", "\udcff")
    files.write_text(tmp_path / "good", "\udcff", errors="backslashreplace")
    assert (tmp_path / "good").read_bytes() == b"\\udcff"
    assert sorted(os.listdir(tmp_path)) == ["a.json", "good", "new"]


def test_a_link_is_replaced_and_leftover_links_are_removed(tmp_path):
    link = tmp_path / "latest"
    for target in ("one", "two"):
        files.replace_link(link, target)
        assert os.readlink(link) == target
    (tmp_path / f".latest.{'0' * 32}.tmp").symlink_to("three")
    files.replace_link(link, "four")
    assert os.listdir(tmp_path) == ["latest"]


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    path = tmp_path / ".lock"
    holder = started(HOLD, path, says="held")
    words = f"{path} is locked by process {holder.pid} on {os.uname().nodename} since 2"
    refused = pytest.raises(LockHeldError, match=words)
    with refused as caught, file_lock(path, wait_s=0):
        pytest.fail("two hold it")
    assert caught.value.holder.startswith(f"process {holder.pid} ")
    with pytest.raises(LockHeldError), file_lock(path, wait_s=0.1):
        pytest.fail("two hold it")
    killed(holder)
    with file_lock(path, wait_s=0):
        assert path.read_text().startswith(f"process {os.getpid()} ")


@pytest.mark.parametrize("wait", [float("inf"), 60.0])
def test_a_waiting_process_gets_the_lock(tmp_path, wait):
    order = []

    def second():
        with file_lock(tmp_path / "lock", wait_s=wait):
            order.append("second")

    thread = threading.Thread(target=second)
    with file_lock(tmp_path / "lock"):
        thread.start()
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_a_deleted_lock_file_is_no_lock(tmp_path, monkeypatch):
    """Between the opening and the lock, another process removes the file."""
    path, opened = tmp_path / "lock", []

    def late(*arguments, real=os.open):
        descriptor = real(*arguments)
        if not opened:
            opened.append(path.unlink())
        return descriptor

    monkeypatch.setattr(os, "open", late)
    with file_lock(path, wait_s=0):
        assert path.is_file()
        with pytest.raises(LockHeldError), file_lock(path, wait_s=0):
            pytest.fail("two hold it")


def test_a_child_keeps_an_inherited_lock(tmp_path):
    path = tmp_path / "lock"
    with file_lock(path, inherited=True) as descriptor:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                                 pass_fds=[descriptor])  # fmt: skip
    with pytest.raises(LockHeldError), file_lock(path, wait_s=0):
        pytest.fail("two hold it")
    child.communicate(b"\n")
    with file_lock(path, wait_s=0):
        pass


def test_a_folder_is_locked_as_well(tmp_path):
    with file_lock(tmp_path), pytest.raises(LockHeldError), file_lock(tmp_path, wait_s=0):
        pytest.fail("two hold it")


def test_without_locks_files_are_written_and_a_lock_is_an_error(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for text in ("old", "new"):
        files.write_text(tmp_path / "a", text)
        assert (tmp_path / "a").read_text() == text
    words = r"cannot be locked \(No locks available\); use a file system with locks: '.*lock'"
    with pytest.raises(locks.NoLocksError, match=words), file_lock(tmp_path / "lock"):
        pytest.fail("nothing is locked")


def test_every_file_and_folder_is_flushed(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda d: flushed.append(os.fstat(d).st_ino))
    files.sync_tree(tmp_path)
    entries = [tmp_path, *tmp_path.rglob("*")]
    assert sorted(flushed) == sorted(entry.stat().st_ino for entry in entries)


def test_a_folder_that_cannot_be_flushed_is_no_failure_but_a_full_disk_is(tmp_path, monkeypatch):
    def failing(code):
        def fsync(descriptor):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    failing(errno.EINVAL)
    files.sync_folder(tmp_path)
    failing(errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        files.sync_folder(tmp_path)


def test_no_other_module_replaces_files_or_locks_them():
    banned = {"fcntl", "mkstemp", "NamedTemporaryFile", "replace", "flock"}

    def used(node):
        if isinstance(node, ast.Import):
            return [one.name for one in node.names]
        if isinstance(node, ast.ImportFrom):
            return [node.module or "", *(one.name for one in node.names if node.module == "os")]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            return [node.attr] if node.value.id in ("os", "tempfile", "fcntl") else []
        return []

    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        if file not in (Path(files.__file__), Path(locks.__file__))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if banned & set(used(node))
    ]
    assert found == []
