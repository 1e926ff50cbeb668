"""Project conventions that a machine can check."""

import ast
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tfx_pipeline", "components", "trainers", "serving", "core", "tools")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
PYTHON_FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
MAKE_TARGETS = {"setup", "demo", "test", "lint", "bench", "serve", "stack2", "clean"}
MAX_LINES = 400
MAX_POSITIONAL = 5

# Each takes 0.1 s or much more to import, and a help text needs none of them.
HEAVY = {"tensorflow", "tf_keras", "tfx", "apache_beam", "scipy", "sklearn", "pandas", "PIL"}


def by_path(paths):
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in paths]


def tracked_files():
    """Files that git tracks or would add; without git, all files except build outputs."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode == 0 and listing.stdout:
        return [ROOT / name for name in listing.stdout.split("\0") if name]
    built = {".venv", ".tools", ".git", "__pycache__", "demo"}
    return [p for p in ROOT.rglob("*") if not built.intersection(p.relative_to(ROOT).parts)]


def make_targets():
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


def test_make_lists_its_targets():
    listed = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MAKEFLAGS": ""},
    ).stdout
    assert set(re.findall(r"make ([a-z0-9-]+) ", listed)) >= MAKE_TARGETS


@pytest.mark.parametrize("path", by_path(SOURCES))
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines; the limit is {MAX_LINES}; split the file by concern"


@pytest.mark.parametrize("path", by_path(SOURCES))
def test_functions_take_few_positional_arguments(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # TFX's @component and typer read the parameters as keywords.
            if node.decorator_list:
                continue
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            names = [name for name in names if name not in ("self", "cls")]
            assert len(names) <= MAX_POSITIONAL, f"{node.name} (line {node.lineno}): {names}"


@pytest.mark.parametrize("path", by_path(PYTHON_FILES))
def test_keras_is_imported_from_trainers_keras(path):
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


def test_no_file_contains_a_path_of_a_developers_machine():
    # A pattern that does not match itself.
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
    known = {"make": make_targets(), "sightline": cli_verbs()}
    unknown = [f"{program} {verb}" for program, verb in commands if verb not in known[program]]
    assert not unknown


def test_the_readme_lists_every_package():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    top, listed = "", set()
    for indent, name in re.findall(r"^    (  )?([a-z_]+)/  ", text, re.MULTILINE):
        top = top if indent else name
        listed.add(f"{top}/{name}" if indent else name)
    packages = {path.parent.relative_to(ROOT) for path in SOURCES if path.name == "__init__.py"}
    there = {path.as_posix() for path in packages if len(path.parts) <= 2}
    assert listed - {"benchmarks", "docs", "notebooks", "tests", "tools"} == there


def test_the_lock_file_matches_the_project():
    uv = ROOT / ".tools" / "uv" / "bin" / "uv"
    uv = str(uv) if uv.is_file() else shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed; run `make setup`")
    check = subprocess.run(
        [uv, "lock", "--check", "--offline", "--python", sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, f"run `make lock`\n{check.stderr}"


def test_tests_cannot_reach_a_network():
    # An address reserved for documentation, which no host has.
    with socket.socket() as outside, pytest.raises(OSError, match="tests have no network"):
        outside.connect(("192.0.2.1", 80))
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())


@pytest.fixture(scope="module")
def prose():
    spec = importlib.util.spec_from_file_location("prose", ROOT / "tools" / "prose.py")
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks its own module up.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "prose", module)
        spec.loader.exec_module(module)
        yield module


def test_prose_avoids_the_words_of_the_table(prose):
    found = prose.findings(prose.files_of([ROOT]), prose.table())
    assert not [str(one) for one in found]


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("docstring.py", '"""One.\n\nThe gizmo is here."""\nx = 1\n', [3]),
        ("help.py", "Option(help='Gizmos', flag='gizmo')\n", [1]),
        ("message.py", "raise ValueError(f'no gizmo {x}')\n", [1]),
        ("comment.py", "x = 1  # run\n# away\ny = 2\n# It will run\n# away.\n", [4]),
        ("code.py", "gizmo = run(away)\nkey = 'gizmo'\nx = 'use `gizmo x` here'\n", []),
        ("page.md", "A\ngizmo to run\naway, `gizmo()`\n\n```\ngizmo\n```\n--gizmo\n", [2, 2]),
        ("page.j2", "<p class='gizmo'>{{ gizmo }} {{ 'a gizmo' }}\n<i title=\"gizmo\">", [1, 2]),
        ("style.html", "<style>.gizmo { }</style><b>fine</b>", []),
        ("script.sh", 'gizmo=1 # a gizmo\necho "no gizmo"\n', [1, 2]),
    ],
)
def test_words_are_found_in_prose_and_not_in_code(prose, tmp_path, name, text, lines):
    (tmp_path / "words.toml").write_text('[words]\n"gizmos?" = "part"\n"run away" = "leave"\n')
    (tmp_path / name).write_text(text)
    found = prose.findings([tmp_path / name], prose.table(tmp_path / "words.toml"))
    assert [one.line for one in found] == lines
    assert all(str(one).endswith((": write part", ": write leave")) for one in found)
