"""What clients hand out: plain values, no TensorFlow."""

from dataclasses import dataclass

import numpy as np

#: gRPC and TensorFlow status names; the index is the code on the wire.
STATUS_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

#: State number of `tensorflow.serving.ModelVersionStatus` -> its name.
VERSION_STATES = {
    0: "UNKNOWN",
    10: "START",
    20: "LOADING",
    30: "AVAILABLE",
    40: "UNLOADING",
    50: "END",
}


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
      label: the best class's name.
      score: its softmax probability, in [0, 1].
      top: (label, class index, score) of the best classes, best first.
    """

    label: str
    score: float
    top: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model on a server.

    Attributes:
      state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
      error: why it failed to load, as `CODE: message`; empty when it did not.
    """

    version: int
    state: str
    error: str = ""


def prediction_from_top(
    labels: list[str], classes: list[int], scores: list[float], top_k: int | None
) -> Prediction:
    """One image's answer of `serving_default`, cut to `top_k` classes if that is fewer."""
    top = tuple(zip(labels, map(int, classes), map(float, scores), strict=True))
    return Prediction(label=top[0][0], score=top[0][2], top=top[:top_k])


def predictions_from_scores(
    scores: np.ndarray, labels: tuple[str, ...], top_k: int
) -> list[Prediction]:
    """(N,) score rows to predictions; of equal scores the lower class comes first.

    Args:
      scores: (B, N) float, softmax over all classes.
      labels: N names, in label order.
      top_k: classes in each `top`, capped at N.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return [
        prediction_from_top(
            [labels[c] for c in classes], classes.tolist(), row[classes].tolist(), None
        )
        for row, classes in zip(scores, order, strict=True)
    ]
