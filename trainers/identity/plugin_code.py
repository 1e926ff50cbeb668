"""The part of a plugin's code that affects training and evaluation, read from its syntax tree.

The values of recipes and pipelines are in the configuration, which is part of every key already.
Therefore functions under `@recipes.register` and `@pipelines.register` are left out, and so are the
constants, functions, and project imports that only these use: a changed gate does not cause
training. Everything else is included, such as models, augmentations, and statements with an effect
on import.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from trainers import plugins
from trainers.identity.code_facts import VERSION, CodeFacts, tree_facts
from trainers.identity.file_index import FileIndex

_VALUES = ("recipes", "pipelines")
_OURS = ("trainers", "serving", "components", "tfx_pipeline", "core")
# As tuples, since dotted text would be followed as an import.
_CONFIGURATION = (("trainers", "config"), ("tfx_pipeline", "config"))
# Calls without side effects.
_MAKERS = {"dict", "list", "tuple", "set", "frozenset", "range", "float", "int", "str", "Path"}
_KIND = f"plugin-{VERSION}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}"


def plugin_code(index: FileIndex) -> dict[str, CodeFacts]:
    """Label -> facts of the relevant code of every plugin file.

    Args:
      index: stores facts about files between processes.
    """
    found: dict[str, CodeFacts] = {}
    for label, file in _sources():
        raw = index.fact(file, _KIND, lambda one: (facts := read_plugin(one)) and facts.to_json())
        if raw:
            found[label] = CodeFacts.from_json(raw)
    return found


def counted_files() -> list[Path]:
    """The plugin files given by path with relevant code, which a trained model needs."""
    return [one for one in plugins.files() if any(map(read_plugin, _below(one)))]


def read_plugin(file: Path) -> CodeFacts | None:
    """The facts of the relevant code in one source file; None without such code.

    Raises:
      SyntaxError: the file is not valid for this version of Python.
    """
    tree = ast.parse(file.read_bytes(), filename=str(file))
    tree.body = _counted(tree.body)
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


def _counted(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements with an effect on import, and the definitions that they use."""
    ours = _imported_from_us(body)
    idle = [_is_definition(one, ours) for one in body]
    counted = {at for at, one in enumerate(idle) if not one and not _is_text(body[at])}
    while True:
        names = {name for at in counted for name in _used(body[at])}
        more = {at for at in range(len(body)) if idle[at] and names & _bound(body[at])}
        if more <= counted:
            return [body[at] for at in sorted(counted)]
        counted |= more


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_definition(statement: ast.stmt, ours: set[str]) -> bool:
    """Whether the statement only defines a name."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return all(map(_is_value, statement.decorator_list))
    if isinstance(statement, ast.ClassDef):
        return not statement.decorator_list and not statement.keywords
    if isinstance(statement, ast.Import):
        return all(alias.name.partition(".")[0] in _OURS for alias in statement.names)
    if isinstance(statement, ast.ImportFrom):
        top = (statement.module or "").partition(".")[0]
        return not statement.level and top in (*_OURS, "__future__", "typing", "pathlib")
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        calls = [one for one in ast.walk(statement.value) if isinstance(one, ast.Call)]
        makers = [one.func.id if isinstance(one.func, ast.Name) else "" for one in calls]
        return all(isinstance(one, ast.Name) for one in targets) and {*makers} <= ours | _MAKERS
    return False


def _is_value(decorator: ast.expr) -> bool:
    """`recipes.register(...)` and `pipelines.register(...)`."""
    called = decorator.func if isinstance(decorator, ast.Call) else None
    if not (isinstance(called, ast.Attribute) and called.attr == "register"):
        return False
    owner = called.value
    return (owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")) in _VALUES


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
