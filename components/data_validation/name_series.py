"""Series of images by their names, such as `00002_00012.ppm` or `cam3-017.jpg`.

Frames of one object differ too much for hashes, but cameras and video tools number them.
"""

import re
from collections.abc import Sequence

import numpy as np

#: Matches a numbered file name; group 1 is the name of the series.
NUMBERED = r"(.+)[ _.-][0-9]+\.[^./]+$"
# Names like `cat.123.jpg` and `IMG_0001.jpg` make fewer or longer series than these limits.
_FEWEST, _LONGEST, _FEWEST_A_CLASS = 10, 1000, 2


def series_of(filename: str, labels: Sequence[int]) -> int:
    """A number for the series of an image; 0 for a name without a number.

    Args:
      filename: in the source, with or without folders.
      labels: of the image; images of different classes are in different series.
    """
    found = re.match(NUMBERED, filename.rpartition("/")[2])
    label = tuple(labels) if len(labels) == 1 else ()
    return (hash((found.group(1), label)) or 1) if found else 0


def split_across(series: np.ndarray, splits: np.ndarray, *, classes: int) -> dict[int, int]:
    """Position of an image -> that of the first image of its series, when their splits differ.

    Args:
      series: (N,) int64 of `series_of`.
      splits: (N,) integers.
      classes: number of classes of the data set.

    Returns:
      An empty dictionary when the names do not indicate series: when there are few of them, about
      as many as classes, or most images are in none.
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
