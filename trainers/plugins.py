"""Plugins: models, recipes, pipelines and more from files of a user and installed packages.

    sightline --plugins my_models.py train my_recipe --data data/pets

A plugin is a Python file, or a folder with an `__init__.py`, that registers objects; or a package
that names a module in the entry point group `sightline.plugins`. Files are loaded by their path
under a private name: their folder is never on `sys.path`, so that a user's `components/` or
`core.py` does not replace ours. The files are listed in an environment variable, so that every
child process has the same plugins. Standard library only.
"""

import functools
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Iterable
from hashlib import sha256
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

#: Lists the files of plugins, absolute, separated as in PATH; child processes inherit it.
VARIABLE = "SIGHTLINE_PLUGINS"
#: The option that adds one.
OPTION = "--plugins"
#: Installed packages name their modules in this entry point group.
GROUP = "sightline.plugins"

#: Key of `trained.json`: the plugin files that contain code of the model.
RECORDED = "plugins"

_PREFIX = "_sightline_plugin"


class PluginError(ValueError):
    """A plugin that cannot be loaded; the message names file, line and remedy."""


def files() -> tuple[Path, ...]:
    """The plugin files of this process and its children, in the order they were added."""
    listed = os.environ.get(VARIABLE, "").split(os.pathsep)
    return tuple(dict.fromkeys(canonical(Path(one)) for one in listed if one))


def canonical(file: Path) -> Path:
    """The canonical path of a plugin file: absolute, with links resolved."""
    return Path(os.path.realpath(file.expanduser()))


def add(*given: Path) -> None:
    """Adds plugin files to this process and to the children that it starts from now on.

    Raises:
      PluginError: there is no such file, or its path contains the separator of the variable.
    """
    found = [canonical(one) for one in given]
    for one in found:
        _source(one)
        if os.pathsep in str(one):
            raise PluginError(f"{one}: a plugin's path must not contain {os.pathsep!r}; rename it")
    known = dict.fromkeys([*files(), *found])
    if known:  # Absolute from here on: a child may start in another folder.
        os.environ[VARIABLE] = os.pathsep.join(map(str, known))


def require(recorded: Iterable[str], owner: str) -> None:
    """Adds the plugins that a run recorded to this process.

    A file that was moved can be given with `--plugins`: it replaces one of the same name.

    Args:
      recorded: their paths.
      owner: the folder that recorded them, for the message.

    Raises:
      PluginError: one is missing; the message names it.
    """
    given = {one.name for one in files()}
    for one in map(Path, recorded):
        if one.exists():
            add(one)
        elif one.name not in given:
            raise PluginError(
                f"{owner} was made with the plugin {one}, which does not exist; put it back, or "
                f"give its new location as `sightline {OPTION} FILE ...`"
            )


def require_of(trained: Path) -> None:
    """`require` for the plugins of a folder of `sightline train`; earlier versions recorded none.

    Raises:
      PluginError: one is missing; the message names it.
    """
    facts = json.loads((trained / "trained.json").read_text(encoding="utf-8"))
    require(facts.get(RECORDED, ()), str(trained))


def installed() -> list[metadata.EntryPoint]:
    """The entry points of installed packages; each names a module."""
    return _installed(tuple(sys.path))


@functools.lru_cache
def _installed(_: tuple[str, ...]) -> list[metadata.EntryPoint]:
    """The entry points for one `sys.path`, read once: it searches every installed package."""
    return sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)


def load_all() -> None:
    """Loads every plugin that is not loaded yet.

    Raises:
      PluginError: one cannot be loaded.
    """
    listed = os.environ.get(VARIABLE, "")
    if listed == _state.seen:
        return
    first, _state.seen = _state.seen is None, listed
    try:
        for entry in installed() if first else ():
            _load_entry(entry)
        for file in files():
            load(file)
    except BaseException:
        _state.seen = None
        raise


def load(file: Path) -> ModuleType:
    """The module of a plugin file, loaded once per process.

    Raises:
      PluginError: there is no such file, or its code fails; the message has the line.
    """
    file = canonical(file)
    known = _state.modules.get(file)
    if isinstance(known, PluginError):
        raise known
    if known is not None:
        return known
    source = _source(file)
    name = f"{_PREFIX}_{sha256(str(file).encode()).hexdigest()[:8]}_{file.stem}"
    inner = [str(file)] if source != file else None
    loader = _Uncached(name, str(source))
    spec = importlib.util.spec_from_file_location(
        name, source, loader=loader, submodule_search_locations=inner
    )
    assert spec is not None
    module = _state.modules[file] = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        failure = _state.modules[file] = located(error, file)
        raise failure from error
    return module


def located(error: Exception, file: Path, *, line: int = 0, hint: str = "") -> PluginError:
    """`error` with the file and line of the plugin's code that raised it.

    Args:
      error: the caught exception.
      file: the plugin.
      line: used if the code of the plugin did not raise the error.
      hint: what to do, if the error does not state it.
    """
    if isinstance(error, PluginError) and str(error).startswith(str(file)):
        return error
    where, text = file, str(error)
    frames = traceback.extract_tb(error.__traceback__)
    inner = next((one for one in reversed(frames) if _within(one.filename, file)), None)
    inside = inner.filename if inner else None
    line = (inner.lineno if inner else line) or 0
    if isinstance(error, SyntaxError) and _within(error.filename or "", file):
        inside, line = error.filename, error.lineno or 0
        shown = f": `{error.text.strip()}`" if error.text else ""
        text = f"{error.msg}{shown}; correct the line"
    elif isinstance(error, ImportError):
        text = (
            f"{error}; install what is missing into this environment. A plugin's own folder is "
            f"not searched: add a second file as a separate plugin with {OPTION}, or make a "
            "folder with an __init__.py that imports it as `from . import NAME`"
        )
    elif type(error).__module__ == "builtins":
        text = f"{type(error).__name__}: {error}"
    where = Path(inside) if inside else file
    return PluginError(f"{where}{f', line {line}' if line else ''}: {text}{hint}")


class _Uncached(SourceFileLoader):
    """Compiles a file each time: a cache would stay in the user's folder and miss quick edits."""

    def get_code(self, fullname: str) -> CodeType:
        """The compiled content of the file."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _within(name: str, file: Path) -> bool:
    return name == str(file) or name.startswith(f"{file}{os.sep}")


def _source(file: Path) -> Path:
    """The file to run: the plugin itself, or the `__init__.py` of a folder."""
    if file.is_file():
        return file
    if (file / "__init__.py").is_file():
        return file / "__init__.py"
    what = "is a folder without an __init__.py" if file.is_dir() else "does not exist"
    raise PluginError(f"the plugin {file} {what}; {OPTION} takes a Python file")


def _load_entry(entry: metadata.EntryPoint) -> None:
    try:
        entry.load()
    except Exception as error:
        owner = entry.dist.name if entry.dist else entry.value
        raise PluginError(
            f"the installed plugin {entry.name!r} of {owner} ({entry.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}; repair the package, or uninstall {owner}"
        ) from error


class _State:
    """The plugins that this process has loaded."""

    def __init__(self) -> None:
        self.seen: str | None = None
        self.modules: dict[Path, ModuleType | PluginError] = {}


_state = _State()
