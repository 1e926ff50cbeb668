"""Requirements of a pipeline for its models; standard library only."""

from dataclasses import dataclass

from trainers.config import ConfigError

REFUSE, ACCEPT = "refuse", "accept"
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
