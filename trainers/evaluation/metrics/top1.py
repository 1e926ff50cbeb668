"""Top-1 accuracy: the share of examples whose label has the highest score.

Interval: Clopper & Pearson's, which is exact.
"""

from trainers.evaluation.metric import Tfma, mean_of
from trainers.evaluation.scores import top_k_correct
from trainers.registry import metrics

metrics.register("top1")(
    mean_of(
        lambda scores, labels: top_k_correct(scores, labels, 1),
        "top-1",
        tfma=lambda classes: Tfma("SparseCategoricalAccuracy"),
        order=1,
    )
)
