"""The columns of a predictions table, and the paired comparison of two of them."""

from typing import Any

import numpy as np

from components.evaluation.predict_variants import OWN_FLOAT, REFERENCES
from components.evaluation.references import paired
from core.bundle import SAVED_MODEL
from trainers.compression import keeps_weights
from trainers.evaluation.noninferiority import Paired, pair
from trainers.evaluation.predictions import Predictions
from trainers.evaluation.scores import top_k_correct

#: The float TFLite file, which every bundle has.
FLOAT = "none_fp32"

# Scores this close are a tie: two runtimes may order them differently.
_TIE = 1e-5

Table = dict[str, Predictions]


def ships(column: str) -> bool:
    """Whether a column is the candidate's SavedModel or one of its TFLite files."""
    return column not in REFERENCES and not column.startswith(OWN_FLOAT)


def compressed(table: Table) -> list[str]:
    """The TFLite variants besides the float file."""
    return [name for name in table if ships(name) and name not in (SAVED_MODEL, FLOAT)]


def own_float(variant: str, table: Table) -> str:
    """The column that holds the float forward pass of a variant's own weights.

    The trained model's for a method that keeps its weights, such as `ptq`; for one that changes
    them, such as `qat`, the method's Keras model run in float, fake quantization included. Empty
    where the table has none.
    """
    if variant == FLOAT:
        return SAVED_MODEL if SAVED_MODEL in table else ""
    if keeps_weights(variant):
        return FLOAT
    column = OWN_FLOAT + variant.rpartition("_")[0]
    return column if column in table else ""


def top1_pair(candidate: Predictions, reference: Predictions) -> Paired:
    """The top-1 counts of two columns, on the images and classes that both models have."""
    ours, theirs = paired(candidate, reference)
    return pair(top1_correct(ours), top1_correct(theirs))


def top1_correct(predictions: Predictions) -> np.ndarray:
    """(M,) bool: whether the class with the highest score is the label."""
    return np.asarray(top_k_correct(predictions.scores, predictions.labels, 1)).astype(bool)


def differing(first: Predictions, second: Predictions) -> tuple[int, int]:
    """The number of images that two columns assign to different classes, and the number of ties.

    A tie is an image where the classes differ, but both columns have scores for the two classes
    that are at most 1e-5 apart: the rounding of the runtimes decides it.
    """
    ours, theirs = first.scores.argmax(axis=1), second.scores.argmax(axis=1)
    rows = np.flatnonzero(ours != theirs)

    def gap(found: Predictions) -> np.ndarray:
        return np.abs(found.scores[rows, ours[rows]] - found.scores[rows, theirs[rows]])

    ties = int(((gap(first) <= _TIE) & (gap(second) <= _TIE)).sum())
    return len(rows) - ties, ties


def compare(candidate: Predictions, reference: Predictions) -> dict[str, Any]:
    """The paired top-1 difference with Tango's 95 % interval, McNemar's p, and the agreement.

    Models of different classes are compared on those of `components.evaluation.references.paired`.
    """
    candidate, reference = paired(candidate, reference)
    found = pair(top1_correct(candidate), top1_correct(reference))
    same = candidate.scores.argmax(axis=1) == reference.scores.argmax(axis=1)
    return {
        "top1": found.interval().as_list(),
        "mcnemar_p": found.mcnemar_p,
        "agreement": float(same.mean()),
        "images": found.total,
    }
