"""Groups: images of one object, person or camera, which belong into one split.

A split of single frames measures how well a model knows the very signs it was trained on. With
`--group` the group's name decides where all of its images go.
"""

import hashlib
import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from tfx_pipeline.ingest.findings import Finding
from tfx_pipeline.ingest.source import IngestError, Item
from tfx_pipeline.ingest.splits import choose_split, missing_splits, split_point
from trainers.data.features import SPLITS


@dataclass
class _Group:
    """A group's classes, the splits that the source put it into, and its place among all groups."""

    digest: str
    classes: set[str] = field(default_factory=set)
    declared: set[str] = field(default_factory=set)


def with_groups(items: Iterable[Item | Finding], group: str) -> Iterator[Item | Finding]:
    """Items with their group: the source's, or what an expression finds in their names.

    Args:
      items: of a source; a table has given them their groups if `group` names its columns.
      group: a regular expression whose groups, or else all of it, are the group's name.

    Raises:
      IngestError: not an expression, or it finds nothing in a name.
    """
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise IngestError(
            f"--group {group!r} is neither a column of the table nor a regular expression: {error}"
        ) from error
    for one in items:
        if isinstance(one, Item) and not one.group:
            found = pattern.search(one.name)
            texts = (found.groups() or (found.group(),)) if found else ()
            name = "/".join(text for text in texts if text)
            if not name:
                raise IngestError(
                    f"--group {group!r} gives no group for {one.name}: its column is empty there, "
                    "or there is no such column and the expression finds nothing in the name; e.g. "
                    r"--group track, or --group '(\d+)_\d+\.ppm'"
                )
            one = replace(one, group=name)
        yield one


def group_splits(
    index: sqlite3.Connection,
    *,
    present: Collection[str],
    fractions: tuple[float, float, float],
    every_class: bool,
) -> dict[bytes, str]:
    """Group -> the split of all its images.

    A group goes where its name's digest says, as an image without a group goes where its bytes' one
    says. Then each split that is to be filled gets at least one group, and, with `every_class`,
    training at least one of each class.

    Args:
      index: after duplicates are resolved.
      present: the splits that the source has.
      fractions: of train, validation and test, summing to 1.
      every_class: a class without a training image would be refused.

    Raises:
      IngestError: the source has a group in two splits.
    """
    groups = _read(index)
    _refuse_torn(index, groups)
    chosen = {
        name: choose_split(
            one.digest, next(iter(one.declared)), present=present, fractions=fractions
        )
        for name, one in groups.items()
    }
    free = {name: one for name, one in groups.items() if one.declared == {"train"}}
    _fill_empty(free, chosen, present, fractions)
    if every_class:
        _train_every_class(free, groups, chosen)
    return chosen


def _read(index: sqlite3.Connection) -> dict[bytes, _Group]:
    groups: dict[bytes, _Group] = {}
    query = (
        "SELECT DISTINCT grp, class, split FROM (SELECT grp, class, items.split AS split "
        "FROM facts JOIN items USING (row) WHERE grp != x'')"
    )
    for name, class_name, split in index.execute(query):
        group = groups.setdefault(name, _Group(hashlib.sha256(name).hexdigest()))
        group.classes.add(class_name)
        # What is open may go to training as well, so that it must not meet what is tested on.
        group.declared.add(split or "train")
    return groups


def _refuse_torn(index: sqlite3.Connection, groups: dict[bytes, _Group]) -> None:
    torn = sorted(name for name, one in groups.items() if len(one.declared) > 1)
    if not torn:
        return
    splits = sorted(groups[torn[0]].declared)
    found = [
        index.execute(
            "SELECT name FROM items WHERE grp = ? AND (split = ? OR (split = '' AND ? = 'train')) "
            "ORDER BY name LIMIT 1",
            (torn[0], split, split),
        ).fetchone()[0]
        for split in splits
    ]
    group, *names = (one.decode("utf-8", "backslashreplace") for one in (torn[0], *found))
    raise IngestError(
        f"{len(torn)} of {len(groups)} groups are in two splits of the source, e.g. {group!r} in "
        f"{' and '.join(splits)}: {' and '.join(names)}; ingest the images without their split "
        "folders, lists or column, so that groups decide, or leave --group out"
    )


def _fill_empty(
    free: dict[bytes, _Group],
    chosen: dict[bytes, str],
    present: Collection[str],
    fractions: tuple[float, float, float],
) -> None:
    """Gives a split without a group the one whose digest lies closest to it."""
    start, weights = 0.0, missing_splits(present, fractions)
    for split, weight in weights.items():
        low, high, start = start, start + weight, start + weight
        if split in chosen.values():
            continue
        counts, apart = Counter(chosen.values()), []
        for name, one in free.items():
            if counts[chosen[name]] > 1:
                point = split_point(one.digest) * sum(weights.values())
                apart.append((max(low - point, point - high), name))
        if apart:
            chosen[min(apart)[1]] = split


def _train_every_class(
    free: dict[bytes, _Group], groups: dict[bytes, _Group], chosen: dict[bytes, str]
) -> None:
    """Moves one group of each class that has no training image into training."""
    trained = {
        one for name, group in groups.items() if chosen[name] == SPLITS[0] for one in group.classes
    }
    for class_name in sorted({one for group in free.values() for one in group.classes} - trained):
        if class_name in trained:
            continue
        own = [(one.digest, name) for name, one in free.items() if class_name in one.classes]
        name = min(own)[1]
        chosen[name] = SPLITS[0]
        trained |= groups[name].classes
