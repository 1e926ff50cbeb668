import errno
import os
import signal
import subprocess
import sys

import pytest

from tfx_pipeline.ingest.output import full_disk_named, publish, work_folder, writing
from tfx_pipeline.ingest.source import IngestError

DIES = """
import os, signal, sys
from pathlib import Path
from tfx_pipeline.ingest import output
out = Path(sys.argv[1])
if sys.argv[2] == "between renames":
    rename = Path.rename
    def once(self, target):
        rename(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
    Path.rename = once
with output.work_folder(out, "abc") as work:
    (work / "out").mkdir()
    (work / "out" / "dataset.json").write_text("new")
    if sys.argv[2] == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
    output.publish(work / "out", out)
"""


def finish(out, text, key="abc"):
    with work_folder(out, key) as work:
        made = work / "out"
        made.mkdir(exist_ok=True)
        (made / "dataset.json").write_text(text)
        publish(made, out)


def write_half(path):
    with writing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_appears_whole_and_replaces_an_older_data_set(tmp_path):
    out = tmp_path / "deep" / "data"
    for text in ("first", "second"):
        finish(out, text)
        assert (out / "dataset.json").read_text() == text
    assert [one for one in os.listdir(out.parent) if not one.startswith(".")] == ["data"]


def test_work_is_kept_for_the_same_key_and_removed_for_another(tmp_path):
    work = tmp_path / ".data.ingest-abc"
    with work_folder(tmp_path / "data", "abc") as first:
        assert first == work
        (work / "half").touch()
    with work_folder(tmp_path / "data", "abc") as again:
        assert again == work
        assert (again / "half").is_file()
    with work_folder(tmp_path / "data", "def") as other:
        assert other != work
    assert not work.exists()


@pytest.mark.parametrize("when", ["inside", "between renames"])
def test_kill_9_loses_nothing(tmp_path, when):
    out = tmp_path / "data"
    finish(out, "old")
    done = subprocess.run([sys.executable, "-c", DIES, str(out), when], check=False)
    assert done.returncode == -signal.SIGKILL
    with work_folder(out, "def"):
        assert (out / "dataset.json").read_text() == "old"


def test_two_jobs_do_not_write_one_data_set(tmp_path):
    for key in ("abc", "def"):
        with (
            work_folder(tmp_path / "data", "abc"),
            pytest.raises(IngestError, match="another job"),
            work_folder(tmp_path / "data", key),
        ):
            pass


def test_refuses_what_is_not_a_data_set(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(IngestError, match=r"no dataset.json.*not overwritten"):
        finish(tmp_path, "new")
    with pytest.raises(IngestError, match="is a file"):
        finish(tmp_path / "thesis.txt", "new")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    finish(tmp_path / "empty", "fine")
    assert (tmp_path / "empty" / "dataset.json").is_file()


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "a.json"
    with writing(path) as file:
        file.write(b"whole")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["a.json"]


def test_only_a_full_disk_is_called_one(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(IngestError, match=r"a.json could not be written.*free some space"),
        full_disk_named(tmp_path / "a.json"),
    ):
        raise full
    with pytest.raises(PermissionError), full_disk_named(tmp_path / "a.json"):
        raise PermissionError
    with (
        open("/dev/full", "wb", buffering=0) as device,
        pytest.raises(IngestError, match="No space left"),
        full_disk_named(tmp_path),
    ):
        device.write(b"x")
