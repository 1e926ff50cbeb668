"""Digests of modules with everything they import, within the project and from packages.

    code_digest("components.model_card.card_writer")

A digest changes with the syntax tree of the code (without comments and docstrings), with templates
and other data files, and with the versions of installed packages, but not with modules or packages
that are not imported. Imports are found at the top of a module, within functions, through a
`Registry`, and in text that is the name of a module. A module that uses a `Registry` also runs
plugins, whose code is part of the digest; see `trainers.identity.plugin_code`.

No module is imported to compute its digest.
"""

import hashlib
import json
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from core.files import file_digest
from trainers.identity.code_facts import VERSION, CodeFacts, read_code
from trainers.identity.file_index import FileIndex
from trainers.identity.plugin_code import plugin_code

#: Top-level packages of the project; some may not be installed.
PROJECT = ("trainers", "serving", "components", "tfx_pipeline", "core")

_DIGITS = 16
# Not part of the code.
_NOT_CODE = (".md", ".pyc")
# Increase it when `_installed` changes.
_INSTALLED = "installed-1"
# References between templates.
_TEMPLATE = re.compile(r"[\"']([\w./-]+\.[\w.]+)[\"']")


@dataclass(frozen=True)
class Code:
    """The modules, data files, and packages behind a digest.

    Attributes:
      modules: dotted name, path of a data file below the project, or `plugin` and a plugin's file
        -> 16 hex digits.
      packages: installed distribution -> version, and `python` -> major and minor version.
    """

    modules: dict[str, str]
    packages: dict[str, str]

    @property
    def digest(self) -> str:
        """16 hex digits of the modules and packages."""
        text = json.dumps([self.modules, self.packages], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def code_digest(*modules: str, packages: Sequence[str] = (), index: FileIndex | None = None) -> str:
    """16 hex digits that change with the code of `modules` and their imports.

    Args:
      modules: dotted names of modules, or of packages for all of their modules.
      packages: import names of further installed packages to include, e.g. `tfx`.
      index: stores facts about source files between processes.

    Raises:
      ValueError: the project has no such module.
    """
    return code_of(*modules, packages=packages, index=index).digest


def code_of(*modules: str, packages: Sequence[str] = (), index: FileIndex | None = None) -> Code:
    """The modules, data files, and packages of `code_digest`; takes the same arguments."""
    return CodeBase(_top(), index=index).code(*modules, packages=packages)


def _top() -> Path:
    return Path(__file__).resolve().parents[2]


class CodeBase:
    """The project's sources in one folder.

    Args:
      top: folder of the packages `PROJECT`.
      index: stores facts about source files; None reads each file once per process.
      path: folders of installed packages; None uses `sys.path`.
    """

    def __init__(
        self, top: Path, *, index: FileIndex | None = None, path: Sequence[str] | None = None
    ) -> None:
        self._top = top
        self._index = index or _memory
        self._path = tuple(path) if path is not None else tuple(sys.path)
        self._files: dict[str, Path | None] = {}
        self._read: dict[str, CodeFacts] = {}

    def code(self, *modules: str, packages: Sequence[str] = ()) -> Code:
        """As `code_of`."""
        found: dict[str, CodeFacts] = {}
        todo: list[str] = []
        for name in modules:
            named = [name, *self._below(name)] if self._file(name) else []
            if not named:
                raise ValueError(f"no module {name!r} in {self._top}")
            todo += named
        imports: set[str] = set(packages)
        users: dict[str, CodeFacts] = {}
        used: set[str] = set()
        while todo:
            name = todo.pop()
            if name in found:
                continue
            reached = {name: self._facts(name)}
            found.update(reached)
            registries = self._registries(reached[name]) - used
            if registries and (not used or "metrics" in registries):
                users = plugin_code(self._index, metrics="metrics" in registries)
                reached |= users
            used |= registries
            for one, facts in reached.items():
                for target in self._targets(one, facts):
                    if self._is_own(target):
                        todo.append(target)
                    else:
                        imports.add(target)
        parts = {name: facts.digest[:_DIGITS] for name, facts in {**found, **users}.items()}
        return Code({**parts, **self._data_files(found)}, self._versions(imports))

    def _facts(self, name: str) -> CodeFacts:
        if name not in self._read:
            self._read[name] = self._facts_now(name)
        return self._read[name]

    def _facts_now(self, name: str) -> CodeFacts:
        file = self._file(name)
        assert file is not None
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]

        def read(file: Path) -> dict[str, object]:
            return read_code(file, package=package).to_json()

        return CodeFacts.from_json(self._index.fact(file, f"code-{VERSION}", read))

    def _targets(self, name: str, facts: CodeFacts) -> Iterator[str]:
        """Dotted names of the modules and installed packages that `name` imports or mentions."""
        yield from self._parents(name)
        for one in facts.imports:
            module, _, attribute = one.partition(":")
            if not self._is_own(module):
                yield f"{module}.{attribute}" if attribute else module
                continue
            yield from self._module(f"{module}.{attribute}" if attribute else module)
            yield from self._registered(module, attribute)
        for one in facts.mentions:
            if one.endswith(".*"):
                yield from self._below(one[:-2])
            elif self._is_own(one):
                yield from self._module(one)
                yield from self._below(one)

    def _module(self, dotted: str) -> Iterator[str]:
        """The longest prefix of `dotted` that is a module, and its parent packages."""
        while dotted and self._file(dotted) is None:
            dotted = dotted.rpartition(".")[0]
        if dotted:
            yield dotted
            yield from self._parents(dotted)

    def _parents(self, name: str) -> Iterator[str]:
        while name := name.rpartition(".")[0]:
            if self._file(name):
                yield name

    def _registered(self, module: str, attribute: str) -> Iterator[str]:
        """The modules that the registry `attribute` of `module` imports; empty or `*`: of all."""
        if self._file(module) is None:
            return
        for name, package in self._facts(module).registries.items():
            if attribute in ("", "*", name):
                yield from self._module(package)
                yield from self._below(package)

    def _registries(self, facts: CodeFacts) -> set[str]:
        """The registries that a module imports, whose plugins it runs."""
        pairs = (one.partition(":")[::2] for one in facts.imports)
        return {
            name
            for module, name in pairs
            if self._file(module) and name in self._facts(module).registries
        }

    def _below(self, package: str) -> list[str]:
        """The modules directly in `package`; empty if it is a module."""
        if not self._is_own(package):
            return []
        folder = self._top.joinpath(*package.split("."))
        files = sorted(folder.glob("*.py")) if folder.is_dir() else []
        inner = sorted(folder.glob("*/__init__.py")) if folder.is_dir() else []
        names = [file.stem for file in files if file.stem != "__init__"]
        return [f"{package}.{one}" for one in [*names, *(file.parent.name for file in inner)]]

    def _is_own(self, dotted: str) -> bool:
        return dotted.partition(".")[0] in PROJECT

    def _file(self, dotted: str) -> Path | None:
        if dotted not in self._files:
            self._files[dotted] = self._file_now(dotted)
        return self._files[dotted]

    def _file_now(self, dotted: str) -> Path | None:
        path = self._top.joinpath(*dotted.split("."))
        for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if self._is_own(dotted) and file.is_file():
                return file
        return None

    def _data_files(self, found: dict[str, CodeFacts]) -> dict[str, str]:
        """Path -> digest of the data files that belong to the modules `found`.

        A file that a module of its package mentions, or that such a template mentions, belongs to
        that module only; a file without a mention belongs to all modules of the package.
        """
        folders = {self._folder(name) for name in found}
        digests: dict[str, str] = {}
        for folder in sorted(folders):
            files = {file.name: file for file in sorted(folder.iterdir()) if _is_data(file)}
            if not files:
                continue
            owners = self._all_modules(folder)
            named_by = {name: set(self._facts(name).files) for name in owners}
            for one, names in list(named_by.items()):
                named_by[one] = _with_includes(names & set(files), files)
            named = set().union(*named_by.values())
            wanted = set(files) - named
            wanted |= set().union(*(named_by[one] for one in owners if one in found), set())
            for name in sorted(wanted):
                key = files[name].relative_to(self._top).as_posix()
                digests[key] = self._index.fact(files[name], "sha256", file_digest)[:_DIGITS]
        return digests

    def _folder(self, name: str) -> Path:
        file = self._file(name)
        assert file is not None
        return file.parent

    def _all_modules(self, folder: Path) -> list[str]:
        package = ".".join(folder.relative_to(self._top).parts)
        return [package, *self._below(package)] if self._file(package) else self._below(package)

    def _versions(self, imports: set[str]) -> dict[str, str]:
        """Distribution -> version for the installed packages among `imports`, and Python."""
        found = {"python": ".".join(platform.python_version_tuple()[:2])}
        folders = [Path(one) for one in self._path if one and Path(one).is_dir()]
        installed = [self._index.fact(one, _INSTALLED, _installed) for one in folders]
        for dotted in imports:
            top, _, rest = dotted.partition(".")
            owners = next((one[top] for one in installed if top in one), [])
            second = rest.partition(".")[0]
            holding = [one for one in owners if second in one[2]]
            found |= {name: version for name, version, _ in holding or owners}
        return found


_memory = FileIndex()


def _is_data(file: Path) -> bool:
    return file.is_file() and file.suffix not in (".py", *_NOT_CODE) and file.name[0] != "."


def _with_includes(names: set[str], files: dict[str, Path]) -> set[str]:
    """`names` and the names in `files` that these files mention in quotes, recursively."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            text = files[name].read_text(encoding="utf-8", errors="replace")
            todo += [one for one in _TEMPLATE.findall(text) if one in files]
    return found


def _installed(folder: Path) -> dict[str, list[tuple[str, str, list[str]]]]:
    """Import name -> name, version, and parts of each distribution in `folder` that provides it.

    The parts, e.g. `protobuf` for `google.protobuf`, are listed where several provide one name.
    """
    owners: dict[str, list[metadata.Distribution]] = {}
    for one in metadata.distributions(path=[str(folder)]):
        listed = (one.read_text("top_level.txt") or "").split()
        names = listed or {file.parts[0].partition(".")[0] for file in one.files or ()}
        for name in names:
            owners.setdefault(name, []).append(one)
    return {
        top: [
            (_normal(one.metadata["Name"]), one.version, _parts(one, top) if len(found) > 1 else [])
            for one in found
        ]
        for top, found in owners.items()
        if top not in sys.stdlib_module_names
    }


def _parts(distribution: metadata.Distribution, top: str) -> list[str]:
    inner = (file.parts for file in distribution.files or () if len(file.parts) > 1)
    return sorted({parts[1].partition(".")[0] for parts in inner if parts[0] == top})


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
