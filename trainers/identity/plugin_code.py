"""The part of a plugin's code that affects training and evaluation, read from its syntax tree.

A recipe's and a pipeline's values are in the configuration, which names caches and keys already. So
functions under `@recipes.register` and `@pipelines.register` don't count, and neither do constants,
functions and harmless imports that only these use: a changed gate trains nothing again. A metric
counts for code that computes metrics only: a new one does not train anything again either.
Everything else counts, such as a model, an augmentation, and statements with an effect on import.

Standard library only; nothing that is read here is imported.
"""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainers import plugins
from trainers.identity.code_facts import VERSION, CodeFacts, tree_facts
from trainers.identity.file_index import FileIndex

_VALUES = ("recipes", "pipelines")
_METRICS = "metrics"
# Importing these has no effect besides the names.
_INERT = {*sys.stdlib_module_names, "numpy", "scipy", "sklearn"}
_OURS = ("trainers", "serving", "components", "tfx_pipeline", "core")
# As tuples, since dotted text would be followed as an import.
_CONFIGURATION = (("trainers", "config"), ("tfx_pipeline", "config"))
# Calls without side effects.
_MAKERS = {"dict", "list", "tuple", "set", "frozenset", "range", "float", "int", "str", "Path"}
_KIND = f"plugin-{VERSION}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}"


def plugin_code(index: FileIndex, *, metrics: bool = False) -> dict[str, CodeFacts]:
    """Label -> facts of every plugin file, as far as its code counts.

    Args:
      index: keeps what is known of each file between processes.
      metrics: whether metrics count.
    """
    found: dict[str, CodeFacts] = {}
    kind = f"{_KIND}-{_METRICS}" if metrics else _KIND

    def read(file: Path) -> dict[str, Any] | None:
        facts = read_plugin(file, metrics=metrics)
        return facts and facts.to_json()

    for label, file in _sources():
        raw = index.fact(file, kind, read)
        if raw:
            found[label] = CodeFacts.from_json(raw)
    return found


def counted_files() -> list[Path]:
    """The plugin files given by path with relevant code, which a trained model needs."""
    return [one for one in plugins.files() if any(map(read_plugin, _below(one)))]


def read_plugin(file: Path, *, metrics: bool = False) -> CodeFacts | None:
    """The facts of what counts in one source file; None where nothing does.

    Args:
      file: of a plugin.
      metrics: whether metrics count.

    Raises:
      SyntaxError: the file is not valid for this version of Python.
    """
    tree = ast.parse(file.read_bytes(), filename=str(file))
    tree.body = _counted(tree.body, (*_VALUES, *(() if metrics else (_METRICS,))))
    return tree_facts(tree, package="") if tree.body else None


def _sources() -> Iterator[tuple[str, Path]]:
    """Every source file of every plugin, with a label that is independent of its folder."""
    seen: dict[str, int] = {}
    for top in plugins.files():
        for file in _below(top):
            label = f"plugin {file.relative_to(top.parent).as_posix()}"
            seen[label] = seen.get(label, 0) + 1
            yield f"{label}#{seen[label]}" if seen[label] > 1 else label, file
    for entry in plugins.installed():
        package = entry.module.partition(".")[0]
        spec = importlib.util.find_spec(package)
        for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
            for file in _below(folder):
                yield f"plugin {package}/{file.relative_to(folder).as_posix()}", file
        if spec and spec.origin and not spec.submodule_search_locations:
            yield f"plugin {package}", Path(spec.origin)


def _below(top: Path) -> list[Path]:
    return [top] if top.is_file() else sorted(top.rglob("*.py"))


def _counted(body: list[ast.stmt], ignored: tuple[str, ...]) -> list[ast.stmt]:
    """The statements that do something on import, and the definitions that these reach by name.

    Args:
      body: of a module.
      ignored: registries whose entries don't count.
    """
    body = [one for one in body if not _is_text(one) and not _registers(one, ignored)]
    ours = _imported_from_us(body)
    idle = [_is_definition(one, ours, ignored) for one in body]
    counted = {at for at, one in enumerate(idle) if not one}
    while True:
        names = {name for at in counted for name in _used(body[at])}
        more = {at for at in range(len(body)) if idle[at] and names & _bound(body[at])}
        if more <= counted:
            return [body[at] for at in sorted(counted)]
        counted |= more


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _registers(statement: ast.stmt, registries: tuple[str, ...]) -> bool:
    """Whether it is `metrics.register("name")(...)`, for one of `registries`."""
    called = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(called, ast.Call) and _is_register(called.func, registries)


def _is_definition(statement: ast.stmt, ours: set[str], ignored: tuple[str, ...]) -> bool:
    """Whether it only gives a name to something of which nothing else comes."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return all(_is_register(one, ignored) for one in statement.decorator_list)
    if isinstance(statement, ast.ClassDef):
        return not statement.decorator_list and not statement.keywords
    if isinstance(statement, ast.Import):
        return all(alias.name.partition(".")[0] in (*_OURS, *_INERT) for alias in statement.names)
    if isinstance(statement, ast.ImportFrom):
        top = (statement.module or "").partition(".")[0]
        return not statement.level and top in (*_OURS, *_INERT)
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        calls = [one for one in ast.walk(statement.value) if isinstance(one, ast.Call)]
        makers = [one.func.id if isinstance(one.func, ast.Name) else "" for one in calls]
        return all(isinstance(one, ast.Name) for one in targets) and {*makers} <= ours | _MAKERS
    return False


def _is_register(call: ast.expr, registries: tuple[str, ...]) -> bool:
    """Whether it is `recipes.register(...)`, for one of `registries`."""
    called = call.func if isinstance(call, ast.Call) else None
    if not (isinstance(called, ast.Attribute) and called.attr == "register"):
        return False
    owner = called.value
    return (owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")) in registries


def _imported_from_us(body: list[ast.stmt]) -> set[str]:
    """Names imported from our configuration modules, whose calls have no side effects."""
    modules = [
        one
        for one in body
        if isinstance(one, ast.ImportFrom)
        and tuple((one.module or "").split(".")) in _CONFIGURATION
    ]
    return {alias.asname or alias.name for one in modules for alias in one.names}


def _used(statement: ast.stmt) -> set[str]:
    return {one.id for one in ast.walk(statement) if isinstance(one, ast.Name)}


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    return {one.id for one in ast.walk(statement) if isinstance(one, ast.Name)}
