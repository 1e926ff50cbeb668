"""Finds groups of images that belong together, such as frames of one object.

Candidates come from file names and columns. A grouping is suggested if two images of a group are
more similar than two of different groups of the same class, by a sign test over pairs of images.
Frames of one object in both the training and the test split would inflate test results.
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
from tfx_pipeline.projects.sources import SourceListing

# The text before the last number of a name, as in `<track>_<frame>.ppm`, and folders in a class.
_BY_NAME = (NUMBERED, r"(.+/.+)/[^/]+$")
_PAIRS = 200
# Number of pairs to compare; few groups contribute several pairs each.
_FEW_PAIRS = 40
_SEED = 0
# Minimum share of pairs with more similar members, and maximum probability of that by chance.
_SHARE, _CHANCE = 0.7, 1e-3
# With fewer groups, in total or per class, splits are not possible; it is rather a property.
_FEWEST_GROUPS, _FEWEST_OF_A_CLASS = 6, 2
# A column with a larger share of distinct values is not a grouping.
_MOST_GROUPS = 0.8


@dataclass(frozen=True)
class Grouping:
    """A grouping of images.

    Attributes:
      spec: the value for `--group`: columns, or a regular expression on names.
      groups: number of groups.
      pairs: number of compared pairs of images.
      alike: share of the pairs in which members of a group are more similar, in [0, 1].
      divided: number of groups that are in two splits of the source.
    """

    spec: str
    groups: int
    pairs: int
    alike: float
    divided: int


def find_groups(found: SourceListing) -> Grouping | None:
    """The grouping with the most similar images; None if no candidate passes the test."""
    best: Grouping | None = None
    thumbnails = _Thumbnails()
    for spec, groups in _candidates(found):
        one = _judged(spec, groups, found.items, thumbnails)
        if one is not None and (best is None or one.alike > best.alike):
            best = one
    return best


def _candidates(found: SourceListing) -> Iterator[tuple[str, dict[str, str]]]:
    """(value for `--group`, image name -> group); single columns before pairs of columns."""
    if found.job == "csv":
        yield from _by_column(found)
    for pattern in _BY_NAME:
        matches = {one.name: re.search(pattern, _within_split(one, found)) for one in found.items}
        groups = {name: match[1] for name, match in matches.items() if match}
        if len(groups) == len(found.items):
            yield pattern, groups


def _within_split(item: Item, found: SourceListing) -> str:
    """The name of an image relative to its split folder; an object may be in several splits."""
    folded = found.job == "folder" and item.split
    return item.name.partition("/")[2] if folded else item.name


def _by_column(found: SourceListing) -> Iterator[tuple[str, dict[str, str]]]:
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
    """The grouping, if its members are more similar than other images of their class."""
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
    return Grouping(spec, count, pairs, alike / pairs, _divided(groups, items))


def _triples(groups: Mapping[str, str], items: list[Item]) -> Iterator[tuple[Item, Item, Item]]:
    """(image, another image of its group, an image of another group of its class)."""
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
    """The probability of at least `count` heads in `of` tosses of a fair coin."""
    return sum(comb(of, k) for k in range(count, of + 1)) / 2**of


def _divided(groups: Mapping[str, str], items: list[Item]) -> int:
    """Number of groups in two splits, where images without a split count as training."""
    splits: dict[str, set[str]] = defaultdict(set)
    for item in items:
        splits[groups[item.name]].add(item.split or "train")
    return sum(len(one) > 1 for one in splits.values())


class _Thumbnails:
    """(32, 32) uint8 gray thumbnails of images, each decoded once."""

    def __init__(self) -> None:
        self._known: dict[str, np.ndarray | None] = {}

    def of(self, item: Item) -> np.ndarray | None:
        """The thumbnail; None if Pillow cannot decode the image."""
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
