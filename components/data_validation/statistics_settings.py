"""Limits of the differences between distributions. Standard library only."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class StatisticsSettings:
    """Limits of the differences between distributions; sampling noise is added to each.

    Attributes:
      skew_share: largest difference of a value's share between train and test, in [0, 1].
      skew_divergence: Jensen-Shannon divergence between train and test, in [0, 1] (bits).
      skew_distance: `components.data_validation.drift.distance` over all values between train and
      test, in [0, 1].
      drift_share: `skew_share` between the training splits of the live model and this run.
      drift_divergence: `skew_divergence` between these splits.
      drift_distance: `skew_distance` between these splits.
    """

    skew_share: float = 0.1
    skew_divergence: float = 0.1
    skew_distance: float = 0.1
    drift_share: float = 0.1
    drift_divergence: float = 0.1
    drift_distance: float = 0.1

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not value >= 0:
                raise ValueError(
                    f"statistics.{one.name} must be 0 or more, got {value}; 1 allows every "
                    "difference"
                )
