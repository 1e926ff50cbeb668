"""Killed jobs and full disks leave no partial output, and the next job resumes."""

import json
import subprocess
import sys

import pytest

from tfx_pipeline.ingest import ingest
from trainers.data import features

# Attempts with 40 images that are killed.
KILLED = ("changed", "older", "late")
# Beam takes seconds to load, so one process loads it and forks for each attempt.
ATTEMPTS = """
import os, resource, signal, sys
from pathlib import Path
import apache_beam, tensorflow
from tfx_pipeline.ingest import IngestError, check, ingest, job, shards

check_chunk, write_shard, publish = check.Checker.__call__, shards.ShardWriter.__call__, job.publish

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def checked(self, chunk):
    check_chunk(self, chunk)
    die()

def published(finished, out):
    publish(finished, out)
    die()

def limited(self, shard):
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    write_shard(self, shard)

def attempt(folder, shards):
    try:
        ingest("folder", folder / "out", where=folder / "pets", shards=shards)
    except IngestError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        (folder / "said").write_text(str(error))

for name in ("resumed", "changed", "older", "late", "full"):
    child = os.fork()
    if child == 0:
        if name == "full":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            shards.ShardWriter.__call__ = limited
        elif name == "late":
            job.publish = published
        else:
            check.Checker.__call__ = checked
        attempt(Path(sys.argv[1]) / name, 1 if name == "full" else 2)
        os._exit(0)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def attempts(tmp_path_factory, pets, files):
    """A folder for each attempt: images, and what was left.

    `resumed`, `changed` and `older` were killed after one chunk of verdicts, `late` while it
    replaced a finished data set, whose digests are in its `whole.json`; `full` had 8 KiB of space a
    file.
    """
    folder = tmp_path_factory.mktemp("attempts")
    for name, count in (
        ("resumed", 300),
        ("changed", 40),
        ("older", 40),
        ("late", 40),
        ("full", 60),
    ):
        pets(folder / name / "pets", count)
    ingest("folder", folder / "late" / "out", where=folder / "late" / "pets", shards=2)
    (folder / "late" / "whole.json").write_text(json.dumps(files(folder / "late" / "out")))
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(folder)], capture_output=True, text=True, check=False
    )
    ended = dict(line.split() for line in done.stdout.splitlines())
    assert ended == {**dict.fromkeys(("resumed", "changed", "older", "late"), "-9"), "full": "0"}, (
        done.stderr
    )
    return folder


def test_a_killed_job_resumes_and_yields_the_same_bytes(attempts, tmp_path, files):
    folder, root = attempts / "resumed", attempts / "resumed" / "pets"
    whole = ingest("folder", tmp_path / "whole", where=root, shards=2)
    assert not (folder / "out").exists()
    (work,) = folder.glob(".out.ingest-*")
    (kept,) = (work / "verdicts").iterdir()
    lines = kept.read_text().splitlines()
    # A verdict that only the first attempt can have written, to check that it is kept.
    marked = json.loads(lines[0])
    marked["findings"].append({"kind": "animated", "file": "from the first attempt", "detail": ""})
    kept.write_text("\n".join([json.dumps(marked), *lines[1:]]) + "\n")
    info = ingest("folder", folder / "out", where=root, shards=2)
    assert info == whole
    report = json.loads((folder / "out" / features.REPORT_FILE).read_text())
    assert report["findings"]["animated"]["files"][0]["file"] == "from the first attempt"
    found = files(folder / "out")
    for name, digest in files(tmp_path / "whole").items():
        if name.startswith("Split-"):
            assert found[name] == digest
    assert not list(folder.glob(".out.ingest-*"))


def test_work_of_an_attempt_on_other_images_is_not_taken_up(attempts, noise, records):
    folder, root = attempts / "changed", attempts / "changed" / "pets"
    assert list(folder.glob(".out.ingest-*/verdicts/*"))
    noise(root / "cat" / "01.png", 1000)
    ingest("folder", folder / "out", where=root, shards=2)
    assert records(folder / "out")["cat/01.png"][3] == (root / "cat" / "01.png").read_bytes()


def test_work_of_other_code_is_not_taken_up(attempts, monkeypatch):
    folder = attempts / "older"
    (kept,) = folder.glob(".out.ingest-*/verdicts/*")
    kept.write_text("of a version that wrote something else\n")
    monkeypatch.setattr("tfx_pipeline.ingest.job.code_digest", lambda *modules: "changed")
    info = ingest("folder", folder / "out", where=folder / "pets", shards=2)
    assert sum(split.examples for split in info.splits.values()) == 40


def test_a_job_killed_while_the_old_data_set_is_removed_is_not_taken_for_done(attempts, files):
    folder = attempts / "late"
    ingest("folder", folder / "out", where=folder / "pets", shards=2)
    assert files(folder / "out") == json.loads((folder / "whole.json").read_text())


def test_a_full_disk_is_named_and_leaves_nothing_half_written(attempts, records):
    folder = attempts / "full"
    assert "free some space and run the same command again" in (folder / "said").read_text()
    assert not (folder / "out").exists()
    assert not list(folder.rglob("data_tfrecord*"))
    ingest("folder", folder / "out", where=folder / "pets", shards=1)
    assert len(records(folder / "out")) == 60
