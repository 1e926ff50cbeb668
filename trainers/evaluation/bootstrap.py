"""Bootstrap resamples, and the ends of BCa intervals. NumPy and SciPy only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as _scipy

Array = NDArray[Any]

# Indices of one chunk of resamples: 32 MB of int64 however many examples there are.
_CHUNK = 4_000_000
# The delete-a-group jackknife needs no more groups to estimate the acceleration.
_JACKKNIFE_GROUPS = 200


@dataclass(frozen=True)
class Resamples:
    """Figures of one shape, such as (K,), of examples and of parts of them.

    Attributes:
      estimates: (...) of all examples.
      replicates: (R, ...) of R resamples.
      left_out: (G, ...) of all examples but one of G groups.
    """

    estimates: Array
    replicates: Array
    left_out: Array


def resample(
    statistics: Callable[..., Any], *arrays: ArrayLike, resamples: int = 1000, seed: int = 0
) -> Resamples:
    """Figures of the examples, of resamples, and without one group of examples at a time.

    Args:
      statistics: takes arrays like `arrays` and returns numbers of one shape, such as (K,).
      *arrays: (N, ...) each, resampled together along the first axis.
      resamples: bootstrap resamples.
      seed: of the resampling.

    Raises:
      ValueError: no examples, or arrays of different lengths.
    """
    parts = [np.asarray(array) for array in arrays]
    lengths = {len(part) for part in parts if part.ndim}
    if len(lengths) != 1 or any(part.ndim == 0 for part in parts):
        shapes = [part.shape for part in parts]
        raise ValueError(f"arrays need one common first axis, got shapes {shapes}")
    size = lengths.pop()
    if not size:
        raise ValueError(
            "`arrays` is empty: an interval needs at least one example; check that the split "
            "or slice has any"
        )
    estimates = np.asarray(statistics(*parts))
    replicates = [
        statistics(*(part[index] for part in parts))
        for chunk in index_chunks(size, resamples, seed)
        for index in chunk
    ]
    groups = np.array_split(
        np.random.default_rng(seed).permutation(size), min(size, _JACKKNIFE_GROUPS)
    )
    left_out = (
        [statistics(*(np.delete(part, group, axis=0) for part in parts)) for group in groups]
        if size > 1
        else [estimates]
    )
    return Resamples(estimates, np.array(replicates), np.array(left_out))


def index_chunks(size: int, resamples: int, seed: int) -> Iterator[Array]:
    """(rows, N) indices at a time, `resamples` rows in all."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // size)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        yield generator.integers(0, size, size=(rows, size))


def bca(replicates: Array, estimate: float, influence: Array, level: float) -> tuple[float, float]:
    """Low and high end: Efron & Tibshirani 1993, equations 14.10, 14.14 and 14.15."""
    # Sums in another order differ in the last bits: without a tolerance, replicates equal to the
    # estimate count as below or above it by chance.
    slack = 1e-12 * max(1.0, abs(estimate))
    below = float(np.mean(replicates < estimate - slack))
    equal = float(np.mean(np.abs(replicates - estimate) <= slack))
    spread = float(np.sum(influence**2))
    if equal == 1.0 or spread == 0.0:
        return float(replicates.min()), float(replicates.max())
    acceleration = float(np.sum(influence**3)) / (6.0 * spread**1.5)
    # Half of the ties: the estimate of a discrete figure often repeats in the replicates.
    share = np.clip(below + equal / 2, 0.5 / len(replicates), 1 - 0.5 / len(replicates))
    bias = float(_scipy.norm.ppf(share))
    tails = bias + _scipy.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    stretch = 1 - acceleration * tails
    if np.any(stretch <= 0):
        return float(replicates.min()), float(replicates.max())
    points = np.quantile(replicates, _scipy.norm.cdf(bias + tails / stretch))
    return float(points[0]), float(points[1])
