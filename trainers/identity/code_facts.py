"""Imports, mentioned names, and a digest of one Python file, read from its syntax tree."""

import ast
import hashlib
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_PREFIX = re.compile(r"([A-Za-z_]\w*\.)+")
_FILE = re.compile(r"[\w./-]*[\w-]\.[\w.]+")
_REGISTRY = "Registry"


@dataclass(frozen=True)
class CodeFacts:
    """The facts about the source of one module.

    Attributes:
      digest: sha256 hex of the syntax tree without comments, docstrings and positions.
      imports: `a.b` for `import a.b`, and `a.b:c` for `from a.b import c`, absolute, except those
        below `if TYPE_CHECKING:`.
      mentions: text that is a dotted name, e.g. `run_fn="trainers.run_fn.run_fn"`, and `a.b.*`
        for formatted text that begins with `a.b.`.
      files: text that could be a file name.
      registries: name of a `Registry` of this module -> the package whose modules it imports.
    """

    digest: str
    imports: tuple[str, ...]
    mentions: tuple[str, ...]
    files: tuple[str, ...]
    registries: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """JSON values for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "CodeFacts":
        """The inverse of `to_json`."""
        lists = {key: tuple(raw[key]) for key in ("imports", "mentions", "files")}
        return cls(digest=raw["digest"], registries=raw["registries"], **lists)


def read_code(file: Path, *, package: str) -> CodeFacts:
    """The facts of one source file.

    Args:
      file: Python source.
      package: the dotted name of its package, for relative imports.

    Raises:
      SyntaxError: the file is not valid for this version of Python.
    """
    return tree_facts(ast.parse(file.read_bytes(), filename=str(file)), package=package)


def tree_facts(tree: ast.Module, *, package: str) -> CodeFacts:
    """The facts of a syntax tree; removes its docstrings. See `read_code`."""
    collector = _Collector(package)
    collector.visit(tree)  # Before the digest, as it removes docstrings.
    return CodeFacts(
        digest=hashlib.sha256(ast.dump(tree).encode()).hexdigest(),
        imports=tuple(sorted(collector.imports)),
        mentions=tuple(sorted(collector.mentions)),
        files=tuple(sorted(collector.files)),
        registries=collector.registries,
    )


#: Changes with the rules of this file and with Python's syntax trees.
VERSION = hashlib.sha256(
    Path(__file__).read_bytes() + repr(sys.version_info[:2]).encode()
).hexdigest()[:16]


class _Collector(ast.NodeVisitor):
    """Collects the facts of a tree and removes docstrings and other text without effect."""

    def __init__(self, package: str) -> None:
        self._package = package.split(".")
        self.imports: set[str] = set()
        self.mentions: set[str] = set()
        self.files: set[str] = set()
        self.registries: dict[str, str] = {}

    def generic_visit(self, node: ast.AST) -> None:
        """Visits the children of `node` after removing text without effect."""
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [one for one in body if not _is_idle(one)]
        super().generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        """Passes over what only type checkers import."""
        test = node.test
        name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
        if name != "TYPE_CHECKING":
            self.generic_visit(node)
            return
        for one in node.orelse:
            self.visit(one)

    def visit_Import(self, node: ast.Import) -> None:
        """`import a.b`."""
        self.imports.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """`from a.b import c`, also with leading dots."""
        parts = self._package[: len(self._package) - node.level + 1] if node.level else []
        module = ".".join([*parts, *([node.module] if node.module else [])])
        self.imports.update(f"{module}:{alias.name}" for alias in node.names)

    def visit_Assign(self, node: ast.Assign) -> None:
        """`name = Registry("kind", "package")`."""
        if not self._is_registry(node.targets[0], node.value):
            self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """`name: Registry[T] = Registry("kind", "package")`."""
        if not self._is_registry(node.target, node.value):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Text that may name a module or a file."""
        if isinstance(node.value, str):
            if _DOTTED.fullmatch(node.value):
                self.mentions.add(node.value)
            if _FILE.fullmatch(node.value):
                self.files.add(node.value.rpartition("/")[2])

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Formatted text that begins with a package's name and a dot."""
        first = node.values[0] if node.values else None
        if isinstance(first, ast.Constant) and _PREFIX.fullmatch(str(first.value)):
            self.mentions.add(f"{first.value}*")
        self.generic_visit(node)

    def _is_registry(self, target: ast.expr, value: ast.expr | None) -> bool:
        if not (isinstance(value, ast.Call) and isinstance(target, ast.Name)):
            return False
        called = value.func.id if isinstance(value.func, ast.Name) else ""
        arguments = [one.value for one in value.args if isinstance(one, ast.Constant)]
        if called != _REGISTRY or len(arguments) != 2:
            return False
        self.registries[target.id] = str(arguments[1])
        return True


def _is_idle(statement: ast.stmt) -> bool:
    """Whether it is text alone: a docstring, or a comment in quotes."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
