"""Names to builders. A new model, recipe or compressor is one new file, listed nowhere by hand."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that is not registered; the message gives the nearest ones."""


def nearest(name: str, known: list[str]) -> str:
    """A remedy for a mistyped name: the closest three of `known`, or all of a short list."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"known: {', '.join(sorted(known))}"


class Registry(Generic[T]):
    """Builders of one kind, found by importing every module of `package` on first use."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, *names: str) -> Callable[[T], T]:
        """A decorator that files what it decorates under `names`.

        Raises:
          ValueError: a name is taken already.
        """

        def file_under(entry: T) -> T:
            for name in names:
                if name in self._entries:
                    raise ValueError(f"{self.kind} {name!r} is registered twice")
                self._entries[name] = entry
            return entry

        return file_under

    def get(self, name: str) -> T:
        """What was registered as `name`.

        Raises:
          UnknownNameError: nothing was; the message names the nearest three.
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

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._loaded = True


#: Networks, one file a family: `(images, **options) -> features`, see `trainers.models`.
models: Registry[Callable[..., Any]] = Registry("model", "trainers.models")
#: Published rows: functions without arguments that return a `Config`.
recipes: Registry[Callable[[], Any]] = Registry("recipe", "trainers.recipes")
#: Compression methods, see `trainers.compress`.
compressors: Registry[Any] = Registry("compression method", "trainers.compress")
#: What differs between classification, detection and segmentation, see `trainers.tasks`.
tasks: Registry[Any] = Registry("task", "trainers.tasks")
