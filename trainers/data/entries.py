"""Parses the entries of `data.augment`, `name` or `name(1, key=2)`, and binds their values.

The options of an op are its parameters with defaults. Annotations define the allowed values:

    @augmentations.register("rotate")
    def rotate(image, seed, *, degrees: Annotated[float, Between(0, 180)] = 10.0): ...

`rotate(15)` and `rotate(degrees=15)` rotate by up to 15 degrees, and `rotate(200)` is an error
before anything is read. Standard library only.
"""

import ast
import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from core.renamed import AUGMENTATIONS, warn_renamed
from trainers.config import ConfigError
from trainers.registry import Registry, nearest


@dataclass(frozen=True)
class Between:
    """The closed range of an option, or of each value of a pair."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"in [{self.low:g}, {self.high:g}]"


#: A probability or fraction.
Fraction = Annotated[float, Between(0.0, 1.0)]


@dataclass(frozen=True)
class Entry:
    """One parsed entry.

    Attributes:
      text: the original text, for messages.
      name: name of the op.
      values: positional values.
      named: values by option.
    """

    text: str
    name: str
    values: tuple[Any, ...]
    named: dict[str, Any]


def parse_entry(text: str) -> Entry:
    """The parsed form of `name` or `name(1, key=2)`.

    Raises:
      ConfigError: the text has neither form, or a value is not a number, string, tuple or list.
    """
    try:
        body = ast.parse(text.strip(), mode="eval").body
        if isinstance(body, ast.Name):
            return Entry(text, body.id, (), {})
        if isinstance(body, ast.Call) and isinstance(body.func, ast.Name):
            values = tuple(ast.literal_eval(value) for value in body.args)
            named = {one.arg: ast.literal_eval(one.value) for one in body.keywords if one.arg}
            if len(named) == len(body.keywords):
                return Entry(text, body.func.id, values, named)
    # Deeply nested text overflows the stack of the parser.
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise _malformed(text) from error
    raise _malformed(text)


def parse_entries(entries: Sequence[str], registries: Sequence[Registry[Any]]) -> list[Entry]:
    """The parsed `entries`, each of which names an op in `registries`.

    Raises:
      ConfigError: a malformed entry, or an unknown name (names the nearest ones).
    """
    known = [name for registry in registries for name in registry.names()]
    parsed = []
    for text in entries:
        entry = parse_entry(text)
        if entry.name not in known and entry.name in AUGMENTATIONS:
            warn_renamed(f"data.augment={entry.name}", AUGMENTATIONS[entry.name])
            entry = replace(entry, name=AUGMENTATIONS[entry.name])
        if entry.name not in known:
            raise ConfigError(
                f"data.augment: unknown augmentation {entry.name!r}; {nearest(entry.name, known)}"
            )
        parsed.append(entry)
    return parsed


def former_spelling(text: str) -> str:
    """The entry with the name that it had first, from which a run's identity is computed."""
    for former, current in AUGMENTATIONS.items():
        if text.strip().startswith(current):
            return text.replace(current, former, 1)
    return text


def bind(entry: Entry, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the options of the entry; `function` itself without options.

    Raises:
      ConfigError: too many values, an unknown option, or a value of the wrong type or out of
        range; names the entry and the signature.
    """
    options = _options(function)
    if len(entry.values) > len(options):
        raise _wrong(entry, options, f"{len(entry.values)} values for {len(options)} options")
    given = dict(zip(options, entry.values, strict=False))
    for name, value in entry.named.items():
        if name in given:
            raise _wrong(entry, options, f"`{name}` is set twice")
        if name not in options:
            hint = f"; {nearest(name, list(options))}" if options else ""
            raise _wrong(entry, options, f"no option `{name}`{hint}")
        given[name] = value
    for name, value in given.items():
        given[name], allowed = _typed(value, options[name])
        if allowed:
            raise _wrong(entry, options, f"`{name}` must be {allowed}, got {value!r}")
    return functools.partial(function, **given) if given else function


def _options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Name -> parameter with a default, in order of the signature."""
    found = inspect.signature(function).parameters.values()
    return {one.name: one for one in found if one.default is not inspect.Parameter.empty}


def _typed(value: Any, option: inspect.Parameter) -> tuple[Any, str]:
    """(`value` converted by the annotation, the allowed values as text if it is invalid)."""
    annotation = option.annotation
    if typing.get_origin(annotation) is typing.Literal:
        allowed = typing.get_args(annotation)
        return value, "" if value in allowed else f"one of {', '.join(map(repr, allowed))}"
    if typing.get_origin(annotation) is not typing.Annotated:
        return _like(value, option.default)
    kind, between = typing.get_args(annotation)
    if typing.get_origin(kind) is tuple:
        fine = (
            isinstance(value, (tuple, list))
            and len(value) == 2
            and all(_is_number(one, float) and between.low <= one <= between.high for one in value)
            and value[0] <= value[1]
        )
        ends = tuple(map(float, value)) if fine else value
        return ends, "" if fine else f"a pair (low, high) of numbers {between}"
    fine = _is_number(value, kind) and between.low <= value <= between.high
    word = "an integer" if kind is int else "a number"
    return (kind(value), "") if fine else (value, f"{word} {between}")


def _like(value: Any, default: Any) -> tuple[Any, str]:
    """As `_typed`, for an option without a range: `value` with the type of its default."""
    if isinstance(default, float) and _is_number(value, float):
        return float(value), ""
    fine = default is None or type(value) is type(default)
    return value, "" if fine else f"of type {type(default).__name__}, like {default!r}"


def _is_number(value: Any, kind: type) -> bool:
    kinds = (int,) if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _malformed(text: str) -> ConfigError:
    return ConfigError(
        f"data.augment: {text!r} is not `name` or `name(1, key=2)` with plain values, "
        "e.g. flip or random_resized_crop(area=(0.25, 1.0))"
    )


def _wrong(entry: Entry, options: dict[str, inspect.Parameter], what: str) -> ConfigError:
    takes = ", ".join(f"{one.name}={one.default!r}" for one in options.values())
    return ConfigError(
        f"data.augment: {entry.text!r}: {what}; the signature is {entry.name}({takes})"
    )
