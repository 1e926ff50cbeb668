"""Slices on which a model is less accurate than on the other images, found automatically.

Every value and every pair of values of two keys is tested on all images. Crosses of three values
are too many for that. A search finds `CROSSES` of them on one half of the images, like a tree of
depth three that grows only its least accurate branches, and they are tested on the other half. A
tree whose leaves are tested on the images that it was grown on would report slices that are weak by
chance only, and one that is grown on half of the images would find fewer values and pairs.

All p-values are adjusted together so that at most 5 % of runs report any slice below 0.05 where
accuracy does not depend on the slices: with m tests of values and pairs and K = `CROSSES` tests of
crosses, the i-th smallest of the m is multiplied by m + K + 1 - i (Holm 1979), and each of the
crosses by m + K. Under Bonferroni's inequality, the chance of a false claim is at most
0.05 m0 / (m0 + K) + 0.05 K / (m + K), where m0 <= m hypotheses are true, which is at most 0.05.

The accuracy of a slice that was chosen for its p-value tends to be lower than on new images.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as _scipy

from trainers.evaluation.stats import LEAST_IMAGES, Interval, proportion_interval

Array = NDArray[Any]

#: Crosses of three values that are tested.
CROSSES = 4
_DEPTH = 3
# A weak cross may have parts that are not weak: more branches than leaves are kept.
_BRANCHES = 16
# Halves of the images; fixed, so that it depends on neither predictions nor slices.
_SEED = 0


@dataclass(frozen=True)
class WeakSlice:
    """Images with common slice values on which the model is less accurate than on the others.

    Attributes:
      values: key -> value, one to three.
      images: in the slice; of three values, in the half that the search did not use.
      accuracy: in the slice, with its 95 % interval.
      outside: accuracy on all other images; of three values, of the same half.
      p_adjusted: of Fisher's exact test, adjusted for all slices that were tried; see the module.
    """

    values: dict[str, str]
    images: int
    accuracy: Interval
    outside: float
    p_adjusted: float


def weak_slices(correct: ArrayLike, slices: Mapping[str, Array]) -> tuple[list[WeakSlice], int]:
    """The slices on which accuracy is lower, by significance; see the module for the search.

    Only slices with 30 images or more inside and outside are tried.

    Args:
      correct: (M,) bool.
      slices: key -> (M,) str.

    Returns:
      The slices that are less accurate than the rest, the most significant first, and the number
      of slices that were tried, for which p-values are adjusted.
    """
    right = np.asarray(correct, bool)
    columns = {key: np.asarray(slices[key], str) for key in sorted(slices)}
    tested = [_test(right, values, inside) for values, inside in _candidates(columns, len(right))]
    if not tested:
        return [], 0
    # Decided by the slices alone: a number that depends on `correct` would bias the adjustment.
    crosses = CROSSES if sum(len(set(one.tolist())) > 1 for one in columns.values()) > 2 else 0
    total = len(tested) + crosses
    tested.sort(key=lambda one: one.p_adjusted)
    factors = total - np.arange(len(tested))
    adjusted = np.maximum.accumulate(factors * [one.p_adjusted for one in tested])
    found = [_adjusted(one, p) for one, p in zip(tested, adjusted, strict=True)]
    if crosses:
        found += [_adjusted(one, total * one.p_adjusted) for one in _crosses(right, columns)]
    found = [one for one in found if one.accuracy.value < one.outside]
    found.sort(key=lambda one: (one.p_adjusted, one.accuracy.value, len(one.values)))
    return found, total


def _adjusted(one: WeakSlice, p: float) -> WeakSlice:
    return replace(one, p_adjusted=min(float(p), 1.0))


def _test(right: Array, values: dict[str, str], inside: Array) -> WeakSlice:
    """A slice with the p-value of Fisher's exact test, not adjusted."""
    count, hits = int(inside.sum()), int(right[inside].sum())
    others, other_hits = len(right) - count, int(right.sum()) - hits
    table = [[hits, count - hits], [other_hits, others - other_hits]]
    p = float(_scipy.fisher_exact(table).pvalue)
    return WeakSlice(values, count, proportion_interval(hits, count), other_hits / others, p)


def _candidates(columns: Mapping[str, Array], total: int) -> Iterator[tuple[dict[str, str], Array]]:
    """Slices that are large enough, inside and outside; a pair only where it narrows both parts."""
    single = []
    for key, value, inside in _values(columns):
        if LEAST_IMAGES <= inside.sum() <= total - LEAST_IMAGES:
            single.append((key, value, inside))
            yield {key: value}, inside
    for (key, value, first), (other, another, second) in combinations(single, 2):
        both = first & second
        narrower = both.sum() < min(first.sum(), second.sum())
        if key != other and narrower and both.sum() >= LEAST_IMAGES:
            yield {key: value, other: another}, both


def _values(columns: Mapping[str, Array]) -> Iterator[tuple[str, str, Array]]:
    for key, column in columns.items():
        for value in sorted(set(column.tolist())):
            yield key, value, column == value


def _crosses(right: Array, columns: Mapping[str, Array]) -> list[WeakSlice]:
    """Up to `CROSSES` crosses of three values: found on one half, tested on the other."""
    order = np.random.default_rng(_SEED).permutation(len(right))
    search, test = order[: len(order) // 2], order[len(order) // 2 :]
    rules = _search(right[search], {key: column[search] for key, column in columns.items()})
    found = []
    for values in rules:
        inside = np.all([columns[key][test] == value for key, value in values.items()], axis=0)
        if LEAST_IMAGES <= inside.sum() <= len(test) - LEAST_IMAGES:
            found.append(_test(right[test], values, inside))
    return found


def _search(right: Array, columns: Mapping[str, Array]) -> list[dict[str, str]]:
    """The crosses of three values with the lowest accuracy for their size."""
    single = [one for one in _values(columns) if one[2].sum() >= LEAST_IMAGES]
    beam: Sequence[tuple[dict[str, str], Array]] = [({}, np.ones(len(right), bool))]
    for depth in range(1, _DEPTH + 1):
        grown = {}
        for values, inside in beam:
            for key, value, also in single:
                both = inside & also
                narrower = both.sum() < inside.sum()
                if key not in values and narrower and both.sum() >= LEAST_IMAGES:
                    rule = {**values, key: value}
                    grown[frozenset(rule.items())] = (_score(right, both), rule, both)
        best = sorted(grown.values(), key=lambda one: (one[0], sorted(one[1].items())))
        kept = CROSSES if depth == _DEPTH else _BRANCHES
        beam = [(rule, both) for _, rule, both in best[:kept]]
    return [rule for rule, _ in beam]


def _score(right: Array, inside: Array) -> float:
    """Accuracy inside minus outside, in standard errors of equal accuracies; 0 if undefined."""
    count, others = int(inside.sum()), int((~inside).sum())
    rate = float(right.mean())
    if not others or rate in (0.0, 1.0):
        return 0.0
    error = np.sqrt(rate * (1 - rate) * (1 / count + 1 / others))
    return float((right[inside].mean() - right[~inside].mean()) / error)
