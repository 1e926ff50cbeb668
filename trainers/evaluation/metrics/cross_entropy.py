"""Cross-entropy: the mean natural-log loss of the label, each at most -log(1e-7)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.evaluation.metric import Columns, Metric, Sampling, Tfma, mean
from trainers.evaluation.scores import LEAST_PROBABILITY, cross_entropy, top_k_correct
from trainers.evaluation.stats import Interval, bootstrap_interval, proportion_interval
from trainers.registry import metrics

Array = NDArray[Any]

# Losses of fewer examples than this show too little of their distribution to be resampled.
_FEW = 10


def cross_entropy_interval(
    losses: Array,
    correct: Array,
    *,
    most: float,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean loss with an interval that allows for errors that the sample does not contain.

    The mean loss of a good classifier depends on its few errors. The bootstrap interval is widened
    to the loss with as many errors as Clopper & Pearson allow, each at the mean loss of the errors
    seen, or at `most` if there is none. That many errors at `most` each are the upper bound.

    Args:
      losses: (N,) float in [0, `most`], N at least 1.
      correct: (N,) bool, whether the class with the highest score is the label.
      most: the greatest loss that an example can have.
      resamples: bootstrap resamples, at least 100.
      level: confidence level in (0, 1).
      seed: of the resampling.
    """
    size, wrong = len(losses), losses[~correct]
    share = proportion_interval(len(wrong), size, level=level)
    found = bootstrap_interval(losses, resamples=resamples, level=level, seed=seed)
    right = float(losses[correct].mean()) if len(wrong) < size else 0.0
    each = float(wrong.mean()) if len(wrong) else most
    bound = max(found.value, right + share.high * most)
    found = found.reaching((1 - share.high) * right + share.high * each)
    if size < _FEW:
        found = found.reaching(share.low * each, bound)
    return Interval(found.value, max(0.0, found.low), min(found.high, bound, most))


def _columns(scores: Array, labels: Array) -> Columns:
    return cross_entropy(scores, labels), top_k_correct(scores, labels, 1)


def _interval(columns: Columns, sampling: Sampling) -> Interval:
    settings: dict[str, Any] = vars(sampling)
    return cross_entropy_interval(*columns, most=-float(np.log(LEAST_PROBABILITY)), **settings)


metrics.register("cross_entropy")(
    Metric(
        lambda losses, correct: mean(losses),
        "cross entropy",
        _columns,
        unit="nats",
        higher_is_better=False,
        interval=_interval,
        tfma=lambda classes: Tfma("SparseCategoricalCrossentropy"),
        order=9,
    )
)
