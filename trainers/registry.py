"""Registries of builders by name. A new model, recipe or compression method is one new file.

The file is a module of a registry's package, or a plugin (`trainers.plugins`).
"""

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from trainers import plugins

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that is not registered; the message has the nearest ones."""


class TakenNameError(ValueError):
    """A name that is registered twice; the message has both locations."""


@dataclass(frozen=True)
class Origin:
    """The location where a name was registered."""

    file: Path
    line: int

    def __str__(self) -> str:
        """The location as shown in messages."""
        return f"{self.file}, line {self.line}"


def nearest(name: str, known: list[str]) -> str:
    """A hint for a mistyped name: the closest three of `known`, or all if none is close."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"known: {', '.join(sorted(known))}"


class Registry(Generic[T]):
    """Builders of one kind, from every module of `package`, imported on first use, and plugins."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._origins: dict[str, Origin] = {}
        self._loaded = False

    def register(self, *names: str) -> Callable[[T], T]:
        """A decorator that registers the decorated object under `names`.

        Raises:
          TakenNameError: a name is registered already; has both locations.
        """
        caller = sys._getframe(1)
        origin = Origin(Path(caller.f_code.co_filename), caller.f_lineno)

        def add(entry: T) -> T:
            for name in names:
                if name in self._entries:
                    raise TakenNameError(
                        f"{self.kind} {name!r} is registered twice: at {self._origins[name]}, and "
                        f"at {origin}; rename one of them"
                    )
                self._entries[name] = entry
                self._origins[name] = origin
            return entry

        return add

    def get(self, name: str) -> T:
        """The object registered as `name`.

        Raises:
          UnknownNameError: there is none; the message has the nearest three names.
        """
        self._load()
        if name not in self._entries:
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}; {nearest(name, list(self._entries))}"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._entries)

    def origin(self, name: str) -> Origin:
        """The location where `name` was registered.

        Raises:
          UnknownNameError: it is not registered.
        """
        self.get(name)
        return self._origins[name]

    def registered_in(self, file: Path) -> dict[str, Origin]:
        """Name -> location of everything that `file`, an absolute path, registered."""
        self._load()
        return {name: one for name, one in self._origins.items() if one.file == file}

    def _load(self) -> None:
        if not self._loaded:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._loaded = True
        plugins.load_all()


#: Networks, one file a family: `(images, **options) -> features`, see `trainers.models`.
models: Registry[Callable[..., Any]] = Registry("model", "trainers.models")
#: Published rows: functions without arguments that return a `Config`.
recipes: Registry[Callable[[], Any]] = Registry("recipe", "trainers.recipes")
#: Compression methods, see `trainers.compression`.
compressors: Registry[Any] = Registry("compression method", "trainers.compression")
#: Rewrites of converted files, see `trainers.compression.rewrites`.
rewrites: Registry[Any] = Registry("compression rewrite", "trainers.compression.rewrites")
#: What differs between classification, detection and segmentation, see `trainers.tasks`.
tasks: Registry[Any] = Registry("task", "trainers.tasks")
#: Figures of classifiers, one file each, see `trainers.evaluation.metric`.
metrics: Registry[Any] = Registry("metric", "trainers.evaluation.metrics")
