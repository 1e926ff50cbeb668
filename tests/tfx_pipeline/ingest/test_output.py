import os
import signal
import subprocess
import sys

import pytest

from tfx_pipeline.ingest.output import replacing
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
with output.replacing(out) as folder:
    (folder / "dataset.json").write_text("new")
    if sys.argv[2] == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def fill(folder, text):
    (folder / "dataset.json").write_text(text)


def interrupted(out):
    with replacing(out) as folder:
        fill(folder, "new")
        raise KeyboardInterrupt


def die(out, when):
    done = subprocess.run([sys.executable, "-c", DIES, str(out), when], check=False)
    assert done.returncode == -signal.SIGKILL


def test_appears_whole_and_replaces_an_older_data_set(tmp_path):
    out = tmp_path / "deep" / "data"
    for text in ("first", "second"):
        with replacing(out) as folder:
            assert folder.parent == out.parent
            fill(folder, text)
        assert (out / "dataset.json").read_text() == text
    assert os.listdir(out.parent) == ["data"]


def test_a_failure_leaves_the_older_data_set_and_nothing_else(tmp_path):
    out = tmp_path / "data"
    with replacing(out) as folder:
        fill(folder, "old")
    with pytest.raises(KeyboardInterrupt):
        interrupted(out)
    assert (out / "dataset.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("when", ["inside", "between renames"])
def test_kill_9_loses_nothing_and_is_swept_by_the_next_run(tmp_path, when):
    out = tmp_path / "data"
    with replacing(out) as folder:
        fill(folder, "old")
    die(out, when)
    assert len(os.listdir(tmp_path)) > 1 or not out.exists()
    with pytest.raises(KeyboardInterrupt):
        interrupted(out)
    assert (out / "dataset.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["data"]


def test_another_process_at_work_is_not_swept(tmp_path):
    theirs = tmp_path / f".data.ingest-new-{os.getppid()}-0000"
    theirs.mkdir()
    with replacing(tmp_path / "data") as folder:
        fill(folder, "mine")
    assert theirs.is_dir()


def test_refuses_what_is_not_a_data_set(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(IngestError, match=r"no dataset.json.*not overwritten"), replacing(tmp_path):
        pass
    with pytest.raises(IngestError, match="is a file"), replacing(tmp_path / "thesis.txt"):
        pass
    assert os.listdir(tmp_path) == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    with replacing(tmp_path / "empty") as folder:
        fill(folder, "fine")
    assert (tmp_path / "empty" / "dataset.json").is_file()
