"""Child processes: what they import, how they end, their logs and their memory."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core import processes
from core.processes import module_command

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "trainers", "serving", "components", "tfx_pipeline")
NAMES = ("core", "serving", "trainers", "tfx_pipeline", "random", "json", "socket")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with files and a package of a user's own, called as ours are."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('took {name}.py of the user')\n")
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "__init__.py").write_text("raise SystemExit('took components')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ended(command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_python_itself_imports_files_of_the_current_folder(folder):
    taken = ended([sys.executable, "-m", "trainers.compression.convert_worker", "x"])
    assert "of the user" in taken.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("serving.server", ("--help",), "usage: python -m serving.server"),
        ("serving.benchmark.loadtest.worker", (), "EOFError"),
        ("trainers.compression.convert_worker", ("absent.json",), "No such file"),
        ("trainers.distributed.workers", ("absent.json",), "No such file"),
        ("tfx_pipeline.runners.local", ("absent.json",), "No such file"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_children_import_our_modules(module, arguments, words):
    found = ended(module_command(module, *arguments))
    printed = found.stdout + found.stderr
    assert "took" not in printed
    assert words in printed


@pytest.mark.usefixtures("folder")
def test_arguments_options_and_status_are_those_of_the_module(tmp_path):
    command = module_command("json.tool", "--indent", "1", str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert ended(command).stdout == '{\n "a": [\n  1\n ]\n}\n'
    command = module_command("timeit", "-n", "1", "-r", "1", options=("-W", "error"))
    assert command[1:3] == ["-W", "error"]
    assert ended(command).returncode == 0
    assert ended(module_command("timeit", "--absent")).returncode == 2


def test_no_code_starts_a_child_with_the_current_folder_on_its_path():
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.List, ast.Tuple))
        and any(isinstance(one, ast.Constant) and one.value == "-m" for one in node.elts)
    ]
    assert found == []


def test_an_empty_entry_of_pythonpath_is_not_the_current_folder(folder, monkeypatch):
    """`PYTHONPATH=$PYTHONPATH:/more` has one where the variable was not set."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep + str(folder / "more"))
    plain = ended([sys.executable, "-I", "-c", "import os, json; print(os.environ['PYTHONPATH'])"])
    assert plain.stdout == f"{os.pathsep}{folder / 'more'}\n"
    command = module_command("json.tool", "--help")
    assert "took" in ended(command).stderr
    found = subprocess.run(
        command, env=processes.environment(), capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert processes.environment({"A": "1"})["A"] == "1"
    monkeypatch.setenv("PYTHONPATH", "")
    assert "PYTHONPATH" not in processes.environment()


PARENT = """
import signal, sys, time
from core.processes import module_command, start
code = "print('runs', flush=True); import time; time.sleep(600)"
by = signal.SIGKILL if sys.argv[1] == "with" else None
print(start(module_command("timeit", "-n1", "-r1", code, end_with_parent=by)).pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is of Linux")
@pytest.mark.parametrize("how", ["with", "without"])
def test_a_child_ends_with_its_parent_where_that_is_requested(how):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE, text=True
    )
    lines = {parent.stdout.readline(), parent.stdout.readline()}
    (child,) = (int(line) for line in lines - {"runs\n"})
    parent.kill()
    parent.wait()
    parent.stdout.close()
    if how == "with":
        wait_until(lambda: not _runs(child))
    else:
        assert _runs(child)
        os.kill(child, signal.SIGKILL)


def test_a_child_whose_parent_is_gone_already_does_not_start():
    code = "from core.processes import end_with_parent; end_with_parent(1 << 22); print('ran')"
    found = ended([sys.executable, "-c", code])
    expected = (1, "") if sys.platform == "linux" else (0, "ran\n")
    assert (found.returncode, found.stdout) == expected


STUBBORN = "import signal, sys; signal.signal(15, signal.SIG_IGN); print(1, flush=True); input()"


def test_children_end_by_the_signal_or_else_by_sigkill(tmp_path):
    gentle, stubborn, done = (
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for code in ("print(1, flush=True); input()", STUBBORN, "print(1, flush=True)")
    )
    for child in (gentle, stubborn, done):
        assert child.stdout.readline() == b"1\n"
    done.wait()
    processes.stop(gentle, stubborn, done, grace_s=2)
    statuses = [child.returncode for child in (gentle, stubborn, done)]
    assert statuses == [-signal.SIGTERM, -signal.SIGKILL, 0]
    assert processes.exit_reason(statuses[1]) == "was killed by SIGKILL"
    assert processes.exit_reason(3) == "ended with status 3"
    assert processes.exit_reason(-40) == "was killed by signal 40"
    for child in (gentle, stubborn, done):
        child.stdin.close()
        child.stdout.close()


def test_the_tail_of_a_log_is_read_while_the_child_writes(tmp_path):
    path = tmp_path / "log"
    path.write_bytes("".join(f"line {i}\n\n" for i in range(20_000)).encode() + b"last \xff")
    assert processes.tail(path, 2) == ["line 19999", "last \N{REPLACEMENT CHARACTER}"]
    assert len(processes.tail(path)) == processes.TAIL_LINES
    with path.open("r+b") as file:
        file.seek(5)
        processes.tail(file)
        assert file.tell() == 5
    (tmp_path / "empty").touch()
    assert processes.tail(tmp_path / "empty") == []


def test_output_or_the_last_lines_of_the_error():
    code = "import sys; print(sys.stdin.read() * 2)"
    assert processes.output_of([sys.executable, "-c", code], text="ab", changes={}) == "abab\n"
    failing = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with pytest.raises(processes.ChildError, match="it ended with status 1:\nno such model"):
        processes.output_of(failing, changes={})


GROW = """
import os, sys
from core.processes import peak_memory_bytes, resident_memory_bytes
before = peak_memory_bytes()
block = bytearray(int(sys.argv[1]))
block[::4096] = b"x" * len(block[::4096])
during = resident_memory_bytes(os.getpid())
del block
print(before, during, peak_memory_bytes())
"""

SPAWN = """
import subprocess, sys
from core.processes import peak_memory_bytes
subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=True)
print(peak_memory_bytes(), peak_memory_bytes(children=True))
"""


def test_memory_is_in_bytes_and_not_that_of_the_parent():
    """256 MiB are allocated, so that the result is known without another meter."""
    size = 256 << 20
    parent = bytearray(size)  # `ru_maxrss` of a child starts at the peak of its parent.
    parent[::4096] = b"x" * len(parent[::4096])
    found = ended([sys.executable, "-c", SPAWN, str(size), GROW])
    del parent
    grown, spawned = (list(map(float, line.split())) for line in found.stdout.splitlines())
    before, during, after = grown
    assert before < size / 2
    assert size < during < 1.5 * size
    assert size < after < 1.5 * size
    own, largest = spawned
    assert own < size / 2
    assert size < largest < 1.5 * size


def wait_until(holds):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is of Linux")
def test_available_cores_are_those_of_the_process():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from core.processes import available_cores; print(available_cores())"
    )
    assert ended([sys.executable, "-c", code]).stdout == "1\n"
