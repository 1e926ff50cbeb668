"""Divides a wall-clock budget among the trainings of a study.

All trainings get about the same share of the epochs of their recipes, so that no model is favored.
Where the budget does not suffice for one epoch each, the optional ones are left out, the last one
first; where it does not suffice for the required ones, the error has the least budget that does.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tfx_pipeline.study.sets import StudyError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BUDGET = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
#: The share of the time that is planned; the rest allows for a machine that slows down.
PLANNED_SHARE = 0.85


class BudgetError(StudyError):
    """A budget that is no duration or too small; the message has the least that suffices."""


@dataclass(frozen=True)
class Training:
    """Trainings of one recipe, or one fine-tuning.

    Attributes:
      name: unique.
      epochs: of the recipe.
      epoch_s: seconds of an epoch with its validation.
      overhead_s: seconds of a run besides its epochs: start, first step, test predictions.
      runs: number of seeds.
      is_required: whether a study without it is refused.
      tied_to: name of another training that gets the same number of epochs; empty for none.
    """

    name: str
    epochs: int
    epoch_s: float
    overhead_s: float
    runs: int = 1
    is_required: bool = False
    tied_to: str = ""

    def seconds(self, epochs: int) -> float:
        """Seconds of all runs with `epochs` each."""
        return self.runs * (self.overhead_s + epochs * self.epoch_s)


def parse_budget(text: str) -> float:
    """Seconds of `60m`, `1.5h`, `90s`, `2h30m` or `1d`.

    Raises:
      BudgetError: another form, or 0.
    """
    given = text.strip().lower()
    if not _BUDGET.fullmatch(given):
        raise BudgetError(
            f"--budget {text!r} is not a duration: give a number with a unit, s, m, h or d, e.g. "
            "60m, 1.5h or 2h30m"
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(given))
    if seconds <= 0:
        raise BudgetError(f"--budget {text!r} must be above 0, e.g. 60m")
    return seconds


def allot(trainings: Sequence[Training], seconds: float) -> dict[str, int]:
    """Training -> epochs within `seconds`; 0 for one that is left out.

    As estimated, the result takes no longer than `seconds`, and no training has more epochs than
    its recipe.

    Args:
      trainings: in the order of importance.
      seconds: for all of them.

    Raises:
      BudgetError: `seconds` do not suffice for one epoch of each required training.
    """
    kept = list(trainings)
    while _least(kept) > seconds:
        optional = [one for one in kept if not one.is_required]
        if not optional:
            raise BudgetError(
                f"the trainings need at least {_least(kept):.0f} s, and the budget leaves "
                f"{max(seconds, 0):.0f} s for them"
            )
        kept.remove(optional[-1])
    epochs = {one.name: 1 for one in kept}
    groups, highest = _tied(kept), 1.0
    while groups:
        group = min(groups, key=lambda members: epochs[members[0].name] / members[0].epochs)
        raised = {**epochs, **{one.name: epochs[one.name] + 1 for one in group}}
        share = max(raised[one.name] / one.epochs for one in group)
        if share <= highest and sum(one.seconds(raised[one.name]) for one in kept) <= seconds:
            epochs = raised
            continue
        groups.remove(group)
        # Others get no greater share than the one that does not fit would have had.
        highest = min(highest, share)
    return {one.name: epochs.get(one.name, 0) for one in trainings}


def _least(trainings: Sequence[Training]) -> float:
    return sum(one.seconds(1) for one in trainings)


def _tied(trainings: Sequence[Training]) -> list[list[Training]]:
    """Groups of trainings with equal epochs."""
    names = {one.name for one in trainings}
    groups: dict[str, list[Training]] = {}
    for one in trainings:
        leader = one.tied_to if one.tied_to in names else one.name
        groups.setdefault(leader, []).append(one)
    return list(groups.values())


def duration(seconds: float) -> str:
    """A budget as text, rounded up to minutes above one minute: `17m`, `2h05m`, `45s`."""
    if seconds <= 60:
        return f"{max(1, -int(-seconds // 1))}s"
    minutes = -int(-seconds // 60)
    return f"{minutes}m" if minutes < 120 else f"{minutes // 60}h{minutes % 60:02d}m"
