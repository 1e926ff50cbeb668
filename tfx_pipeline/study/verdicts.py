"""Verdicts: whether a figure or claim of the study is reproduced, contradicted, or neither.

A verdict needs an interval, never a point estimate alone, and conditions that make the figures
comparable: all epochs of the recipe, and the study's data set, network and machine for absolute
values. Everything else is not decidable here, and the reason is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from tfx_pipeline.study.figures import NOT_AT_HAND, StudyFigure
from trainers.evaluation.stats import Interval

REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "contradicted", "not decidable here"
#: A count of operations may differ by this share: conventions differ in normalization and pooling.
COUNT_TOLERANCE = 0.05
#: A drop in top-1 above this is a significant loss, as for the gates (`max_drop`).
LOSS_MARGIN = 0.02
# Equal values of a few seeds are no evidence that others would be equal too.
_NO_WIDTH = "an interval has no width, because the values of all seeds are equal"


@dataclass(frozen=True)
class Verdict:
    """A verdict with its reason.

    Attributes:
      word: `REPRODUCED`, `CONTRADICTED` or `UNDECIDED`.
      why: one sentence without a period.
    """

    word: str
    why: str


@dataclass(frozen=True)
class Conditions:
    """What prevents a comparison with the study.

    Attributes:
      epochs: reached by the run with the fewest; None where nothing was trained.
      recipe_epochs: of the recipe.
      differs: e.g. `another machine`.
    """

    epochs: int | None = None
    recipe_epochs: int = 0
    differs: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why no verdict is possible; empty if one is."""
        if self.epochs is not None and self.epochs < self.recipe_epochs:
            return (f"{self.epochs} of {self.recipe_epochs} epochs", *self.differs)
        return self.differs


def rounding(figure: StudyFigure) -> float:
    """Half a unit of the last digit of a figure."""
    exponent = Decimal(figure.digits).as_tuple().exponent
    return 0.5 * 10.0 ** int(exponent)


def undecided(*reasons: str) -> Verdict:
    """The verdict that there is none."""
    return Verdict(UNDECIDED, "; ".join(reasons))


def absolute(
    ours: Interval | None, study: StudyFigure | None, conditions: Conditions, *, missing: str = ""
) -> Verdict:
    """Whether the study's value is in our interval.

    A value outside it whose rounding reaches into it is not decidable.

    Args:
      ours: with a 95 % interval; None if there is none, for the reason `missing`.
      study: its figure; None if it is not at hand.
      conditions: of the comparison.
      missing: why there is no `ours`.
    """
    reasons = list(conditions.reasons)
    if study is None:
        reasons.insert(0, f"the study's figure is {NOT_AT_HAND}")
    if ours is None:
        reasons.append(missing or "no interval was measured")
    if study is None or ours is None or reasons:
        return undecided(*reasons)
    if ours.low == ours.high:
        return undecided(_NO_WIDTH)
    shown = f"the study's {study.digits} and our interval {ours.low:.4g} to {ours.high:.4g}"
    if ours.low <= study.value <= ours.high:
        return Verdict(REPRODUCED, f"{shown} agree")
    half = rounding(study)
    if ours.low - half <= study.value <= ours.high + half:
        return undecided(f"{shown} differ by less than the study's rounding")
    return Verdict(CONTRADICTED, f"{shown} do not overlap")


def ordering(claim: str, differences: Sequence[Interval | None], conditions: Conditions) -> Verdict:
    """Whether a difference is above 0, by all of its intervals.

    Args:
      claim: e.g. `ResNet above CNN`.
      differences: e.g. over seeds and over images, in the direction of the claim; None where an
        interval could not be computed.
      conditions: of the comparison.
    """
    known = [one for one in differences if one is not None]
    reasons = list(conditions.reasons)
    if len(known) < len(differences) or not known:
        reasons.append("not all intervals could be computed")
    if any(one.low == one.high for one in known):
        reasons.append(_NO_WIDTH)
    if reasons:
        return undecided(*reasons)
    shown = " and ".join(f"{one.low:+.4g} to {one.high:+.4g}" for one in known)
    if all(one.low > 0 for one in known):
        return Verdict(REPRODUCED, f"{claim}: the intervals of the difference, {shown}, exclude 0")
    if all(one.high < 0 for one in known):
        return Verdict(CONTRADICTED, f"{claim}: the difference is below 0, {shown}")
    return undecided(f"{claim}: an interval of the difference includes 0: {shown}")


def without_loss(
    difference: Interval | None, conditions: Conditions, *, margin: float = LOSS_MARGIN
) -> Verdict:
    """Whether a change of a model loses at most `margin` of its top-1.

    Args:
      difference: changed minus original, on the same images.
      conditions: of the comparison.
      margin: in (0, 1).
    """
    reasons = list(conditions.reasons)
    if difference is None:
        reasons.append("no interval was measured")
    if difference is None or reasons:
        return undecided(*reasons)
    shown = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f} points"
    if difference.low >= -margin:
        return Verdict(REPRODUCED, f"{shown} exclude a loss of {100 * margin:g} points")
    if difference.high < -margin:
        return Verdict(CONTRADICTED, f"{shown} show a loss of more than {100 * margin:g} points")
    return undecided(f"{shown} neither exclude nor show a loss of {100 * margin:g} points")


def counted(ours: float, study: StudyFigure | None, *, hint: str = "") -> Verdict:
    """Whether a count equals the study's figure within its rounding and `COUNT_TOLERANCE`.

    Args:
      ours: in the unit of the study's figure.
      study: None if it is not at hand.
      hint: added to a contradiction.
    """
    if study is None:
        return undecided(f"the study's figure is {NOT_AT_HAND}")
    slack = max(COUNT_TOLERANCE * abs(ours), rounding(study))
    shown = f"{ours:.4g} counted, {study.digits} {study.unit} in the study"
    if abs(study.value - ours) <= slack:
        return Verdict(REPRODUCED, f"{shown}; a count depends on no machine or data")
    return Verdict(CONTRADICTED, shown + (f"; {hint}" if hint else ""))


def consistent(first: StudyFigure | None, second: StudyFigure | None, *, hint: str) -> Verdict:
    """Whether two figures of the study for one quantity agree within their rounding.

    Args:
      first: in the same unit as `second`.
      second: of another table.
      hint: added to a contradiction.
    """
    if first is None or second is None:
        return undecided(f"the study's figure is {NOT_AT_HAND}")
    slack = rounding(first) + rounding(second)
    shown = f"{first.digits} {first.unit} in one table, {second.digits} {second.unit} in another"
    if abs(first.value - second.value) <= slack:
        return Verdict(REPRODUCED, f"{shown}: they agree")
    return Verdict(CONTRADICTED, f"the study contradicts itself: {shown}; {hint}")
