"""Constant answers: a model no better than its commonest class, and variants that collapsed.

A variant collapsed when it keeps less than half of what is beyond a constant answer:

- of its own float pass: (agreement - c) / (1 - c), where `c` is the share of images that a constant
  would agree on, that of the float pass' commonest class; 1 for a faithful variant, 0 for a
  constant one;
- of the trained model's top-1 lead over the commonest label, (top1 - m) / (float top1 - m), where
  the paired test shows that it is worse: a method's fine-tuning itself may collapse.

The smaller of the two counts. A collapsed variant is dropped from the bundle, with a row in the
table of gates; the model itself is judged without it. The float file and the SavedModel are never
dropped: their collapse fails `agreement/saved_model` or `value/above_majority`.
"""

import numpy as np

from components.gates.columns import FLOAT, Table, compressed, own_float, top1_correct
from components.gates.settings import GateSettings
from components.gates.verdicts import Gate, Verdict
from trainers.evaluation.noninferiority import images_needed, pair
from trainers.evaluation.predictions import Predictions

_KEPT = 0.5


def majority_gate(answers: Predictions, variant: str, settings: GateSettings) -> Gate:
    """Whether the variant is better than always naming the commonest class of the test labels.

    Paired, image by image: held when the 95 % interval of the difference is above 0, failed when
    the estimate is not, else not decided.
    """
    share, constant = _commonest(answers.labels)
    found = pair(top1_correct(answers), constant)
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
        float(top1_correct(answers).mean()),
        f"above {share:.4f}, the share of the commonest class",
        verdict,
        variant,
        detail=f"the lead's 95 % interval is {interval.low:+.4f} to {interval.high:+.4f} over "
        f"{found.total:,} images",
        waived=waived,
        images_needed=needed,
    )


def kept(variant: str, table: Table) -> tuple[float, str]:
    """The share that a variant keeps beyond a constant answer, at most 1, and of what.

    1 where there is nothing to lose: a float pass that is itself constant.
    """
    answers, floats = table[variant], table[FLOAT]
    shares = [(1.0, "everything")]
    if pair(top1_correct(answers), top1_correct(floats)).interval().high < 0:
        shares.append((_lead(answers, floats), f"the lead of {FLOAT} over the commonest class"))
    against = own_float(variant, table)
    if against:
        guess = table[against].scores.argmax(axis=1)
        share, _ = _commonest(guess)
        agreement = float((answers.scores.argmax(axis=1) == guess).mean())
        own = (agreement - share) / (1 - share) if share < 1 else 1.0
        shares.append((own, f"the agreement with {against} beyond a constant answer"))
    return min(shares)


def collapsed(table: Table) -> dict[str, Gate]:
    """Variant -> the gate that names it, for every compressed variant that collapsed."""
    found = {}
    for variant in compressed(table):
        share, what = kept(variant, table)
        if share < _KEPT:
            found[variant] = Gate(
                f"collapse/{variant}",
                share,
                f">= {_KEPT:g}",
                Verdict.FAILED,
                variant,
                detail=f"keeps {share:.1%} of {what}",
                waived="the variant is left out of the bundle",
            )
    return found


def _lead(answers: Predictions, floats: Predictions) -> float:
    share, _ = _commonest(floats.labels)
    whole = float(top1_correct(floats).mean()) - share
    return (float(top1_correct(answers).mean()) - share) / whole if whole > 0 else 1.0


def _commonest(classes: np.ndarray) -> tuple[float, np.ndarray]:
    """The share of the commonest class, and (M,) bool: where it is."""
    constant = classes == np.bincount(classes).argmax()
    return float(constant.mean()), constant
