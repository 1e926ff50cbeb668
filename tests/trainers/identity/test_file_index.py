"""Facts about files: read once, and again whenever the file may have changed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.files import file_digest
from trainers.identity.file_index import FileIndex

ROOT = Path(__file__).resolve().parents[3]
OLD = time.time_ns() - 10**10


@pytest.fixture
def file(tmp_path):
    """A file whose last write is ten seconds ago; so is, to an index, its last change."""
    path = tmp_path / "shard"
    path.write_bytes(b"one")
    os.utime(path, ns=(OLD, OLD))
    return path


@pytest.fixture
def settled(monkeypatch):
    """Every file counts as untouched for long enough: tests do not wait two seconds."""
    monkeypatch.setattr("trainers.identity.file_index._SETTLED_NS", -(10**12))


@pytest.fixture
def read(tmp_path):
    """`read(file)`: the digest by a new index on the same path, and whether the file was read."""

    def read(file):
        seen = []
        with FileIndex(tmp_path / "files.json").open() as index:
            value = index.fact(file, "sha256", lambda one: seen.append(one) or file_digest(one))
        return value, bool(seen)

    return read


def sha256sum(file):
    return subprocess.run(["sha256sum", file], capture_output=True, text=True).stdout.split()[0]


def test_a_file_is_read_once(file, read, settled):
    assert read(file) == (sha256sum(file), True)
    assert read(file) == (sha256sum(file), False)


def rewritten(file):
    file.write_bytes(b"two")


def kept_times(file):
    times = os.stat(file).st_atime_ns, os.stat(file).st_mtime_ns
    file.write_bytes(b"two")
    os.utime(file, ns=times)


def replaced(file):
    other = file.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, ns=(OLD, OLD))
    os.replace(other, file)


@pytest.mark.parametrize("change", [rewritten, kept_times, replaced])
def test_a_change_of_the_same_length_is_seen(file, read, change, settled):
    before, _ = read(file)
    time.sleep(0.05)  # Several ticks of the kernel's clock.
    change(file)
    after, was_read = read(file)
    assert was_read
    assert after == sha256sum(file) != before


def test_facts_about_a_file_that_just_changed_are_not_stored(file, read):
    file.write_bytes(b"now")
    assert read(file)[1]
    assert read(file)[1]


def test_facts_about_a_file_that_changes_while_it_is_read_are_not_stored(file, tmp_path, settled):
    def compute(one):
        one.write_bytes(b"longer than before")
        return "half"

    with FileIndex(tmp_path / "files.json").open() as index:
        assert index.fact(file, "sha256", compute) == "half"
        assert index.fact(file, "sha256", lambda one: "whole") == "whole"


def test_a_touched_file_is_read_again(file, read, settled):
    first, _ = read(file)
    os.utime(file)
    assert read(file) == (first, True)


def test_kinds_of_facts_are_separate(file, settled):
    index = FileIndex()
    assert index.fact(file, "length", lambda one: one.stat().st_size) == 3
    assert index.fact(file, "sha256", file_digest) == sha256sum(file)
    assert index.fact(file, "length", lambda one: pytest.fail("it is known")) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "\x00"])
def test_a_damaged_index_is_treated_as_empty(file, read, tmp_path, content, settled):
    (tmp_path / "files.json").write_text(content)
    assert read(file) == (sha256sum(file), True)
    assert read(file)[1] is False


def test_facts_about_deleted_files_are_removed(file, read, tmp_path, settled):
    other = tmp_path / "other"
    other.write_bytes(b"1")
    read(file)
    file.unlink()
    read(other)
    assert set(json.loads((tmp_path / "files.json").read_text())) == {str(other)}


def test_facts_of_two_processes_are_merged(tmp_path, settled):
    """Each waits for the other; neither loses the other's facts."""
    program = (
        "import sys\nfrom pathlib import Path\nimport trainers.identity.file_index as files\n"
        "files._SETTLED_NS = -10**12\n"
        "for number in range(20):\n"
        "    with files.FileIndex(Path(sys.argv[1])).open() as index:\n"
        "        index.fact(Path(f'{sys.argv[2]}-{number}'), 'n', lambda one: number)\n"
    )
    for name in "ab":
        for number in range(20):
            (tmp_path / f"{name}-{number}").touch()
    index = tmp_path / "files.json"
    children = [
        subprocess.Popen([sys.executable, "-c", program, index, tmp_path / name], cwd=ROOT)
        for name in "ab"
    ]
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    assert len(json.loads(index.read_text())) == 40
