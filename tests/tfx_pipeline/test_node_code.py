"""The digest of each node covers exactly the code that the node runs."""

import modulefinder
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tfx_pipeline.node_code import NODE_MODULES, node_digest
from trainers.identity.code_digest import PROJECT, CodeBase, code_of
from trainers.identity.file_index import FileIndex

ROOT = Path(__file__).resolve().parents[2]
TYPE_CHECKING = re.compile(r"^if TYPE_CHECKING:\n(?:(?: .*)?\n)+", re.MULTILINE)
OURS = {kind: modules for kind, modules in NODE_MODULES.items() if modules}


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of our sources, and an index with their digests."""
    top = tmp_path_factory.mktemp("ours")
    for name in PROJECT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, top / name, ignore=shutil.ignore_patterns("*.pyc"))
    with pytest.MonkeyPatch.context() as patched:
        # Copied just now, they would be read for every digest.
        patched.setattr("trainers.identity.file_index._SETTLED_NS", -(10**12))
        yield top, FileIndex()


@pytest.fixture
def digests(copied):
    """`digests(path)`: kind of node -> digest of its code in the copy."""
    top, index = copied

    def digests(path=None):
        base = CodeBase(top, index=index, path=path)
        return {kind: base.code(*modules).digest for kind, modules in OURS.items()}

    return digests


@pytest.fixture
def rerun_by(copied, digests):
    """`rerun_by({file: text to add})`: the kinds of nodes that the change runs again."""

    def rerun_by(additions):
        before = digests()
        originals = {copied[0] / name: (copied[0] / name).read_text() for name in additions}
        for name, addition in additions.items():
            (copied[0] / name).write_text(originals[copied[0] / name] + addition)
        after = digests()
        for file, text in originals.items():
            file.write_text(text)
        return {kind for kind in before if before[kind] != after[kind]}

    return rerun_by


def test_the_graph_gives_every_node_its_digest():
    text = (ROOT / "tfx_pipeline/graph.py").read_text()
    asked = set(re.findall(r'node_digest\("(\w+)"\)', text)) | {"Tuner", "Trainer"}
    assert asked == set(NODE_MODULES)
    assert len({node_digest(kind) for kind in NODE_MODULES}) >= len(NODE_MODULES) - 1


def test_an_edited_card_template_writes_cards_again_and_nothing_else(rerun_by):
    assert rerun_by({"trainers/bundles/card/card_template.html.j2": "<!-- -->"}) == {"CardWriter"}
    assert rerun_by({"core/page.css": "/* */"}) == {"CardWriter"}
    assert rerun_by({"core/base.html.j2": "<!-- -->"}) == {"CardWriter"}


def test_the_load_generator_is_in_no_nodes_digest(rerun_by):
    files = (ROOT / "serving/benchmark/loadtest").glob("*.py")
    changes = {str(file.relative_to(ROOT)): "\nCHANGED = True\n" for file in files}
    assert len(changes) > 5
    assert rerun_by(changes) == set()


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        ("trainers/training/losses.py", {"Tuner", "Trainer", "Compressor"}),
        ("trainers/compression/prune.py", {"Compressor"}),
        ("components/data_validation/near_duplicates.py", {"ImageValidator", "DataGate"}),
        ("components/bundle_pusher.py", {"BundlePusher"}),
        ("trainers/search/tuner.py", {"Tuner"}),
    ],
)
def test_changed_code_runs_the_nodes_that_run_it(rerun_by, module, kinds):
    assert rerun_by({module: "\n# A comment.\n"}) == set()
    found = rerun_by({module: "\nCHANGED = True\n"})
    assert kinds <= found
    # Loading a trained folder imports the modules that build and train a model.
    assert found - kinds <= {"Predictor", "ServingValidator", "SignificanceGate", "Benchmarker"}


def test_another_tensorflow_runs_the_nodes_that_import_it(digests, tmp_path):
    site = tmp_path / "site"
    (site / "tensorflow-9.9.0.dist-info").mkdir(parents=True)
    (site / "tensorflow-9.9.0.dist-info/METADATA").write_text("Name: tensorflow\nVersion: 9.9.0\n")
    (site / "tensorflow-9.9.0.dist-info/top_level.txt").write_text("tensorflow\n")
    before, after = digests(), digests([str(site), *sys.path])
    importing = {kind for kind, names in OURS.items() if "tensorflow" in code_of(*names).packages}
    assert {kind for kind in before if before[kind] != after[kind]} == importing
    assert {"Trainer", "Tuner", "Compressor", "Predictor", "ImageValidator"} <= importing
    assert not importing & {"CardWriter", "LiveModel", "ModelSelector"}


@pytest.fixture(scope="module")
def stripped(tmp_path_factory):
    """Our sources without what only type checkers import."""
    top = tmp_path_factory.mktemp("stripped")
    for name in PROJECT:
        for file in (ROOT / name).rglob("*.py"):
            target = top / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(TYPE_CHECKING.sub("", file.read_text()))
    return top


def test_the_standard_librarys_finder_finds_no_module_that_is_not_covered(stripped):
    """Modulefinder reads compiled code, at the top of modules and in functions."""
    found: dict[str, set[str]] = {}
    for name in sorted({name for names in OURS.values() for name in names}):
        finder = modulefinder.ModuleFinder([str(stripped)])
        finder.import_hook(name)
        found[name] = {one for one in finder.modules if one.partition(".")[0] in PROJECT}
        assert len(found[name]) > 2
        assert found[name] <= set(code_of(name).modules), name
    assert "trainers.data.records_check" in found["components.data_validation.image_validator"]


# Every import that happens while the nodes' modules are loaded and used, as lines
# `importer imported`. Registries import for those who read them.
TRACER = """
import builtins, importlib, sys
PROJECT = {project!r}
edges = set()
plain, dynamic = builtins.__import__, importlib.import_module

def importer(frame):
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] in PROJECT and name != "trainers.registry":
            return name
        frame = frame.f_back
    return ""

def note(frame, name):
    if name.partition(".")[0] in PROJECT and importer(frame):
        edges.add((importer(frame), name))

def traced(name, globals=None, locals=None, fromlist=(), level=0):
    found = plain(name, globals, locals, fromlist, level)
    if not level:
        note(sys._getframe(1), name)
        for one in fromlist or ():
            if f"{{name}}.{{one}}" in sys.modules:
                note(sys._getframe(1), f"{{name}}.{{one}}")
    return found

def traced_dynamic(name, package=None):
    note(sys._getframe(1), name)
    return dynamic(name, package)

builtins.__import__, importlib.import_module = traced, traced_dynamic
import json
from pathlib import Path
from types import SimpleNamespace
old = Path(sys.argv[1])
config = json.loads((old / "trained/config.json").read_text())
config["data"]["dir"] = str(old / "data")
config["train"]["epochs"] = 1
{used}
for importer, imported in sorted(edges):
    print("edge", importer, imported)
"""
TRAINING = """
from trainers.run_fn import run_fn
given = {"config": config, "work_dir": str(old / "work"), "code_digest": ""}
out = str(old / "m")
run_fn(SimpleNamespace(custom_config=given, hyperparameters=None, serving_model_dir=out))
"""
EXPORT = """
from trainers.bundles.build import build_bundle
from trainers.training.trained import load_trained
build_bundle(load_trained(old / "m"), old / "draft", ptq=("dynamic",))
"""
NODES = """
import importlib
for name in {names}:
    importlib.import_module(name)
"""


def edges(old, used):
    program = TRACER.format(project=PROJECT, used=used)
    run = subprocess.run(
        [sys.executable, "-c", program, str(old)], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = (line.split() for line in run.stdout.splitlines() if line.startswith("edge "))
    return [(importer, imported) for _, importer, imported in lines]


def covered(found):
    """Asserts that who imports a module has it in its digest; so has, then, who imports that."""
    assert len(found) > 100
    base = CodeBase(ROOT, index=FileIndex())
    of = {importer: set(base.code(importer).modules) for importer, _ in found}
    missing = [(a, b) for a, b in found if b not in of[a] and b != a]
    assert missing == []


def test_what_training_imports_while_it_runs_is_covered(earlier):
    found = edges(earlier("b54914a"), TRAINING)
    assert "trainers.models.cnn" in {imported for _, imported in found}
    covered(found)


@pytest.mark.slow
def test_what_every_node_imports_and_export_does_is_covered(earlier):
    names = sorted({name for names in OURS.values() for name in names} | {"tfx_pipeline.graph"})
    covered(edges(earlier("b54914a"), TRAINING + EXPORT + NODES.format(names=names)))
