"""Which images of a source belong together, such as the frames of one object.

Names and columns propose groups; the images decide. A grouping is suggested where two images of a
group are more alike than two of different groups of the same class, by a sign test over pairs of
images. Frames of one object on both sides of a split make a test look better than it is.
"""

import random
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
from PIL import Image

from components.data_validation.name_series import NUMBERED
from components.data_validation.near_duplicates import SIDE, difference
from tfx_pipeline.ingest.file_names import with_slashes
from tfx_pipeline.ingest.options import bind
from tfx_pipeline.ingest.source import Item, jobs
from tfx_pipeline.ingest.sources.csv_file import columns
from tfx_pipeline.projects.sources import Found

# What precedes the last number of a name, as in `<track>_<frame>.ppm`, and folders in a class.
_BY_NAME = (NUMBERED, r"(.+/.+)/[^/]+$")
_PAIRS = 200
# Fewer groups give several pairs each, up to so many in all.
_FEW_PAIRS = 40
_SEED = 0
# Members are more alike in at least this share of the pairs, which chance gives this rarely.
_SHARE, _CHANCE = 0.7, 1e-3
# Fewer groups, in all or of a class, leave no choice of splits; it is rather a kind of image.
_FEWEST_GROUPS, _FEWEST_OF_A_CLASS = 6, 2
# A column with more values than this part of its lines groups nothing.
_MOST_GROUPS = 0.8


@dataclass(frozen=True)
class Grouping:
    """Groups that were found.

    Attributes:
      spec: for `--group`: columns, or an expression on names.
      groups: how many there are.
      pairs: pairs of images that were compared.
      alike: the share of the pairs in which members of a group were more alike, in [0, 1].
      torn: groups that the source itself has in two splits.
    """

    spec: str
    groups: int
    pairs: int
    alike: float
    torn: int


def find_groups(found: Found) -> Grouping | None:
    """The grouping of a source's images that they bear out best; None where none is."""
    best: Grouping | None = None
    thumbnails = _Thumbnails()
    for spec, groups in _candidates(found):
        one = _judged(spec, groups, found.items, thumbnails)
        if one is not None and (best is None or one.alike > best.alike):
            best = one
    return best


def _candidates(found: Found) -> Iterator[tuple[str, dict[str, str]]]:
    """(what `--group` takes, image's name -> group); a single column comes before two."""
    if found.job == "csv":
        yield from _by_column(found)
    for pattern in _BY_NAME:
        matches = {one.name: re.search(pattern, _within_split(one, found)) for one in found.items}
        groups = {name: match[1] for name, match in matches.items() if match}
        if len(groups) == len(found.items):
            yield pattern, groups


def _within_split(item: Item, found: Found) -> str:
    """An image's name below its split folder: an object may be in several splits."""
    folded = found.job == "folder" and item.split
    return item.name.partition("/")[2] if folded else item.name


def _by_column(found: Found) -> Iterator[tuple[str, dict[str, str]]]:
    options = bind("csv", jobs.get("csv"), found.options)
    file, label = options.get("file", "file"), options.get("label", "label")
    table = columns(found.where, file=file, label=label)
    used = {file, label, options.get("split", ""), "split"}
    names = [with_slashes(one) for one in table[file]]
    for key, values in table.items():
        if key in used or not all(values) or len(set(values)) > _MOST_GROUPS * len(values):
            continue
        yield key, dict(zip(names, values, strict=True))
        both = (f"{a}/{b}" for a, b in zip(table[label], values, strict=True))
        yield f"{label},{key}", dict(zip(names, both, strict=True))


def _judged(
    spec: str, groups: Mapping[str, str], items: list[Item], thumbnails: "_Thumbnails"
) -> Grouping | None:
    """The grouping, when its members are more alike than others of their class."""
    classes = len({one.class_name for one in items})
    count = len(set(groups.values()))
    if count < max(_FEWEST_GROUPS, _FEWEST_OF_A_CLASS * classes):
        return None
    within, across = [], []
    for one, member, other in _triples(groups, items):
        shown = [thumbnails.of(item) for item in (one, member, other)]
        if all(image is not None for image in shown):
            within.append((shown[0], shown[1]))
            across.append((shown[0], shown[2]))
    if not within:
        return None
    apart = [
        difference(np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))
        for pairs in (within, across)
    ]
    told = np.isfinite(apart[0]) & np.isfinite(apart[1]) & (apart[0] != apart[1])
    pairs, alike = int(told.sum()), int((apart[0] < apart[1])[told].sum())
    if not pairs or alike < _SHARE * pairs or _tail(alike, pairs) > _CHANCE:
        return None
    return Grouping(spec, count, pairs, alike / pairs, _torn(groups, items))


def _triples(groups: Mapping[str, str], items: list[Item]) -> Iterator[tuple[Item, Item, Item]]:
    """An image, another of its group, and one of another group of its class."""
    draw = random.Random(_SEED)
    members: dict[str, list[Item]] = defaultdict(list)
    classes: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        members[groups[item.name]].append(item)
        classes[item.class_name].append(item)
    large = sorted(name for name, own in members.items() if len(own) > 1)
    draw.shuffle(large)
    for name in large[:_PAIRS] * max(1, _FEW_PAIRS // max(len(large), 1)):
        one, member = draw.sample(members[name], 2)
        others = classes[one.class_name]
        for other in draw.sample(others, min(len(others), 8)):
            if groups[other.name] != name:
                yield one, member, other
                break


def _tail(count: int, of: int) -> float:
    """The chance of at least `count` heads in `of` tosses."""
    return sum(comb(of, k) for k in range(count, of + 1)) / 2**of


def _torn(groups: Mapping[str, str], items: list[Item]) -> int:
    """Groups in two splits of the source, where what is open may become training."""
    splits: dict[str, set[str]] = defaultdict(set)
    for item in items:
        splits[groups[item.name]].add(item.split or "train")
    return sum(len(one) > 1 for one in splits.values())


class _Thumbnails:
    """(32, 32) uint8 gray thumbnails of images, each decoded once."""

    def __init__(self) -> None:
        self._known: dict[str, np.ndarray | None] = {}

    def of(self, item: Item) -> np.ndarray | None:
        """The thumbnail; None for what Pillow does not decode."""
        if item.name not in self._known:
            self._known[item.name] = _thumbnail(Path(item.path))
        return self._known[item.name]


def _thumbnail(file: Path) -> np.ndarray | None:
    try:
        with warnings.catch_warnings(), Image.open(file) as image:
            warnings.simplefilter("ignore")
            image.draft("L", (SIDE * 2, SIDE * 2))
            return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
