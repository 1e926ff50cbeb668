"""Macro precision: the unweighted mean over classes of hits / guesses."""

import numpy as np

from trainers.evaluation.macro import macro_average, mean_share_interval
from trainers.registry import metrics

metrics.register("macro_precision")(
    macro_average(
        "macro precision",
        lambda hits, actual, predicted: hits / np.maximum(predicted, 1),
        lambda hits, actual, predicted, level: mean_share_interval(hits, predicted, level),
        order=3,
    )
)
