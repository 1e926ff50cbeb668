"""The rates and gaps of one key's groups as one value, for tables, gates and reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from trainers.evaluation import fairness
from trainers.evaluation.groups import group_values


class Scored(Protocol):
    """Predictions with slices: scores (M, N), labels (M,), and key -> (M,) str."""

    @property
    def scores(self) -> NDArray[Any]:
        """Softmax."""
        ...

    @property
    def labels(self) -> NDArray[Any]:
        """In [0, N)."""
        ...

    @property
    def slices(self) -> Mapping[str, NDArray[Any]]:
        """`slice/<key>` -> values."""
        ...


@dataclass(frozen=True)
class GroupFigures:
    """Rates of the groups of one key for one positive class, and the gaps between them.

    Without a positive class (empty), they are accuracy and overconfidence only.
    """

    key: str
    positive: str
    groups: list[fairness.Group]
    gaps: list[fairness.Gap]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; intervals are `[value, low, high]`."""
        return {
            "key": self.key,
            "positive": self.positive,
            "groups": [
                {
                    "name": group.name,
                    "images": group.images,
                    "compared": group.compared,
                    "note": group.note,
                    "overconfidence": group.overconfidence,
                    "rates": {rate: value.as_list() for rate, value in group.rates.items()},
                    "images_of_rates": group.counts,
                }
                for group in self.groups
            ],
            "gaps": [
                {
                    "rate": gap.rate,
                    "size": gap.size.as_list(),
                    "highest": gap.highest,
                    "lowest": gap.lowest,
                    "compared": gap.compared,
                    "left_out": list(gap.left_out),
                }
                for gap in self.gaps
            ],
            "minimum": fairness.minimum_note(),
            "limits": list(fairness.LIMITS),
        }


def group_figures(
    found: Scored, key: str, positive: int | None, classes: Sequence[str]
) -> GroupFigures:
    """The rates of the groups of one key, and the gaps between them.

    Args:
      found: predictions.
      key: with or without `slice/`, or a cross such as `race*gender`.
      positive: the class that counts as positive; None leaves out the rates that need one.
      classes: names, in label order.

    Raises:
      GroupError: no such key; names the nearest.
      ValueError: no images, or a label out of range.
    """
    values = group_values(found.slices, key)
    rates = fairness.group_rates(found.scores, found.labels, values, positive=positive)
    name = "" if positive is None else classes[positive]
    short = "*".join(part.strip().removeprefix("slice/") for part in key.split("*"))
    return GroupFigures(short, name, rates, fairness.gaps(rates))
