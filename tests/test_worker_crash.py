"""A worker process that dies ends a parallel run at once, with the test's name."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Runs next to the one that kills its worker: without an end at once, the run takes as long.
LONG = "import time\ndef test_long(): time.sleep(200)\n"
# Of any cost: a crash ends the run long before, and a shared machine may be slow.
LIMIT = 180


@pytest.fixture
def run(tmp_path):
    """`run(kill)`: (status, output) of `make test`'s pytest on a folder with `kill` in a test."""
    (options,) = re.findall(r"^PARALLEL := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_long.py").write_text(LONG)

    def of(text):
        (tmp_path / "test_killed.py").write_text(text)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", *options.split()),
                *("--rootdir", tmp_path, "-p", "no:cacheprovider", tmp_path),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        return done.returncode, done.stdout

    return of


def test_a_killed_worker_ends_the_run_with_the_name_of_its_test(run):
    status, output = run(
        "import os, signal, pytest\n"
        "@pytest.mark.parametrize('number', range(9))\n"
        "def test_kills(number): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert status == 1, output
    assert re.search(r"^FAILED .*test_killed\.py::test_kills\[\d\]", output, re.MULTILINE), output
    assert re.search(r"1 failed.* in [\d.]+s", output.splitlines()[-1]), output
    assert "crashed while running" in output


def test_a_worker_that_dies_while_it_collects_ends_the_run(run):
    status, output = run("import os\nif 'PYTEST_XDIST_WORKER' in os.environ: os._exit(3)\n")
    assert status == 1, output
    assert "outside of a test" in output
