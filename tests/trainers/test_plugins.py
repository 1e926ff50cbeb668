"""A user's own files: loaded by path, recorded, missing, wrong."""

import os
import sys
from pathlib import Path

import pytest

from trainers import plugins, registry
from trainers.plugins import PluginError, add, files, load, load_all, require
from trainers.registry import Registry

KINDS = ("recipes",)
RECIPE = """
from trainers.config import Config
from trainers.registry import recipes


@recipes.register("mine")
def mine():
    return Config(name="mine")
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """No plugin of a test stays."""
    monkeypatch.setenv(plugins.VARIABLE, "")
    for kind in KINDS:
        one = getattr(registry, kind)
        one.names()
        monkeypatch.setattr(one, "_entries", dict(one._entries))
        monkeypatch.setattr(one, "_origins", dict(one._origins))
    monkeypatch.setattr(plugins, "_state", plugins._State())


def written(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_file_adds_to_the_registries_of_this_process_and_its_children(tmp_path, monkeypatch):
    file = written(tmp_path / "pets", "pipeline.py", RECIPE)
    monkeypatch.chdir(tmp_path)
    add(Path("pets/pipeline.py"))
    assert os.environ[plugins.VARIABLE] == str(file)
    assert files() == (file,)
    assert registry.recipes.get("mine")().name == "mine"
    assert registry.recipes.origin("mine").file == file
    assert registry.recipes.origin("mine").line == 6
    assert list(registry.recipes.registered_in(file)) == ["mine"]


def test_names_of_files_and_folders_shadow_nothing(tmp_path):
    import core
    import trainers.config

    for name in ("core.py", "trainers.py", "serving.py", "random.py"):
        written(tmp_path, name, f"NAME = {name!r}\n")
    add(*(tmp_path / name for name in ("core.py", "trainers.py")))
    load_all()
    assert load(tmp_path / "core.py").NAME == "core.py"
    assert sys.modules["core"] is core
    assert sys.modules["trainers.config"] is trainers.config
    assert str(tmp_path) not in sys.path


def test_an_edit_within_one_tick_of_the_clock_is_seen_and_no_cache_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = written(tmp_path, "mine.py", "VALUE = 1\n")
    before = file.stat()
    assert load(file).VALUE == 1
    file.write_text("VALUE = 2\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    monkeypatch.setattr(plugins, "_state", plugins._State())
    assert load(file).VALUE == 2
    assert [one.name for one in tmp_path.iterdir()] == ["mine.py"]


def test_a_file_by_two_paths_is_one_plugin(tmp_path):
    file = written(tmp_path / "real", "mine.py", RECIPE)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    add(file, tmp_path / "link" / "mine.py", tmp_path / "real" / ".." / "real" / "mine.py")
    assert files() == (file.resolve(),)
    load_all()


def test_a_folder_is_a_package_with_modules_of_its_own(tmp_path):
    written(tmp_path / "mine", "__init__.py", "from . import parts\nVALUE = parts.VALUE\n")
    written(tmp_path / "mine", "parts.py", "VALUE = 7\n")
    add(tmp_path / "mine")
    assert load(tmp_path / "mine").VALUE == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\ndef f(:\n", ["line 2", "def f(:", "correct the line"]),
        ("\nimport absent_package\n", ["line 2", "absent_package", "install what is missing"]),
        ("import helper_beside\n", ["line 1", "helper_beside", "is not searched", "--plugins"]),
        (RECIPE + "\nraise ValueError('late')\n", ["line 10", "ValueError: late"]),
        ("def f():\n    return {}['a']\n\nf()\n", ["line 2", "KeyError: 'a'"]),
        (
            RECIPE.replace('"mine"', '"digits_cnn"'),
            ["line 6", "recipe 'digits_cnn' is registered twice", "digits.py", "rename one"],
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_its_line(tmp_path, text, words):
    written(tmp_path, "helper_beside.py", "")
    file = written(tmp_path, "mine.py", text)
    add(file)
    for _ in range(2):  # The second time it is the same error, not one of a half-loaded module.
        with pytest.raises(PluginError) as failed:
            load_all()
        assert str(failed.value).startswith(f"{file}, ")
        for word in words:
            assert word in str(failed.value)


def test_a_file_that_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(PluginError, match=r"absent\.py does not exist; --plugins takes"):
        add(tmp_path / "absent.py")
    with pytest.raises(PluginError, match=r"is a folder without an __init__\.py"):
        add(tmp_path)
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "gone.py"))
    with pytest.raises(PluginError, match=r"gone\.py does not exist"):
        registry.recipes.names()


def test_a_recorded_plugin_is_loaded_found_elsewhere_or_missed(tmp_path):
    file = written(tmp_path / "old", "net.py", "VALUE = 1\n")
    require([str(file)], "work/x")
    assert files() == (file,)
    gone = tmp_path / "older" / "other.py"
    with pytest.raises(PluginError, match=rf"work/x was made with the plugin {gone}, which does"):
        require([str(gone)], "work/x")
    add(written(tmp_path / "new", "other.py", ""))
    require([str(gone)], "work/x")


def test_installed_packages_add_by_their_entry_point(tmp_path, monkeypatch):
    written(tmp_path, "pets_sightline.py", RECIPE)
    info = tmp_path / "pets-1.2.dist-info"
    written(info, "METADATA", "Metadata-Version: 2.1\nName: pets\nVersion: 1.2\n")
    written(info, "entry_points.txt", "[sightline.plugins]\npets = pets_sightline\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    try:
        assert registry.recipes.get("mine")().name == "mine"
    finally:
        sys.modules.pop("pets_sightline", None)
    written(info, "entry_points.txt", "[sightline.plugins]\npets = pets_absent\n")
    plugins._installed.cache_clear()
    monkeypatch.setattr(plugins, "_state", plugins._State())
    with pytest.raises(PluginError, match=r"installed plugin 'pets' of pets \(pets_absent\)"):
        registry.recipes.names()


def test_a_name_of_ours_cannot_be_taken_before_ours_are_loaded_either(tmp_path):
    things: Registry[int] = Registry("thing", "trainers.tasks")
    file = written(tmp_path, "mine.py", "def add(things):\n    things.register('a')(1)\n")
    load(file).add(things)
    with pytest.raises(registry.TakenNameError) as failed:
        things.register("a")(2)
    assert f"{file}, line 2" in str(failed.value)
    assert "test_plugins.py, line" in str(failed.value)
