"""The scripts that find uv and a Python, on machines of every kind."""

import fcntl
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


NEWEST = "3.13 3.12 3.11"


def fake_machine(script, system="Linux", machine="x86_64", glibc="glibc 2.36"):
    """The folder of a `uname` and a `getconf` of such a machine; without glibc, `getconf` fails."""
    script("uname", f'case "$1" in -s) echo {system} ;; -m) echo {machine} ;; esac')
    return script("getconf", f'echo "{glibc}"' if glibc else "exit 1").parent


@pytest.mark.parametrize(
    ("machine", "versions", "why"),
    [
        ({"glibc": "glibc 2.36"}, "3.10", "TensorFlow 2.16, as glibc 2.36 is older than 2.39"),
        ({"glibc": "glibc 2.4"}, "3.10", "glibc 2.4 is older"),  # Not a decimal fraction.
        ({"glibc": "glibc 2.39"}, NEWEST, "TensorFlow 2.21, as glibc 2.39 is not older than 2.39"),
        ({"glibc": "glibc 2.41"}, NEWEST, "glibc 2.41"),
        ({"glibc": "glibc 3.0"}, NEWEST, "glibc 3.0"),
        ({"glibc": ""}, "3.10", "no glibc was found"),
        ({"system": "Darwin", "machine": "arm64", "glibc": ""}, NEWEST, "Apple silicon"),
    ],
)
def test_the_newest_stack_that_the_machine_can_run(tree, script, machine, versions, why):
    found = call(tree, "stack_versions.sh", path=fake_machine(script, **machine))
    assert found.returncode == 0, found.stderr
    first, reason = found.stdout.splitlines()
    assert first == versions
    assert why in reason


def test_a_machine_without_any_stack_is_named(tree, script):
    path = fake_machine(script, system="Darwin", machine="x86_64", glibc="")
    found = call(tree, "stack_versions.sh", path=path)
    assert (found.returncode, found.stdout) == (1, "")
    assert "no stack for Darwin on x86_64" in found.stderr


def fake_python(script, version):
    """A fake `python<version>` for set-up, with C headers."""
    path = script(f"python{version}", "")
    (path.parent / "Python.h").touch()
    path.write_text(
        "#!/bin/bash\n"
        f'case "$*" in "- {version}") echo "$0" ;; --version) echo Python {version}.9 ;;\n'
        f'  *sysconfig*) echo {path.parent} ;; "-c "*) echo {version} ;; *) exit 1 ;; esac\n'
    )
    return path


@pytest.mark.parametrize(
    ("glibc", "there", "variables", "taken", "why"),
    [
        ("2.41", ["3.10", "3.11", "3.12"], {}, "3.12", "glibc 2.41 is not older"),
        ("2.36", ["3.10", "3.12"], {}, "3.10", "glibc 2.36 is older"),
        ("2.41", ["3.10"], {}, "3.10", "none of Python 3.13, 3.12, 3.11 runs here"),
        ("2.41", ["3.10", "3.12"], {"SIGHTLINE_PYTHON": "3.10"}, "3.10", "set by SIGHTLINE_PYTHON"),
        ("2.36", ["3.10", "3.12"], {"SIGHTLINE_PYTHON": "3.12"}, "3.12", "set by SIGHTLINE_PYTHON"),
    ],
)
def test_set_up_uses_that_stack_and_prints_the_reason(
    tree, script, glibc, there, variables, taken, why
):
    uv = script("uv", fake_uv("99.0.0", 'echo "$*" >>"$HOME/calls"; [ "$1" = sync ]'))
    fake_machine(script, glibc=f"glibc {glibc}")
    script("c++", "")
    for version in there:
        fake_python(script, version)
    # Pythons of this machine are out of reach: /usr/bin may hold one.
    for name in ("bash", "dirname", "cat", "env", "sort", "head", "awk", "cut"):
        real = shutil.which(name)
        assert real is not None
        (uv.parent / name).symlink_to(real)
    find = tree / "tools" / "find_python.sh"
    find.write_text(find.read_text().replace('/usr/bin/"python', '/nowhere/"python'))
    (tree / ".venv").mkdir()
    done = subprocess.run(
        [tree / "tools" / "setup.sh"],
        env={"PATH": str(uv.parent), "HOME": str(tree)} | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert why in done.stdout.splitlines()[0]
    assert f"Python {taken}.9 at {uv.parent}/python{taken}" in done.stdout
    assert f"--python {uv.parent}/python{taken}" in (tree / "calls").read_text()
    assert (tree / ".venv" / ".sightline-stamp").read_text() == f"{taken}\n"


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


def test_a_shim_that_does_not_run_is_skipped(tree, script):
    shim = script(f"python{VERSION}", "echo command not found >&2; exit 127")
    real = tree / ".pyenv" / "versions" / f"{VERSION}.99" / "bin" / "python"
    real.parent.mkdir(parents=True)
    real.symlink_to(Path(sys.executable).resolve())
    found = call(tree, "find_python.sh", "false", VERSION, path=shim.parent)
    assert found.returncode == 0, found.stderr
    assert os.path.realpath(found.stdout.strip()) == os.path.realpath(sys.executable)


def test_the_requested_python_comes_first(tree, script):
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


def test_stack_2_runs_on_a_machine_that_is_new_enough(tree, script):
    uv = script("uv", fake_uv("99.0.0"))
    fake_machine(script, glibc="glibc 2.41")
    fake_python(script, "3.13")
    script("make", 'echo "make $1 | $2 | $SIGHTLINE_PYTHON"')
    # Otherwise it would build a root as root, and fail as another user.
    done = call(tree, "stack2.sh", "test", "tests/trainers", "-x", path=uv.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "stack 2: on this machine, with Python 3.13",
        "make test | ARGS=tests/trainers -x | 3.13",
    ]


def test_stack_2_on_an_older_machine_needs_root(tree, script):
    path = fake_machine(script, glibc="glibc 2.36")
    script("id", "echo 1000")
    done = call(tree, "stack2.sh", path=path)
    assert done.returncode == 1
    assert "sudo make stack2" in done.stderr


def test_one_run_at_a_time_uses_the_root(tree, script):
    path = fake_machine(script, glibc="glibc 2.36")
    script("id", "echo 0")
    script("debootstrap", "echo it must not build >&2; exit 1")
    base = tree / "stack2"
    base.mkdir()
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = call(tree, "stack2.sh", "smoke", path=path, SIGHTLINE_STACK2=str(base))
    assert done.returncode == 1
    assert "another run uses" in done.stderr
