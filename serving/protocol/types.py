"""Plain values that clients return; needs no TensorFlow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

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

#: (number, name, NumPy type) of TensorFlow's DataType; None if NumPy has no such type.
DATA_TYPES: tuple[tuple[int, str, Any], ...] = (
    (0, "DT_INVALID", None),
    (1, "DT_FLOAT", np.float32),
    (2, "DT_DOUBLE", np.float64),
    (3, "DT_INT32", np.int32),
    (4, "DT_UINT8", np.uint8),
    (5, "DT_INT16", np.int16),
    (6, "DT_INT8", np.int8),
    (7, "DT_STRING", np.object_),
    (8, "DT_COMPLEX64", np.complex64),
    (9, "DT_INT64", np.int64),
    (10, "DT_BOOL", np.bool_),
    (11, "DT_QINT8", None),
    (12, "DT_QUINT8", None),
    (13, "DT_QINT32", None),
    (14, "DT_BFLOAT16", None),
    (15, "DT_QINT16", None),
    (16, "DT_QUINT16", None),
    (17, "DT_UINT16", np.uint16),
    (18, "DT_COMPLEX128", np.complex128),
    (19, "DT_HALF", np.float16),
    (20, "DT_RESOURCE", None),
    (21, "DT_VARIANT", None),
    (22, "DT_UINT32", np.uint32),
    (23, "DT_UINT64", np.uint64),
)

#: Class names by class number: a list, or a mapping if the numbers do not start at 0.
ClassNames: TypeAlias = Sequence[str] | Mapping[int, str]


@dataclass(frozen=True)
class Prediction:
    """The prediction of a classifier for one image.

    Attributes:
      label: name of the best class.
      score: its softmax probability, in [0, 1].
      top: (label, class index, score) of the best classes, best first.
    """

    label: str
    score: float
    top: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections in one image: parallel arrays, in the model's order.

    Attributes:
      boxes: (N, 4) float32 ymin, xmin, ymax, xmax, as fractions of the image's height and width.
      scores: (N,) float32 in [0, 1].
      classes: (N,) int64, the model's class numbers.
      labels: N names; the class number as text if its name is unknown.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> "Detections":
        """The detections with at least this score, in the same order."""
        kept = np.flatnonzero(self.scores >= score)
        labels = tuple(self.labels[index] for index in kept)
        return Detections(self.boxes[kept], self.scores[kept], self.classes[kept], labels)

    def boxes_px(self, height: int, width: int) -> np.ndarray:
        """(N, 4) float32 ymin, xmin, ymax, xmax in pixels of an image of that size."""
        return self.boxes * np.array([height, width, height, width], np.float32)


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature.

    Attributes:
      dtype: TensorFlow's name, e.g. `DT_FLOAT`.
      shape: None for a dimension of any size; None instead of a shape if the rank is unknown.
    """

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Signature:
    """A signature of a model.

    Attributes:
      inputs: by name.
      outputs: by name.
      method: e.g. `tensorflow/serving/predict`.
    """

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    method: str

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Signature":
        """A signature in TF Serving's metadata response."""
        sides = [
            {name: _tensor_info(info) for name, info in entry.get(side, {}).items()}
            for side in ("inputs", "outputs")
        ]
        return cls(sides[0], sides[1], entry.get("method_name", ""))


def _tensor_info(entry: Mapping[str, Any]) -> TensorInfo:
    shape = entry.get("tensor_shape", {})
    if shape.get("unknown_rank", False):
        return TensorInfo(entry["dtype"], None)
    # Proto JSON represents 64-bit integers as text; -1 is any size.
    sizes = (int(dim["size"]) for dim in shape.get("dim", []))
    return TensorInfo(entry["dtype"], tuple(None if size < 0 else size for size in sizes))


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model on a server.

    Attributes:
      state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
      error: why it failed to load, as `CODE: message`; empty without a failure.
    """

    version: int
    state: str
    error: str = ""


def prediction_from_top(
    labels: list[str], classes: list[int], scores: list[float], top_k: int | None
) -> Prediction:
    """The prediction for one image, from outputs of `serving_default`, with `top_k` classes."""
    top = tuple(zip(labels, map(int, classes), map(float, scores), strict=True))
    return Prediction(label=top[0][0], score=top[0][2], top=top[:top_k])


def predictions_from_scores(
    scores: np.ndarray, labels: tuple[str, ...], top_k: int
) -> list[Prediction]:
    """Predictions from rows of scores; the lower class is first for equal scores.

    Args:
      scores: (B, N) float, softmax over all classes.
      labels: N names, in label order.
      top_k: classes in each `top`, at most N.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return [
        prediction_from_top(
            [labels[c] for c in classes], classes.tolist(), row[classes].tolist(), None
        )
        for row, classes in zip(scores, order, strict=True)
    ]


def detections_from_outputs(
    outputs: Mapping[str, Any], *, class_names: ClassNames | None = None
) -> list[Detections]:
    """One `Detections` per image, from the outputs of a detection signature.

    Args:
      outputs: `boxes` (B, N, 4), `scores` (B, N), `classes` (B, N) of any number type, and
        optionally `num_detections` (B,), the number of valid ones of N, and `labels` (B, N). Names
        may have the prefix `detection_`, as in the TensorFlow Object Detection API.
      class_names: by class number, for models that return no labels.

    Raises:
      ValueError: boxes, scores or classes are missing, or their shapes do not match.
    """
    boxes, scores, classes = (_output(outputs, name) for name in ("boxes", "scores", "classes"))
    if boxes is None or scores is None or classes is None:
        raise ValueError(f"no boxes, scores and classes among the outputs {sorted(outputs)}")
    boxes, scores = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
    classes = np.asarray(classes).astype(np.int64)
    if scores.size == 0:
        # In JSON, an empty list of boxes has no columns.
        boxes = boxes.reshape(*scores.shape, 4)
    if boxes.shape != (*scores.shape, 4) or classes.shape != scores.shape or scores.ndim != 2:
        raise ValueError(
            f"boxes {boxes.shape}, scores {scores.shape} and classes {classes.shape} are not "
            "(B, N, 4), (B, N) and (B, N)"
        )
    counts = _output(outputs, "num_detections")
    counts = [scores.shape[1]] * len(scores) if counts is None else np.ravel(counts).astype(int)
    labels = _output(outputs, "labels")
    names = [None] * len(scores) if labels is None else labels
    return [
        Detections(
            boxes[index, :count],
            scores[index, :count],
            classes[index, :count],
            _class_labels(classes[index, :count], names[index], class_names),
        )
        for index, count in enumerate(counts)
    ]


def text(label: str | bytes) -> str:
    """A label as text; gRPC sends bytes, and REST text."""
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else label


def _output(outputs: Mapping[str, Any], name: str) -> Any:
    return outputs.get(f"detection_{name}", outputs.get(name))


def _class_labels(
    classes: np.ndarray, labels: Any, class_names: ClassNames | None
) -> tuple[str, ...]:
    numbers = classes.tolist()
    if labels is not None:
        return tuple(text(label) for label in labels[: len(numbers)])
    names = class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names or ()))
    return tuple(names.get(number, str(number)) for number in numbers)
