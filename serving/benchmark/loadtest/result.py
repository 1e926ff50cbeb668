"""The result of a run: all requests, and the figures of the measured window."""

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from core.figures import milliseconds
from serving.benchmark.loadtest.callers import OK
from serving.benchmark.loadtest.plan import LoadPlan, LoadTarget
from serving.benchmark.loadtest.quantiles import PercentileInterval, interval, percentile

PERCENTS = (50.0, 90.0, 99.0, 99.9)

#: Share of a core above which a generator process is not punctual.
_BUSY = 0.9


@dataclass(frozen=True)
class LoadResult:
    """One run. Arrays are parallel, in order of arrival, warm-up included.

    Percentiles are of all requests due in the measured window. A failed request counts as slower
    than any other, so that a server gains nothing by refusing requests. `mean_ms` and `max_ms` are
    of the successful requests.

    Attributes:
      target: the server and the model.
      plan: of the load.
      source: of the requests.
      scheduled_s: (N,) float64 seconds after the start.
      lag_ms: (N,) float64 delay of the generator; part of the latency.
      latency_ms: (N,) float64, from the scheduled arrival.
      codes: (N,) str; `OK`, an HTTP status, a gRPC code, `deadline`, `connection` or `not sent`.
      reasons: code -> message of the first such failure.
      started: `time.monotonic` of second 0.
      cpu_share: CPU seconds per second of the busiest generator process.
      resends: requests of the whole run that were sent twice, because their kept-alive connection
        was closed as they were sent; their latency includes both attempts.
    """

    target: LoadTarget
    plan: LoadPlan
    source: str
    scheduled_s: np.ndarray
    lag_ms: np.ndarray
    latency_ms: np.ndarray
    codes: np.ndarray
    reasons: dict[str, str] = field(default_factory=dict)
    started: float = 0.0
    cpu_share: float = 0.0
    resends: int = 0

    @cached_property
    def measured(self) -> np.ndarray:
        """(N,) bool: due after the warm-up."""
        return self.scheduled_s >= self.plan.warm_up_s

    @cached_property
    def ordered_ms(self) -> np.ndarray:
        """(M,) float64 ascending latencies of the measured window, infinite for failures."""
        good = self.codes[self.measured] == OK
        return np.sort(np.where(good, self.latency_ms[self.measured], math.inf))

    @property
    def requests(self) -> int:
        """Number of requests due in the measured window."""
        return int(self.measured.sum())

    @property
    def good(self) -> int:
        """Number of them that succeeded."""
        return int(np.isfinite(self.ordered_ms).sum())

    @property
    def errors(self) -> dict[str, int]:
        """Code -> number of failures in the measured window, the most frequent first."""
        found = Counter(self.codes[self.measured].tolist())
        del found[OK]
        return dict(found.most_common())

    @property
    def offered_rate(self) -> float:
        """Requests due per second."""
        return self.requests / self.plan.seconds

    @property
    def achieved_rate(self) -> float:
        """Successful responses per second that arrived within the measured window."""
        done = self.scheduled_s + self.latency_ms / 1000
        within = (done >= self.plan.warm_up_s) & (done < self.plan.total_s)
        return int((within & (self.codes == OK)).sum()) / self.plan.seconds

    @property
    def mean_ms(self) -> float:
        """Mean latency of successful requests; NaN without any."""
        return float(self.ordered_ms[: self.good].mean()) if self.good else math.nan

    @property
    def max_ms(self) -> float:
        """Maximum latency of successful requests; NaN without any."""
        return float(self.ordered_ms[self.good - 1]) if self.good else math.nan

    def percentile(self, percent: float) -> PercentileInterval:
        """A percentile with its interval for independent requests; see `quantiles.interval`."""
        return interval(self.ordered_ms, percent)

    def lag(self, percent: float) -> float:
        """A percentile of the generator's delay in ms, in the measured window."""
        return percentile(np.sort(self.lag_ms[self.measured]), percent)

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Reasons why the figures are invalid; empty for a valid run."""
        found = []
        if not self.good:
            found.append("no request succeeded")
        p99, lag = percentile(self.ordered_ms, 99), self.lag(99)
        if lag > max(self.plan.max_lag_ms, 0.1 * p99 if math.isfinite(p99) else 0.0):
            found.append(
                f"the generator was late: p99 {milliseconds(lag)}, allowed are "
                f"{self.plan.max_lag_ms:g} ms or a tenth of the p99 latency; use a lower rate, "
                "more processes, or a separate machine"
            )
        if self.cpu_share > _BUSY:
            found.append(f"the generator used {self.cpu_share:.0%} of a core; use more processes")
        return tuple(found)

    @property
    def is_valid(self) -> bool:
        """Whether the generator was fast enough for the figures to be the server's."""
        return not self.problems

    def over(self, bound_ms: float) -> int:
        """Number of requests in the measured window that failed or were slower than a bound."""
        return int((self.ordered_ms > bound_ms).sum())

    def to_dict(self) -> dict[str, Any]:
        """JSON values; infinite and unknown ones are None."""
        return {
            "target": self.target.to_dict(),
            "plan": self.plan.to_dict(),
            "source": self.source,
            "valid": self.is_valid,
            "problems": list(self.problems),
            "requests": self.requests,
            "good": self.good,
            "errors": self.errors,
            "reasons": self.reasons,
            "resends": self.resends,
            "offered_rate": self.offered_rate,
            "achieved_rate": self.achieved_rate,
            "latency_ms": {
                **{f"p{p:g}": _interval_dict(self.percentile(p)) for p in PERCENTS},
                "mean": _finite(self.mean_ms),
                "max": _finite(self.max_ms),
            },
            "generator": {
                "lag_ms_p50": _finite(self.lag(50)),
                "lag_ms_p99": _finite(self.lag(99)),
                "lag_ms_max": _finite(self.lag(100)),
                "cpu_share": self.cpu_share,
            },
        }


def _interval_dict(found: PercentileInterval) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in found._asdict().items()}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
