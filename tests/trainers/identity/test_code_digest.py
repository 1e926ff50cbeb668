"""What a code digest includes and ignores, for a small project and for our packages."""

import re
import shutil
from pathlib import Path

import pytest

from trainers.identity.code_digest import PROJECT, CodeBase, code_digest, code_of
from trainers.identity.file_index import FileIndex

ROOT = Path(__file__).resolve().parents[3]

# A project with every way of naming a module; `trainers.node` is what is digested.
SOURCES = {
    "trainers/__init__.py": '"""Trainers."""\n',
    "trainers/node.py": '''
"""A node."""
from typing import TYPE_CHECKING
import os, layerlib
from trainers import helper
from trainers.registry import shapes
if TYPE_CHECKING:
    from trainers.unused import Only

RUN = "trainers.text.run"

def work(x):
    """Works."""
    from . import inside
    import trainers.deep.leaf
    # A comment.
    return [f"trainers.family.{x}", "page.html.j2"]
''',
    "trainers/helper.py": "import tensorflow as tf\n",
    "trainers/inside.py": "VALUE = 1\n",
    "trainers/text.py": "def run(): pass\n",
    "trainers/unused.py": "class Only: pass\n",
    "trainers/other.py": 'import unrelated\nNAME = "mail.html.j2"\n',
    "trainers/deep/__init__.py": "",
    "trainers/deep/leaf.py": "from ..deep import twig\n",
    "trainers/deep/twig.py": "",
    "trainers/family/__init__.py": "",
    "trainers/family/one.py": "",
    "trainers/registry.py": (
        "class Registry: pass\n"
        'shapes: Registry = Registry("shape", "trainers.shapes")\n'
        'colors = Registry("color", "trainers.colors")\n'
    ),
    "trainers/shapes/__init__.py": "",
    "trainers/shapes/circle.py": "from trainers.registry import shapes\n",
    "trainers/colors/__init__.py": "",
    "trainers/colors/red.py": "",
    "trainers/page.html.j2": '<p>{% include "part.html.j2" %}</p>',
    "trainers/part.html.j2": "part",
    "trainers/mail.html.j2": "mail",
    "trainers/README.md": "words",
    "trainers/shapes/sizes.json": "[1]",
    "tensorflow/__init__.py": "",
}
INSTALLED = {
    "tensorflow": ("2.16.2", "tensorflow"),
    "layer-lib": ("1.0", "layerlib"),
    "unrelated": ("3.1", "unrelated"),
}


@pytest.fixture
def project(tmp_path):
    for name, text in SOURCES.items():
        file = tmp_path / "src" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for name, (version, top) in INSTALLED.items():
        install(tmp_path, name, version, top)
    return tmp_path


def install(project, name, version, top):
    for old in (project / "site").glob(f"{name.replace('-', '_')}-*.dist-info"):
        shutil.rmtree(old)
    folder = project / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "top_level.txt").write_text(f"{top}\n")


def code(project, *modules, **options):
    base = CodeBase(project / "src", index=FileIndex(), path=[str(project / "site")])
    return base.code(*modules or ("trainers.node",), **options)


def test_imports_are_found_in_all_positions(project):
    found = code(project)
    assert set(found.modules) == {
        *("trainers", "trainers.node", "trainers.helper", "trainers.inside", "trainers.text"),
        *("trainers.deep", "trainers.deep.leaf", "trainers.deep.twig"),
        *("trainers.family", "trainers.family.one", "trainers.registry"),
        *("trainers.shapes", "trainers.shapes.circle", "trainers/shapes/sizes.json"),
        *("trainers/page.html.j2", "trainers/part.html.j2"),
    }
    assert {name: found.packages[name] for name in found.packages if name != "python"} == {
        "tensorflow": "2.16.2",
        "layer-lib": "1.0",
    }


COUNTS = [
    ("trainers/node.py", "return [", "return 1, ["),
    ("trainers/inside.py", "1", "2"),
    ("trainers/text.py", "pass", "return 0"),
    ("trainers/deep/twig.py", "", "x = 1"),
    ("trainers/family/one.py", "", "x = 1"),
    ("trainers/shapes/circle.py", "import shapes", "import shapes, colors"),
    ("trainers/part.html.j2", "part", "whole"),
    ("trainers/shapes/sizes.json", "[1]", "[2]"),
]
COUNTS_NOT = [
    ("trainers/node.py", "# A comment.", "# Another."),
    ("trainers/node.py", '"""Works."""', '"""Works\n\n    hard."""'),
    ("trainers/node.py", '"""A node."""', "\n\n"),
    ("trainers/node.py", "import os, layerlib", "import os, \\\n    layerlib"),
    ("trainers/other.py", "import unrelated", "import unrelated, os"),
    ("trainers/unused.py", "pass", "x = 1"),
    ("trainers/colors/red.py", "", "x = 1"),
    ("trainers/mail.html.j2", "mail", "letter"),
    ("trainers/README.md", "words", "more"),
    ("trainers/new.py", "", "x = 1"),
]


def change(project, name, old, new):
    file = project / "src" / name
    text = file.read_text() if file.is_file() else ""
    assert old in text
    file.write_text(text.replace(old, new, 1) if old else text + new)


@pytest.mark.parametrize(("name", "old", "new"), COUNTS)
def test_code_that_a_node_runs_changes_its_digest(project, name, old, new):
    before = code(project).digest
    assert code(project).digest == before
    change(project, name, old, new)
    assert code(project).digest != before


@pytest.mark.parametrize(("name", "old", "new"), COUNTS_NOT)
def test_code_that_a_node_does_not_run_changes_nothing(project, name, old, new):
    before = code(project).digest
    change(project, name, old, new)
    assert code(project).digest == before


def test_a_new_module_of_a_registry_changes_the_digest(project):
    before = code(project).digest
    (project / "src/trainers/shapes/square.py").write_text("")
    assert code(project).digest != before


def test_an_unmentioned_data_file_belongs_to_its_package(project):
    before = code(project).digest, code(project, "trainers.deep.twig").digest
    (project / "src/trainers/table.csv").write_text("1,2")
    after = code(project).digest, code(project, "trainers.deep.twig").digest
    assert before[0] != after[0]
    # `trainers/__init__.py` is imported for every module below it.
    assert before[1] != after[1]
    (project / "src/trainers/deep/list.csv").write_text("1")
    assert code(project, "trainers.helper").digest == code(project, "trainers.helper").digest
    assert "trainers/deep/list.csv" not in code(project, "trainers.helper").modules


def test_only_imported_packages_are_included(project):
    before = code(project).digest
    install(project, "unrelated", "4.0", "unrelated")
    install(project, "documentation-extra", "1.0", "sphinx")
    assert code(project).digest == before
    install(project, "tensorflow", "2.21.0", "tensorflow")
    assert code(project).digest != before
    assert code(project, packages=["sphinx"]).packages["documentation-extra"] == "1.0"
    # Other nodes do not care.
    assert "tensorflow" not in code(project, "trainers.inside").packages


def test_a_namespace_package_resolves_to_the_distribution_of_the_import(project):
    for name, part in (("protobuf", "protobuf"), ("google-cloud", "cloud")):
        install(project, name, "1.0", "google")
        (folder,) = (project / "site").glob(f"{name.replace('-', '_')}-*")
        (folder / "RECORD").write_text(f"google/{part}/__init__.py,,\n")
        # The backport `importlib_metadata`, once imported, leaves out files that are not there.
        (project / "site/google" / part).mkdir(parents=True)
        (project / "site/google" / part / "__init__.py").touch()
    (project / "src/trainers/inside.py").write_text("from google.protobuf import text_format\n")
    assert set(code(project).packages) == {"python", "tensorflow", "layer-lib", "protobuf"}


def test_the_index_gives_the_same_digest_without_reading(project, monkeypatch):
    monkeypatch.setattr("trainers.identity.file_index._SETTLED_NS", -(10**12))
    path = [str(project / "site")]
    with FileIndex(project / "files.json").open() as index:
        first = CodeBase(project / "src", index=index, path=path).code("trainers.node")
    monkeypatch.setattr(
        "trainers.identity.code_digest.read_code", lambda *a, **k: pytest.fail("read")
    )
    with FileIndex(project / "files.json").open() as index:
        assert CodeBase(project / "src", index=index, path=path).code("trainers.node") == first


def test_an_unknown_module_is_an_error():
    with pytest.raises(ValueError, match=r"no module 'trainers\.loob' in "):
        code_digest("trainers.loob")


def test_the_projects_packages_are_those_of_the_wheel():
    text = (ROOT / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^packages = \[(.*)\]$", text, re.MULTILINE)
    assert set(re.findall(r'"(\w+)"', listed)) <= set(PROJECT)


@pytest.fixture
def ours(tmp_path):
    """A copy of our sources that can be changed."""
    for name in PROJECT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc"))
    return tmp_path


def test_comments_and_docstrings_anywhere_change_no_digest_of_ours(ours):
    def digests():
        base = CodeBase(ours, index=FileIndex())
        return [base.code(name).digest for name in ("trainers.run_fn", "tfx_pipeline.graph")]

    before = digests()
    for file in ours.rglob("*.py"):
        text = file.read_text()
        text = re.sub(r'\A"""', '"""Changed. ', text)
        text = re.sub(r'^( +)"""(?=[A-Z])', r'\1"""Changed. ', text, flags=re.MULTILINE)
        file.write_text(f"{text}\n# The end.\n")
    assert digests() == before


def test_training_follows_what_training_imports():
    found = code_of("trainers.loop")
    assert {"trainers.training.losses", "trainers.models.resnet", "trainers.data.policies"} <= set(
        found.modules
    )
    assert {"tensorflow", "tf-keras", "numpy"} <= set(found.packages)
    for absent in (
        "trainers.compression",
        "trainers.recipes",
        "trainers.bundles.saved_model",
        "trainers.bundles.build",
    ):
        assert not [name for name in found.modules if name.startswith(absent)]
