"""Requirements of a pipeline for its models; standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainers.config import ConfigError
from trainers.registry import nearest

REFUSE, ACCEPT = "refuse", "accept"
#: Fairness criterion -> the rate of `trainers.evaluation.fairness` whose gap is judged.
CRITERIA = {
    "accuracy": "accuracy",
    "equal_opportunity": "true_positive_rate",
    "equalized_odds": "equalized_odds",
    "demographic_parity": "positive_rate",
}
_SHARES = ("min_top1", "min_slice_top1", "min_agreement")
_AT_LEAST_ZERO = ("min_slice_examples", "max_latency_ms", "max_size_bytes")


@dataclass(frozen=True)
class GateSettings:
    """Thresholds of the gates; every field can be set as `gates.<field>=value` on the command line.

    Attributes:
      min_top1: lowest test top-1 of the recommended variant, in [0, 1].
      min_slice_top1: the same for every slice of at least `min_slice_examples` images.
      min_slice_examples: smaller slices are shown, but not judged.
      max_drop: the non-inferiority margin, in (0, 1]: the drop in top-1 against the float model for
        a compressed variant, and against the live model and the best one ever pushed for a model.
        The 95 % interval of the paired difference must exclude it.
      min_agreement: lowest share of images on which a variant and its own float pass agree.
      max_latency_ms: p50 at batch 1 of the recommended variant.
      max_size_bytes: of the recommended variant's file.
      undecided: `refuse`, or `accept`: a comparison that the test images cannot decide passes if
        its estimate is not lower.
      new_classes: `refuse` or `accept` class names that differ from the live model's.
      below_probe: `refuse` or `accept` a model whose paired interval is below a linear probe on the
        features that its training started from.
      below_majority: `refuse` or `accept` a model that is not shown to be better than always
        predicting the most common class.
      fairness: criteria for gaps between groups: `accuracy`, `equal_opportunity`, `equalized_odds`,
        `demographic_parity`; empty judges no gap.
      fairness_groups: slice keys and crosses whose groups are compared, e.g. `race,race*gender`.
      fairness_positive: the class that counts as positive; empty is the second of two classes.
        `accuracy` needs none.
      max_gap: the margin of gaps, in (0, 1]; the 95 % interval of a gap must exclude a larger one.
    """

    min_top1: float = 0.0
    min_slice_top1: float = 0.0
    min_slice_examples: int = 30
    max_drop: float = 0.02
    min_agreement: float = 0.95
    max_latency_ms: float = 1000.0
    max_size_bytes: int = 500_000_000
    undecided: str = REFUSE
    new_classes: str = REFUSE
    below_probe: str = REFUSE
    below_majority: str = REFUSE
    fairness: tuple[str, ...] = ()
    fairness_groups: tuple[str, ...] = ()
    fairness_positive: str = ""
    max_gap: float = 0.1

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        for name in _SHARES:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(
                    f"gates.{name} must be in [0, 1], got {value}; 95 % is written 0.95"
                )
        if not 0 < self.max_drop <= 1:
            raise ConfigError(
                f"gates.max_drop must be in (0, 1], got {self.max_drop}; 2 points are written 0.02"
            )
        if not 0 < self.max_gap <= 1:
            raise ConfigError(
                f"gates.max_gap must be in (0, 1], got {self.max_gap}; 10 points are written 0.1"
            )
        for name in ("fairness", "fairness_groups"):
            given = getattr(self, name)
            parts = given.split(",") if isinstance(given, str) else given
            listed = tuple(part.strip() for part in parts if part.strip())
            object.__setattr__(self, name, tuple(dict.fromkeys(listed)))
        for one in self.fairness:
            if one not in CRITERIA:
                raise ConfigError(
                    f"gates.fairness: unknown criterion {one!r}; {nearest(one, list(CRITERIA))}"
                )
        for name in _AT_LEAST_ZERO:
            if getattr(self, name) < 0:
                raise ConfigError(f"gates.{name} must be at least 0, got {getattr(self, name)}")
        for name in ("undecided", "new_classes", "below_probe", "below_majority"):
            if getattr(self, name) not in (REFUSE, ACCEPT):
                raise ConfigError(
                    f"gates.{name} must be {REFUSE} or {ACCEPT}, got {getattr(self, name)!r}"
                )

    @property
    def accepts_undecided(self) -> bool:
        """Whether an undecided comparison passes if its estimate is not lower."""
        return self.accepts("undecided")

    def accepts(self, name: str) -> bool:
        """Whether the field `name` is `accept`."""
        return getattr(self, name) == ACCEPT

    def positive_of(self, classes: Sequence[str]) -> str:
        """The class that counts as positive among `classes`; empty if none does."""
        if self.fairness_positive or len(classes) != 2:
            return self.fairness_positive
        return classes[1]

    def check_fairness(self, slices: Sequence[str], classes: Sequence[str]) -> None:
        """Checks that the fairness gates can be computed for a data set.

        Args:
          slices: the `slice/*` keys of the data set.
          classes: its class names.

        Raises:
          ConfigError: a setting is missing or has no effect, or there is no such key or class;
            names the nearest ones.
        """
        if not self.fairness:
            for name in ("fairness_groups", "fairness_positive"):
                if getattr(self, name):
                    raise ConfigError(
                        f"gates.{name} has no effect without gates.fairness; set "
                        f"gates.fairness to one or more of {', '.join(CRITERIA)}"
                    )
            return
        if not self.fairness_groups:
            raise ConfigError(
                "gates.fairness needs gates.fairness_groups, slice keys or crosses such as "
                f"race,race*gender; the data set has {', '.join(map(_short, slices)) or 'none'}"
            )
        for group in self.fairness_groups:
            for part in group.split("*"):
                name = _short(part.strip())
                if name not in map(_short, slices):
                    raise ConfigError(
                        f"gates.fairness_groups: the data set has no slice {part.strip()!r}; "
                        f"{nearest(name, list(map(_short, slices)))}. `sightline ingest csv ... "
                        "slices=COLUMN` records slice/COLUMN"
                    )
        if self.fairness_positive and self.fairness_positive not in classes:
            raise ConfigError(
                f"gates.fairness_positive: no class {self.fairness_positive!r}; "
                f"{nearest(self.fairness_positive, list(classes))}"
            )
        needing = [one for one in self.fairness if one != "accuracy"]
        if needing and not self.positive_of(classes):
            raise ConfigError(
                f"gates.fairness={needing[0]} of {len(classes)} classes needs "
                f"gates.fairness_positive, one of {', '.join(classes[:5])}"
                + (", ..." if len(classes) > 5 else "")
            )


def _short(key: str) -> str:
    return key.removeprefix("slice/")
