"""Names to builders, found by importing a package."""

import sys

import pytest

from trainers import registry
from trainers.registry import Registry, UnknownNameError, nearest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package `plugins`, whose two modules register three names."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from trainers.registry import Registry\nthings = Registry('thing', 'plugins')\n"
    )
    (folder / "one.py").write_text(
        "from plugins import things\n@things.register('alpha', 'alphabet')\ndef f(): return 1\n"
    )
    (folder / "two.py").write_text("from plugins import things\nthings.register('beta')(2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "plugins"]:
        del sys.modules[name]


@pytest.mark.usefixtures("package")
def test_a_file_in_the_package_is_enough():
    from plugins import things  # pyright: ignore[reportMissingImports]

    assert "plugins.one" not in sys.modules
    assert things.names() == ["alpha", "alphabet", "beta"]
    assert things.get("alpha") is things.get("alphabet")
    assert things.get("alpha")() == 1
    assert things.get("beta") == 2


@pytest.mark.usefixtures("package")
def test_an_unknown_name_names_the_nearest():
    from plugins import things  # pyright: ignore[reportMissingImports]

    with pytest.raises(UnknownNameError, match=r"unknown thing 'alpa'; did you mean alpha, "):
        things.get("alpa")
    with pytest.raises(UnknownNameError, match=r"unknown thing 'zz'; known: alpha, alphabet, beta"):
        things.get("zz")


def test_no_more_than_the_nearest_three():
    known = ["resnet18", "resnet34", "resnet50", "resnet101", "cnn"]
    assert nearest("resnet5", known).startswith("did you mean resnet50, ")
    assert nearest("resnet5", known).count(",") == 2


def test_a_name_cannot_be_taken_twice():
    things: Registry[int] = Registry("thing", "plugins")
    things.register("a")(1)
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        things.register("a")(2)


@pytest.mark.parametrize(
    ("which", "name", "near"),
    [
        ("models", "resnet51", "resnet50"),
        ("recipes", "digits_cn", "digits_cnn"),
        ("compressors", "prun", "prune"),
        ("tasks", "clasification", "classification"),
    ],
)
def test_our_registries_know_their_names(which, name, near):
    ours = getattr(registry, which)
    assert near in ours.names()
    with pytest.raises(UnknownNameError, match=rf"unknown {ours.kind} '{name}'.*{near}"):
        ours.get(name)
