"""Children never take a file of the current folder for ours or for Python's."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_python_itself_would_take_the_files_of_the_current_folder(folder):
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
def test_children_are_ours(module, arguments, words):
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


def test_no_child_is_started_with_the_current_folder_on_its_path():
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.List, ast.Tuple))
        and any(isinstance(one, ast.Constant) and one.value == "-m" for one in node.elts)
    ]
    assert found == []
