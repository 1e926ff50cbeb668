"""Groups: images of one object, person or camera, which must stay in one split.

If frames of one object are in two splits, the test measures recognition of training objects. With
`--group`, the name of the group decides the split of all of its images.
"""

import hashlib
import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.source import IngestError, Item
from tfx_pipeline.ingest.splits import choose_split, missing_splits, split_point
from trainers.data.features import SPLITS


@dataclass
class _Group:
    """The classes of a group, its splits in the source, and its position in [0, 1) by digest."""

    digest: str
    classes: set[str] = field(default_factory=set)
    declared: set[str] = field(default_factory=set)


def with_groups(
    items: Iterable[Item | IngestFinding], group: str
) -> Iterator[Item | IngestFinding]:
    """Items with their group: from the source, or from a regular expression on their names.

    Args:
      items: of a source; they already have groups if `group` names columns of a table.
      group: a regular expression; its capture groups, or the whole match, are the group's name.

    Raises:
      IngestError: `group` is not a regular expression, or does not match a name.
    """
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise IngestError(
            f"--group {group!r} is not a column of the table and not a regular expression: {error}"
        ) from error
    for one in items:
        if isinstance(one, Item) and not one.group:
            found = pattern.search(one.name)
            texts = (found.groups() or (found.group(),)) if found else ()
            name = "/".join(text for text in texts if text)
            if not name:
                raise IngestError(
                    f"--group {group!r} gives no group for {one.name}: the column is empty, or "
                    "there is no such column and the expression does not match the name; e.g. "
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

    The digest of its name decides the split of a group, as the digest of its bytes decides the
    split of an image without a group. Then each split to fill gets at least one group and, with
    `every_class`, training gets at least one group of each class.

    Args:
      index: after duplicates are resolved.
      present: the splits that the source has.
      fractions: of train, validation and test, summing to 1.
      every_class: whether each class needs a training image.

    Raises:
      IngestError: a group is in two splits of the source.
    """
    groups = _read(index)
    _check_undivided(index, groups)
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
        # Images without a declared split may be put into training.
        group.declared.add(split or "train")
    return groups


def _check_undivided(index: sqlite3.Connection, groups: dict[bytes, _Group]) -> None:
    divided = sorted(name for name, one in groups.items() if len(one.declared) > 1)
    if not divided:
        return
    splits = sorted(groups[divided[0]].declared)
    found = [
        index.execute(
            "SELECT name FROM items WHERE grp = ? AND (split = ? OR (split = '' AND ? = 'train')) "
            "ORDER BY name LIMIT 1",
            (divided[0], split, split),
        ).fetchone()[0]
        for split in splits
    ]
    group, *names = (one.decode("utf-8", "backslashreplace") for one in (divided[0], *found))
    raise IngestError(
        f"{len(divided)} of {len(groups)} groups are in two splits of the source, e.g. {group!r} "
        f"in {' and '.join(splits)}: {' and '.join(names)}; ingest the images without their split "
        "folders, lists or column, so that groups decide, or leave --group out"
    )


def _fill_empty(
    free: dict[bytes, _Group],
    chosen: dict[bytes, str],
    present: Collection[str],
    fractions: tuple[float, float, float],
) -> None:
    """Moves the group whose digest is closest to an empty split into that split."""
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
    """Moves one group into training for each class without a training image."""
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
