"""Top-5 accuracy: the share of examples whose label is among the five highest scores.

It is 1 for five classes or fewer, where tables omit it. Interval: Clopper & Pearson's, exact.
"""

from trainers.evaluation.metric import Tfma, mean_of
from trainers.evaluation.scores import top_k_correct
from trainers.registry import metrics

_K = 5

metrics.register("top5")(
    mean_of(
        lambda scores, labels: top_k_correct(scores, labels, _K),
        "top-5",
        tfma=lambda classes: Tfma("SparseTopKCategoricalAccuracy", {"k": min(_K, classes)}),
        min_classes=_K + 1,
        order=2,
    )
)
