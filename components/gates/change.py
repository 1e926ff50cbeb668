"""Non-inferiority gates: against the live model, the best one ever pushed, and the float model.

The paired difference in top-1 gets Tango's 95 % interval (`trainers.evaluation.noninferiority`).
With the margin `max_drop`, a comparison is

- held, if the interval's low end is at least `-max_drop`: the drop is excluded;
- failed, if it is not held and the high end is below 0: the data show that the model is worse;
- not decided otherwise: these images exclude neither.

An undecided comparison stops a model, unless `undecided=accept` was given *and* its estimate is not
lower. So a series of pushes cannot degrade step by step: an accepted model is never below the model
before it, and one that is held may be below it by `max_drop`, but not below the best model ever
pushed by more than that.
"""

from components.evaluation.columns import Table, top1_pair
from components.evaluation.predict_variants import BASELINE, BEST
from components.gates.settings import GateSettings
from components.gates.verdicts import Gate, Verdict
from trainers.evaluation.noninferiority import Paired, images_needed

# Gate -> the column that it compares with, and the name of that model.
_REFERENCES = {
    "change/top1": (BASELINE, "the live model"),
    "change/best": (BEST, "the best model pushed"),
}


def drop_verdict(found: Paired, max_drop: float) -> Verdict:
    """Whether a drop of more than `max_drop` is excluded; see the top of this module."""
    interval = found.interval()
    if interval.low >= -max_drop:
        return Verdict.HELD
    return Verdict.FAILED if interval.high < 0 else Verdict.UNDECIDED


def waiver(found: Paired, settings: GateSettings) -> str:
    """Why an undecided comparison passes nevertheless; empty if it does not."""
    if settings.accepts_undecided and found.difference >= 0:
        return "accepted: the estimate is not lower, and gates.undecided=accept"
    return ""


def change_gates(table: Table, variant: str, settings: GateSettings) -> list[Gate]:
    """The variant against the live model and the best one ever pushed, if the table has them."""
    gates = []
    for name, (column, what) in _REFERENCES.items():
        if column in table:
            found = top1_pair(table[variant], table[column])
            gates.append(drop_gate(name, found, settings, variant=variant, against=what))
    return gates


def drop_gate(
    name: str, found: Paired, settings: GateSettings, *, variant: str, against: str
) -> Gate:
    """The gate of one comparison, with the number of images that would decide it."""
    verdict = drop_verdict(found, settings.max_drop)
    undecided = verdict is Verdict.UNDECIDED
    needed = images_needed(found, settings.max_drop) if undecided else 0
    detail = [describe_pair(found, against)]
    if undecided:
        detail.append(f"about {needed:,} images would decide it")
        if found.difference < 0:
            detail.append("the estimate is lower, so it cannot be accepted undecided")
        elif not settings.accepts_undecided:
            detail.append("--accept-undecided lets it pass")
    return Gate(
        name,
        found.difference,
        f"a drop of {settings.max_drop:g} against {against} excluded",
        verdict,
        variant,
        detail="; ".join(detail),
        waived=waiver(found, settings) if undecided else "",
        images_needed=needed,
        acceptable=found.difference >= 0,
    )


def describe_pair(found: Paired, against: str) -> str:
    """Counts, interval and p-value of one comparison as text."""
    interval = found.interval()
    return (
        f"{found.gained} of {found.total:,} images gained and {found.lost} lost against {against}, "
        f"95 % interval {interval.low:+.4f} to {interval.high:+.4f}, "
        f"McNemar p {found.mcnemar_p:.3f}"
    )
