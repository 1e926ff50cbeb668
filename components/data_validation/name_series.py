"""Series of images by what their names share: `00002_00012.ppm`, `cam3-017.jpg`.

Frames of one object look too different for hashes, but cameras and video tools number them.
"""

import re
from collections.abc import Sequence

import numpy as np

_NUMBERED = re.compile(r"(.+)[ _.-]\d+\.\w+")
# Fewer series, or longer ones, are what `cat.123.jpg` and `IMG_0001.jpg` are named by.
_FEWEST, _LONGEST, _FEWEST_A_CLASS = 10, 1000, 2


def series_of(filename: str, labels: Sequence[int]) -> int:
    """A number for the series of an image; 0 where its name shows none.

    Args:
      filename: of the source, with or without folders.
      labels: of the image; one class's series is not another's.
    """
    found = _NUMBERED.fullmatch(filename.rpartition("/")[2])
    label = tuple(labels) if len(labels) == 1 else ()
    return (hash((found.group(1), label)) or 1) if found else 0


def split_series(series: np.ndarray, splits: np.ndarray, *, classes: int) -> dict[int, int]:
    """Image -> the first one of its series that is in another split.

    Args:
      series: (N,) int64 of `series_of`.
      splits: (N,) integers.
      classes: how many the data set has.

    Returns:
      Nothing where the names are not those of series: where these are few, or hardly more than the
      classes, or most images are in none.
    """
    rows = np.flatnonzero(series)
    _, group, size = np.unique(series[rows], return_inverse=True, return_counts=True)
    usual = (size > 1) & (size <= _LONGEST)
    enough = usual.sum() >= max(_FEWEST, _FEWEST_A_CLASS * classes)
    if not enough or 2 * size[usual].sum() < len(series):
        return {}
    first: dict[int, int] = {}
    found: dict[int, int] = {}
    for row, one in zip(rows.tolist(), group.tolist(), strict=True):
        if not usual[one]:
            continue
        earlier = first.setdefault(one, row)
        if splits[earlier] != splits[row]:
            found[row] = earlier
    return found
