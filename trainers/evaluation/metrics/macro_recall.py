"""Macro recall: the unweighted mean over classes of hits / labels."""

import numpy as np

from trainers.evaluation.macro import macro_average, mean_share_interval
from trainers.registry import metrics

metrics.register("macro_recall")(
    macro_average(
        "macro recall",
        lambda hits, actual, predicted: hits / np.maximum(actual, 1),
        lambda hits, actual, predicted, level: mean_share_interval(hits, actual, level),
        order=4,
    )
)
