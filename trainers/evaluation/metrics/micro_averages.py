"""Micro precision, recall and F1: all equal top-1, with one label and one guess per example."""

from trainers.evaluation.metric import mean_of
from trainers.evaluation.scores import top_k_correct
from trainers.registry import metrics

for _position, _name in enumerate(("precision", "recall", "f1"), 6):
    metrics.register(f"micro_{_name}")(
        mean_of(
            lambda scores, labels: top_k_correct(scores, labels, 1),
            f"micro {_name}",
            same_as="top1",
            order=_position,
        )
    )
