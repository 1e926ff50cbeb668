"""Constant predictions: models no better than the most common class, and collapsed variants.

A variant has collapsed if it keeps less than half of what exceeds a constant prediction:

- of its float pass: (agreement - c) / (1 - c), where `c` is the share of the most common class
  of the float pass, which a constant prediction agrees with; 1 for a faithful variant, 0 for a
  constant one;
- of the trained model's top-1 lead over the most common label, (top1 - m) / (float top1 - m), if
  the paired test shows that it is worse: the fine-tuning of a method may itself collapse.

The smaller of the two counts. A collapsed variant is dropped from the bundle, with a row in the
table of gates, and the model is judged without it. The float file and the SavedModel are never
dropped: their collapse fails `agreement/saved_model` or `value/above_majority`.
"""

import numpy as np

from components.evaluation.columns import FLOAT, Table, compressed, own_float, top1_correct
from components.gates.settings import GateSettings
from components.gates.verdicts import Gate, Verdict
from trainers.evaluation.noninferiority import images_needed, pair
from trainers.evaluation.predictions import Predictions

_MIN_KEPT = 0.5


def majority_gate(predictions: Predictions, variant: str, settings: GateSettings) -> Gate:
    """Whether the variant is better than always predicting the most common test label.

    The comparison is paired: held if the 95 % interval of the difference is above 0, failed if the
    estimate is not, else not decided.
    """
    share, constant = _most_common(predictions.labels)
    found = pair(top1_correct(predictions), constant)
    interval = found.interval()
    verdict = Verdict.of(interval.low > 0)
    waived, needed = "", 0
    if verdict is Verdict.FAILED and found.difference > 0:
        verdict = Verdict.UNDECIDED
        needed = images_needed(found, 0.0)
        if settings.accepts_undecided:
            waived = "accepted: the estimate is higher, and gates.undecided=accept"
    if verdict is not Verdict.HELD and settings.accepts("below_majority"):
        waived = "accepted: gates.below_majority=accept"
    return Gate(
        "value/above_majority",
        float(top1_correct(predictions).mean()),
        f"above {share:.4f}, the share of the most common class",
        verdict,
        variant,
        detail=f"the lead's 95 % interval is {interval.low:+.4f} to {interval.high:+.4f} over "
        f"{found.total:,} images",
        waived=waived,
        images_needed=needed,
    )


def kept_share(variant: str, table: Table) -> tuple[float, str]:
    """The share that a variant keeps of what exceeds a constant prediction, and of what it is.

    At most 1, which is also the share of a float pass that is itself constant.
    """
    predictions, floats = table[variant], table[FLOAT]
    shares = [(1.0, "everything")]
    if pair(top1_correct(predictions), top1_correct(floats)).interval().high < 0:
        shares.append(
            (_lead(predictions, floats), f"the lead of {FLOAT} over the most common class")
        )
    against = own_float(variant, table)
    if against:
        guess = table[against].scores.argmax(axis=1)
        share, _ = _most_common(guess)
        agreement = float((predictions.scores.argmax(axis=1) == guess).mean())
        own = (agreement - share) / (1 - share) if share < 1 else 1.0
        shares.append((own, f"the agreement with {against} beyond a constant prediction"))
    return min(shares)


def collapsed(table: Table) -> dict[str, Gate]:
    """Variant -> its gate, for every compressed variant that collapsed."""
    found = {}
    for variant in compressed(table):
        share, what = kept_share(variant, table)
        if share < _MIN_KEPT:
            found[variant] = Gate(
                f"collapse/{variant}",
                share,
                f">= {_MIN_KEPT:g}",
                Verdict.FAILED,
                variant,
                detail=f"keeps {share:.1%} of {what}",
                waived="the variant is left out of the bundle",
            )
    return found


def _lead(predictions: Predictions, floats: Predictions) -> float:
    share, _ = _most_common(floats.labels)
    whole = float(top1_correct(floats).mean()) - share
    return (float(top1_correct(predictions).mean()) - share) / whole if whole > 0 else 1.0


def _most_common(classes: np.ndarray) -> tuple[float, np.ndarray]:
    """The share of the most common class, and (M,) bool: whether an image has it."""
    constant = classes == np.bincount(classes).argmax()
    return float(constant.mean()), constant
