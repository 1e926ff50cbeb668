"""The house rules that a machine can check."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("tfx_pipeline", "components", "trainers", "serving", "core", "tools")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
PYTHON_FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
VERBS_OF_MAKE = {"setup", "demo", "test", "lint", "bench", "serve", "stack2", "clean"}
MAX_LINES = 400
MAX_POSITIONAL = 5

# Each costs a tenth of a second or much more, and nothing of it is needed to print a help text.
HEAVY = {"tensorflow", "tf_keras", "tfx", "apache_beam", "scipy", "sklearn", "pandas", "PIL"}


def named(paths):
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in paths]


def tracked_files():
    """Relative paths of what git has or would take; without git, of everything but what is made."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode == 0 and listing.stdout:
        return [ROOT / name for name in listing.stdout.split("\0") if name]
    made = {".venv", ".tools", ".git", "__pycache__", "demo"}
    return [p for p in ROOT.rglob("*") if not made.intersection(p.relative_to(ROOT).parts)]


def make_verbs():
    return set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def cli_verbs():
    from tfx_pipeline.cli import app

    return {
        command.name or command.callback.__name__.replace("_", "-")
        for command in app.registered_commands
        if command.callback
    } | {str(group.name) for group in app.registered_groups}


def documented_commands(document):
    """(program, verb) of every `make ...` or `sightline ...` in a document's code."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^(?: {4}|\t).*\n)+", text, re.MULTILINE)
    code = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    code += re.findall(r"`([^`\n]+)`", text)
    pattern = re.compile(r"^(?:\S*/)?(make|sightline)\s+([a-z][\w-]*)")
    return {match.groups() for line in code if (match := pattern.match(line))}


def test_help_loads_nothing_heavy():
    program = (
        "import sys\n"
        "from tfx_pipeline.cli import app, main\n"
        "for verb in [[]] + [[c.name or c.callback.__name__] for c in app.registered_commands]:\n"
        "    try:\n"
        "        main([*verb, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, (verb, end.code)\n"
        "print('loaded:', *{name.partition('.')[0] for name in sys.modules})\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    *_, last = run.stdout.splitlines()
    assert last.startswith("loaded:")
    assert "typer" in last.split()
    assert HEAVY.isdisjoint(last.split())


def test_every_verb_of_the_cli_shows_an_example():
    from tfx_pipeline.cli import app

    assert cli_verbs()
    for command in app.registered_commands:
        assert command.epilog, command.callback
        assert "sightline" in command.epilog


def test_make_alone_lists_the_verbs():
    listed = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MAKEFLAGS": ""},
    ).stdout
    assert set(re.findall(r"make ([a-z0-9-]+) ", listed)) >= VERBS_OF_MAKE


@pytest.mark.parametrize("path", named(SOURCES))
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines; a second story wants a second file"


@pytest.mark.parametrize("path", named(SOURCES))
def test_functions_take_few_positional_arguments(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # A decorator may decide for us: TFX's @component and typer read keywords.
            if node.decorator_list:
                continue
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            names = [name for name in names if name not in ("self", "cls")]
            assert len(names) <= MAX_POSITIONAL, f"{node.name} (line {node.lineno}): {names}"


@pytest.mark.parametrize("path", named(PYTHON_FILES))
def test_keras_comes_through_its_one_door(path):
    if path == ROOT / "trainers" / "keras.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        imported = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported = [node.module or ""]
        for name in imported:
            assert name.partition(".")[0] not in ("keras", "tf_keras"), f"line {node.lineno}"
            assert not name.startswith("tensorflow.keras"), f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr == "keras":
            assert getattr(node.value, "id", "") != "tf", f"tf.keras in line {node.lineno}"


def test_no_file_knows_the_machine_it_was_written_on():
    # Built from parts, or this file would be the first to be found.
    home = re.compile(r"""(?:^|[\s"'=:`(,])/(?:work|root|home|Users)/[\w.]""")
    found = []
    for path in tracked_files():
        if not path.is_file() or path.suffix in (".png", ".jpg", ".tflite"):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if home.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documented_commands_exist(document):
    commands = documented_commands(document)
    assert ("make", "test") in commands
    known = {"make": make_verbs(), "sightline": cli_verbs()}
    unknown = [f"{program} {verb}" for program, verb in commands if verb not in known[program]]
    assert not unknown


def test_the_lock_file_is_in_step_with_the_project():
    uv = ROOT / ".tools" / "uv" / "bin" / "uv"
    uv = str(uv) if uv.is_file() else shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not there; `make setup` brings it")
    check = subprocess.run(
        [uv, "lock", "--check", "--offline", "--python", sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, f"run `make lock`\n{check.stderr}"


def test_tests_cannot_reach_a_network():
    # An address reserved for documentation: nobody answers there in any case.
    with socket.socket() as outside, pytest.raises(OSError, match="tests have no network"):
        outside.connect(("192.0.2.1", 80))
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
