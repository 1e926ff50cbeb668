"""Configuration keys: their declaration, roles and ranges, and how values are parsed.

    epochs: int = key(30, "Passes over the training images.", within="[0, inf)")

That line is all there is to a key. Validation, `sightline train --keys`, the identity of a run, the
caches and configurations of earlier versions read it from here. Standard library only.
"""

import functools
import json
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, cast

from trainers.registry import nearest

T = TypeVar("T")

_KEY = "key"
_SECTION = "section"
_UNSET = object()
_INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")
_PHRASES = {"[0, inf)": "0 or more", "[1, inf)": "at least 1", "(0, inf)": "positive"}


class ConfigError(ValueError):
    """A key or value the configuration does not take; the message gives the remedy."""


@dataclass(frozen=True)
class Key:
    """The declaration of a configuration key.

    Attributes:
      doc: what the value means.
      within: interval that the number, or each number of a list, lies in, e.g. `[0, 1)`.
      choices: the values that text can have.
      matches: regular expression that text must match; `hint` describes it.
      length: number of values in a list; 0 is any.
      hint: added to `allowed`.
      identity: whether the value decides the trained weights: two runs that differ in it have
        different checkpoint folders. Locations, caches and devices do not.
      images: whether the value decides which training images a step gets, or their pixels; None is
        the default of the section. Caches of teacher logits depend on it.
      pixels: whether the value decides the pixels of an evaluation image. Caches of decoded images
        depend on it, and the manifest states it to clients.
      before: what versions without this key did; configurations that lack it mean this.
      sets: other keys -> the values that they get when this key is overridden and they are not.
      kind: the type of the value.
      default: the value of a configuration that does not set the key; `MISSING` if it has to.
    """

    doc: str
    within: str = ""
    choices: tuple[str, ...] = ()
    matches: str = ""
    length: int = 0
    hint: str = ""
    identity: bool = True
    images: bool | None = None
    pixels: bool = False
    before: Any = _UNSET
    sets: Mapping[str, Any] = field(default_factory=dict)
    kind: Any = None
    default: Any = _UNSET

    @property
    def is_young(self) -> bool:
        """Whether earlier versions did not have this key."""
        return self.before is not _UNSET

    @property
    def allowed(self) -> str:
        """The values that the key takes, in plain English; empty if any of its type."""
        if self.choices:
            text = ", ".join(self.choices[:-1]) + f" or {self.choices[-1]}"
        else:
            text = _PHRASES.get(self.within, f"in {self.within}" if self.within else "")
        if text and typing.get_origin(self.kind) is tuple:
            text = f"each {text}"
        count = f"{self.length} values" if self.length else ""
        text = ", ".join(filter(None, (count, text)))
        return "; ".join(filter(None, (text, self.hint)))

    def accepts(self, value: Any) -> bool:
        """Whether `value`, which has the right type, is allowed."""
        parts = value if isinstance(value, tuple) else (value,)
        if self.length and len(parts) != self.length:
            return False
        if self.choices and not all(part in self.choices for part in parts):
            return False
        if self.matches and not re.fullmatch(self.matches, str(value)):
            return False
        return not self.within or all(_inside(part, self.within) for part in parts)


def _inside(value: float, interval: str) -> bool:
    """Whether `value` lies in `interval`; not a number and, before `inf)`, infinity do not."""
    match = _INTERVAL.fullmatch(interval)
    if match is None:
        raise ValueError(f"`within` is an interval such as [0, 1) or (0, inf), got {interval!r}")
    low, high = float(match[2]), float(match[3])
    above = low <= value if match[1] == "[" else low < value
    return above and (value <= high if match[4] == "]" else value < high)


def key(
    default: T,
    doc: str,
    *,
    within: str = "",
    choices: tuple[str, ...] = (),
    length: int = 0,
    hint: str = "",
    identity: bool = True,
    images: bool | None = None,
    pixels: bool = False,
    before: T | object = _UNSET,
    sets: Mapping[str, Any] | None = None,
) -> T:
    """A dataclass field with this default; the other arguments are attributes of `Key`."""
    stated = Key(
        doc,
        within=within,
        choices=choices,
        length=length,
        hint=hint,
        identity=identity,
        images=images,
        pixels=pixels,
        before=before,
        sets=sets or {},
    )
    if isinstance(default, dict):
        return field(default_factory=lambda: cast(T, dict(default)), metadata={_KEY: stated})
    return field(default=default, metadata={_KEY: stated})


def required(doc: str, *, matches: str, allowed: str) -> Mapping[str, Any]:
    """Metadata of a field without a default, whose text matches a regular expression."""
    return {_KEY: Key(doc, matches=matches, hint=allowed)}


def section(kind: type[T], *, identity: bool = True, images: bool = False) -> T:
    """A dataclass field that holds a section of keys.

    Args:
      kind: the section's dataclass; all of its keys have defaults.
      identity: False if no key of it is part of a run's identity.
      images: `Key.images` of the keys that do not set it.
    """
    stated = {_SECTION: (kind, identity, images)}
    return field(default_factory=kind, metadata=stated)


@functools.cache
def keys_of(config: type) -> dict[str, Key]:
    """Dotted name -> key, of a configuration and its sections, in the order of their fields."""
    kinds = typing.get_type_hints(config)
    found: dict[str, Key] = {}
    for one in fields(config):
        if _SECTION in one.metadata:
            kind, identity, images = one.metadata[_SECTION]
            for name, inner in keys_of(kind).items():
                chosen = images if inner.images is None else inner.images
                found[f"{one.name}.{name}"] = replace(
                    inner, identity=identity and inner.identity, images=chosen
                )
        elif _KEY in one.metadata:
            made = one.default_factory
            default = one.default if made is MISSING else made()
            found[one.name] = replace(one.metadata[_KEY], kind=kinds[one.name], default=default)
    return found


def values_with(config: Any, role: Literal["identity", "images", "pixels"]) -> dict[str, Any]:
    """The plain values of the keys with a role, see `Key`, nested by section.

    Args:
      config: a `Config`, or another dataclass whose fields are keys and sections.
      role: an attribute of `Key`.
    """
    keys = keys_of(type(config))
    found: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(asdict(config))).items():
        if name in keys:
            found |= {name: value} if getattr(keys[name], role) else {}
        else:
            inner = {k: v for k, v in value.items() if getattr(keys[f"{name}.{k}"], role)}
            found |= {name: inner} if inner else {}
    return found


def override(config: T, assignments: Iterable[str]) -> T:
    """`config` with `section.key=value` assignments applied, values as JSON or bare words.

    Args:
      config: a `Config`, or any other dataclass whose sections are dataclasses.
      assignments: applied in order; some keys set another one too, see `Key.sets`.

    Raises:
      ConfigError: not of that form, an unknown key (the nearest are named), or a wrong type.
    """
    given = list(assignments)
    names = {one.partition("=")[0].strip() for one in given}
    keys = keys_of(type(config))
    for assignment in given:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"{assignment!r} is not `key=value`, e.g. train.epochs=5")
        config = _assign(config, name.strip().split("."), text.strip(), name.strip())
        sets = keys[name.strip()].sets if name.strip() in keys else {}
        for other, value in sets.items():
            if other not in names:
                config = _assign(config, other.split("."), json.dumps(value), other)
    return config


def _assign(node: Any, path: list[str], text: str, whole: str) -> Any:
    names = [f.name for f in fields(node)]
    if path[0] not in names:
        raise ConfigError(
            f"unknown config key {whole!r}: no {path[0]!r}; {nearest(path[0], names)}"
        )
    current = getattr(node, path[0])
    if len(path) > 1:
        if isinstance(current, dict):
            return replace(node, **{path[0]: {**current, ".".join(path[1:]): _parse_json(text)}})
        if not is_dataclass(current):
            raise ConfigError(f"config key {whole!r}: {path[0]!r} has no parts")
        return replace(node, **{path[0]: _assign(current, path[1:], text, whole)})
    if is_dataclass(current):
        inner = [f"{whole}.{f.name}" for f in fields(current)]
        raise ConfigError(f"config key {whole!r} is a section; set one of {', '.join(inner)}")
    wanted = typing.get_type_hints(type(node))[path[0]]
    return replace(node, **{path[0]: _typed(_parse(text, wanted), wanted, whole)})


def build_settings(kind: type[T], raw: Mapping[str, Any], prefix: str) -> T:
    """The dataclass `kind` of plain values; `prefix`, as `gates.`, goes before keys in errors.

    Raises:
      ConfigError: an unknown key (the nearest are named) or a wrong type.
    """
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    if not isinstance(raw, Mapping):
        raise ConfigError(f"config section {prefix.rstrip('.')!r} takes a mapping, got {raw!r}")
    for name, value in raw.items():
        if name not in hints:
            raise ConfigError(f"unknown config key {prefix + name!r}; {nearest(name, list(hints))}")
        wanted = hints[name]
        if isinstance(wanted, type) and is_dataclass(wanted):
            values[name] = build_settings(wanted, value, f"{prefix}{name}.")
        else:
            values[name] = _typed(value, wanted, prefix + name)
    return kind(**values)


def _parse(text: str, wanted: Any) -> Any:
    """`text` as JSON; for a key of type text, a bare `1.10` or `true` is that text."""
    parsed = _parse_json(text)
    if wanted is str:
        return parsed if isinstance(parsed, str) else text
    if typing.get_origin(wanted) is tuple:
        return parsed if isinstance(parsed, (list, str)) else text
    return parsed


def _parse_json(text: str) -> Any:
    """The value of JSON; other text is the value itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _typed(value: Any, wanted: Any, name: str) -> Any:
    """`value` as `wanted`: int, float, str, dict or a tuple of one of those.

    Raises:
      ConfigError: another type; `name` is the key in the message.
    """
    origin = typing.get_origin(wanted)
    if origin is tuple:
        inner, *rest = typing.get_args(wanted)
        items = _items(value, inner, name)
        if rest and rest[0] is not Ellipsis and len(items) != 1 + len(rest):
            raise ConfigError(f"{name} takes {1 + len(rest)} values, got {value!r}")
        return tuple(_typed(item, inner, name) for item in items)
    if origin in (dict, Mapping):
        wanted = dict
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{name} takes {wanted.__name__}, got {value!r}")
    return value


def _items(value: Any, inner: Any, name: str) -> list[Any]:
    """The parts of a list, or of text with commas."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if not isinstance(value, str):
        raise ConfigError(f"{name} takes a list or text with commas, got {value!r}")
    parts = _comma_parts(value) if value.strip() else []
    return parts if inner is str else [_parse_json(part) for part in parts]


def _comma_parts(text: str) -> list[str]:
    """`text` split at its commas, except for those within parentheses or brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
