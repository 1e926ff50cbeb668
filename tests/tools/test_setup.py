"""The scripts that find uv and a Python, on machines of every kind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = "{}.{}".format(*sys.version_info)


@pytest.fixture
def tree(tmp_path):
    """A copy of what set-up reads, with nothing in .tools yet."""
    target = tmp_path / "a tree"
    shutil.copytree(ROOT / "tools", target / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".python-version", target)
    return target


def call(tree, name, *arguments, path, **variables):
    """Runs a script of `tree` with only `path` and the system's own tools on PATH."""
    environment = {"PATH": f"{path}:/usr/bin:/bin", "HOME": str(tree), "TMPDIR": "/tmp"}
    return subprocess.run(
        [tree / "tools" / name, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        cwd="/",
    )


def fake_uv(version, fetches="exit 1"):
    return f'case "$*" in --version) echo "uv {version}" ;; *) {fetches} ;; esac'


def test_a_new_enough_uv_on_the_path_is_taken(tree, script):
    uv = script("uv", fake_uv("99.1.0"))
    found = call(tree, "find_uv.sh", path=uv.parent)
    assert found.stdout.strip() == str(uv)


def test_our_own_uv_is_taken_when_the_one_on_the_path_is_too_old(tree, script):
    old = script("uv", fake_uv("0.4.9"))
    own = tree / ".tools" / "uv" / "bin" / "uv"
    own.parent.mkdir(parents=True)
    own.write_text(f"#!/bin/bash\n{fake_uv('0.13.9')}\n")
    own.chmod(0o755)
    found = call(tree, "find_uv.sh", path=old.parent)
    assert found.stdout.strip() == str(own)


def test_a_uv_that_cannot_be_installed_gives_the_remedy(tree, script):
    for version in ("", ".10", ".11", ".12", ".13"):
        last = script(f"python3{version}", "echo no venv module here >&2; exit 1")
    # /usr/bin is left out: a real Python there would be tried, and reach for the network.
    for name in ("bash", "dirname", "mkdir", "rm", "tail", "sed", "cat", "env", "awk", "sort"):
        real = shutil.which(name)
        assert real is not None
        (last.parent / name).symlink_to(real)
    run = subprocess.run(
        [tree / "tools" / "find_uv.sh"],
        env={"PATH": str(last.parent), "HOME": str(tree), "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    assert "package index within reach" in run.stderr
    assert len(run.stderr.splitlines()) < 25


def test_a_shim_that_does_not_run_is_passed_over(tree, script):
    shim = script(f"python{VERSION}", "echo command not found >&2; exit 127")
    real = tree / ".pyenv" / "versions" / f"{VERSION}.99" / "bin" / "python"
    real.parent.mkdir(parents=True)
    real.symlink_to(Path(sys.executable).resolve())
    found = call(tree, "find_python.sh", "false", VERSION, path=shim.parent)
    assert found.returncode == 0, found.stderr
    assert os.path.realpath(found.stdout.strip()) == os.path.realpath(sys.executable)


def test_the_python_asked_for_comes_first(tree, script):
    wanted = script("mine", f'exec "{sys.executable}" "$@"')
    found = call(tree, "find_python.sh", "false", VERSION, path="", PYTHON=str(wanted))
    assert found.stdout.strip() == sys.executable


def test_uv_fetches_one_as_a_last_resort(tree, script):
    uv = script("uv", fake_uv("99.0.0", 'echo "/fetched/python3.99"'))
    found = call(tree, "find_python.sh", str(uv), "3.99", path="")
    assert found.stdout.strip() == "/fetched/python3.99"


def test_no_python_at_all_gives_three_remedies_on_one_screen(tree, script):
    uv = script("uv", fake_uv("99.0.0"))
    found = call(tree, "find_python.sh", str(uv), "3.99", path="", PYTHON=sys.executable)
    assert found.returncode == 1
    assert found.stdout == ""
    for remedy in ("uv python install 3.99", "pyenv install 3.99", "PYTHON=/path/to/python3.99"):
        assert remedy in found.stderr
    assert f"PYTHON={sys.executable} is not 3.99" in found.stderr
    assert len(found.stderr.splitlines()) < 25


def test_set_up_without_a_compiler_says_how_to_get_one(tree, script):
    uv = script("uv", fake_uv("99.0.0"))
    for name in ("bash", "dirname", "cat", "env", "sort", "head", "awk", "uname", "basename"):
        real = shutil.which(name)
        assert real is not None
        (uv.parent / name).symlink_to(real)
    run = subprocess.run(
        [tree / "tools" / "setup.sh"],
        env={
            "PATH": str(uv.parent),
            "HOME": str(tree),
            "PYTHON": sys.executable,
            "SIGHTLINE_PYTHON": VERSION,
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "C++ compiler" in run.stderr
    assert "apt-get install g++" in run.stderr
