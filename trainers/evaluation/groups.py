"""The groups of a data set: the values of a slice key, and of crosses such as `race*gender`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.registry import nearest

Array = NDArray[Any]

#: Joins the keys of a cross: `race*gender`.
CROSS = "*"
#: The value of images whose record has none; shown, and not compared.
NOT_RECORDED = "not recorded"
_JOIN = ", "
_PREFIX = "slice/"


class GroupError(ValueError):
    """A group key that the predictions lack; the message names the nearest ones."""


def group_values(slices: Mapping[str, Array], key: str) -> Array:
    """(M,) str: the values of a key, or of several that `*` joins, as `Asian, Female`.

    Args:
      slices: `slice/<key>` -> (M,) str.
      key: with or without `slice/`; `race*gender` is a cross.

    Raises:
      GroupError: no such key, or a value that contains the separator of a cross.
    """
    try:
        return crossed(dict(slices), group_keys(key, tuple(slices)))
    except ValueError as error:
        raise GroupError(str(error)) from error


def group_keys(key: str, known: Sequence[str]) -> tuple[str, ...]:
    """The keys of `known` that a key or a cross such as `race*gender` names.

    Raises:
      GroupError: `known` lacks one; names the nearest.
    """
    short = {one.removeprefix(_PREFIX): one for one in known}
    found = []
    for part in key.split(CROSS):
        name = part.strip().removeprefix(_PREFIX)
        if name not in short:
            raise GroupError(
                f"no slice {part.strip()!r}; {nearest(name, list(short)) if short else 'none'}"
            )
        found.append(short[name])
    return tuple(found)


def crossed(slices: dict[str, Array], keys: tuple[str, ...]) -> Array:
    """(M,) str: the groups of several keys at once, as `Asian, Female`.

    Raises:
      KeyError: a key that `slices` lacks.
      ValueError: a value that contains the separator, which would merge different groups.
    """
    columns = [np.asarray(slices[key], str).astype(object) for key in keys]
    columns = [np.where(column == "", NOT_RECORDED, column) for column in columns]
    for key, column in zip(keys, columns, strict=True):
        bad = [value for value in set(column.tolist()) if _JOIN in value] if len(keys) > 1 else []
        if bad:
            raise ValueError(
                f"the value {bad[0]!r} of {key} contains {_JOIN!r}, which separates the values of "
                "a cross; rename it in the data"
            )
    return np.array([_JOIN.join(row) for row in zip(*columns, strict=True)], dtype=object)


def is_recorded(name: str) -> bool:
    """Whether the images of a group of `crossed` have a value of each key."""
    return NOT_RECORDED not in name.split(_JOIN)


def natural(name: str) -> tuple[tuple[int, Any], ...]:
    """A key that sorts numbers within text as numbers: 3-9, 10-19, more than 70."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)
