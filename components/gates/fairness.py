"""Fairness gates: the gap of a rate between groups must not exceed a margin.

The gap has an interval that holds for all groups at once (`trainers.evaluation.fairness`). With the
margin `max_gap`, a criterion is

- held, if the interval's high end is at most the margin: a larger gap is excluded;
- failed, if its low end is above the margin: the data show a larger gap;
- not decided otherwise, or if fewer than two groups have enough images.

An undecided criterion stops a model, unless `undecided=accept` was given *and* the estimate is at
most the margin. Smaller groups are listed in the detail of the gate, but not judged.
"""

from collections.abc import Sequence

from components.gates.settings import CRITERIA, GateSettings
from components.gates.verdicts import Gate, Verdict
from trainers.evaluation import fairness
from trainers.evaluation.group_figures import GroupFigures, group_figures
from trainers.evaluation.predictions import Predictions
from trainers.evaluation.stats import LEAST_IMAGES, Interval

# The number of groups that a detail lists.
_NAMED = 5


def fairness_figures(
    predictions: Predictions, settings: GateSettings, classes: Sequence[str]
) -> list[GroupFigures]:
    """Rates and gaps of each of `fairness_groups`; empty if no criterion is set.

    Raises:
      GroupError: the predictions lack a slice.
    """
    if not settings.fairness:
        return []
    named = settings.positive_of(classes)
    positive = list(classes).index(named) if named else None
    return [group_figures(predictions, key, positive, classes) for key in settings.fairness_groups]


def fairness_gates(
    figures: Sequence[GroupFigures], settings: GateSettings, variant: str
) -> list[Gate]:
    """One gate for each criterion and each key of groups."""
    return [
        _gate(one, criterion, settings, variant)
        for one in figures
        for criterion in settings.fairness
    ]


def gap_verdict(size: Interval, margin: float) -> Verdict:
    """Whether a gap of more than `margin` is excluded; see the top of this module."""
    if size.high <= margin:
        return Verdict.HELD
    return Verdict.FAILED if size.low > margin else Verdict.UNDECIDED


def _gate(one: GroupFigures, criterion: str, settings: GateSettings, variant: str) -> Gate:
    rate, margin = CRITERIA[criterion], settings.max_gap
    gap = fairness.gap_of(one.groups, rate)
    verdict = Verdict.UNDECIDED if gap is None else gap_verdict(gap.size, margin)
    undecided = verdict is Verdict.UNDECIDED
    acceptable = gap is not None and gap.size.value <= margin
    needed = fairness.images_needed(one.groups, rate, margin) if undecided else 0
    detail = [_describe_gap(gap) if gap else _describe_groups(one, rate)]
    if one.positive and criterion != "accuracy":
        detail.append(f"positive class {one.positive}")
    if undecided:
        detail += [f"about {needed:,} images would decide it"] if needed else []
        detail += _policy(gap, settings, acceptable=acceptable)
    if gap and gap.left_out:
        detail.append(f"not compared: {_some(one, gap.left_out)}; {fairness.minimum_note()}")
    accepted = undecided and acceptable and settings.accepts_undecided
    return Gate(
        f"fairness/{criterion}",
        gap.size.value if gap else None,
        f"a gap above {margin:g} excluded",
        verdict,
        variant,
        slice=one.key,
        detail="; ".join(detail),
        waived="accepted: the estimate is within the margin, and gates.undecided=accept"
        if accepted
        else "",
        images_needed=needed,
        acceptable=acceptable,
    )


def _describe_gap(gap: fairness.Gap) -> str:
    ends = f"{gap.highest} is highest and {gap.lowest} lowest of {gap.compared} groups"
    if not gap.differs:
        ends = f"{gap.compared} groups have the same rate"
    return f"{ends}, 95 % interval of the gap {gap.size.low:.4f} to {gap.size.high:.4f}"


def _describe_groups(one: GroupFigures, rate: str) -> str:
    """Why there is no gap."""
    if len(one.groups) == 1:
        return f"all images are of one group, {one.groups[0].name}"
    parts = ("true_positive_rate", "false_positive_rate")
    rates = parts if rate == fairness.EQUALIZED_ODDS else (rate,)
    fewest = min(len(fairness.comparable(one.groups, part)) for part in rates)
    least = (
        f"{fewest} of {len(one.groups)} groups have {LEAST_IMAGES} images for this rate, and a gap "
        "needs two"
    )
    return f"{least}: {_some(one, [group.name for group in one.groups])}; {fairness.minimum_note()}"


def _policy(gap: fairness.Gap | None, settings: GateSettings, *, acceptable: bool) -> list[str]:
    if gap is None:
        return ["there is no estimate, so it cannot be accepted undecided"]
    if not acceptable:
        return ["the estimate is above the margin, so it cannot be accepted undecided"]
    return [] if settings.accepts_undecided else ["--accept-undecided lets it pass"]


def _some(one: GroupFigures, names: Sequence[str]) -> str:
    images = {group.name: group.images for group in one.groups}
    shown = ", ".join(f"{name} ({images[name]:,} images)" for name in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
