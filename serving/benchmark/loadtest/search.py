"""Search of the greatest Poisson rate at which a percentile stays under a bound.

As in MLPerf Inference's Server scenario: the maximum Poisson rate at which a share of the queries,
99 % by default, has a response within the latency bound. A run of any length passes by LoadGen's
early stopping criterion, which is `quantiles.meets_bound`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from serving.benchmark.loadtest.bodies import Requests
from serving.benchmark.loadtest.generator import LoadProgress
from serving.benchmark.loadtest.plan import LoadError, LoadPlan, LoadTarget
from serving.benchmark.loadtest.quantiles import meets_bound, queries_for_claim, queries_for_margin
from serving.benchmark.loadtest.result import LoadResult
from serving.benchmark.loadtest.run import run_load

#: A run with this many late queries may still pass, so that a single delay does not decide.
_LATE_ALLOWED = 5
#: Doublings, or halvings when the first rate is too high.
_MAX_DOUBLINGS = 16
#: Rates at which enough queries would take longer are not tried.
_MAX_STEP_S = 300.0
#: Lets the queue that a failed step built up drain.
_PAUSE_S = 0.5


@dataclass(frozen=True)
class RateSearch:
    """The result of a search.

    Attributes:
      rate: the greatest rate that passed, in requests per second; 0 when none did.
      bound_ms: bound on the percentile.
      percent: the percentile, e.g. 99.
      steps: all runs, in order.
      is_limited_by_generator: the generator was late at the lowest rate that did not pass, or every
        rate passed; the server may be faster.
    """

    rate: float
    bound_ms: float
    percent: float
    steps: tuple[LoadResult, ...]
    is_limited_by_generator: bool = False

    def passed(self, step: LoadResult) -> bool:
        """Whether a step proves the bound at 99 % confidence.

        A late generator does not matter: its delay is part of the latency that meets the bound.
        """
        return meets_bound(step.requests, step.over(self.bound_ms), self.percent)

    @property
    def min_queries(self) -> int:
        """Minimum number of queries per step."""
        return queries_for_claim(self.percent, over=_LATE_ALLOWED)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "rate": self.rate,
            "bound_ms": self.bound_ms,
            "percent": self.percent,
            "is_limited_by_generator": self.is_limited_by_generator,
            "min_queries": self.min_queries,
            "queries_for_fixed_margin": queries_for_margin(self.percent),
            "steps": [{**step.to_dict(), "passed": self.passed(step)} for step in self.steps],
        }


def find_max(
    target: LoadTarget,
    requests: Requests,
    plan: LoadPlan,
    *,
    bound_ms: float,
    percent: float = 99.0,
    tolerance: float = 0.05,
    on_step: Callable[[float], None] | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
) -> RateSearch:
    """Doubles the rate until the bound breaks, then bisects.

    Args:
      target: the server and the model.
      requests: made for this target.
      plan: of a step; its rate is the first to be tried (with `clients`, a quarter of the rate that
        these clients reach). A step lasts until there are enough queries, at least `plan.seconds`.
      bound_ms: on the percentile, above 0.
      percent: in (0, 100).
      tolerance: at which bisection ends, as a share of the rate.
      on_step: called with each rate before it is tried.
      on_progress: see `run_load`.

    Raises:
      LoadError: see `run_load`; or the bound, percentile or tolerance is out of range.
    """
    if not (bound_ms > 0 and 0 < percent < 100 and 0 < tolerance < 1):
        raise LoadError(
            "the bound must be above 0 ms, the percentile in (0, 100) and the tolerance in (0, 1), "
            f"got {bound_ms}, {percent} and {tolerance}"
        )
    steps: list[LoadResult] = []
    search = RateSearch(0.0, bound_ms, percent, ())
    rate = plan.rate
    if rate is None:
        rate = max(run_load(target, requests, plan, on_progress=on_progress).achieved_rate / 4, 0.1)

    def passes(rate: float) -> bool:
        seconds = max(plan.seconds, 1.1 * search.min_queries / rate)
        step_plan = replace(plan.at(rate, seconds=seconds), seed=plan.seed + len(steps))
        if on_step is not None:
            on_step(rate)
        if steps:
            time.sleep(_PAUSE_S)
        steps.append(run_load(target, requests, step_plan, on_progress=on_progress))
        return search.passed(steps[-1])

    best, broken = _bracket(rate, passes, lowest=1.1 * search.min_queries / _MAX_STEP_S)
    while best and broken and broken / best > 1 + tolerance:
        middle = (best * broken) ** 0.5
        best, broken = (middle, broken) if passes(middle) else (best, middle)
    failed = [step for step in steps if not search.passed(step)]
    lowest = min(failed, key=lambda step: step.plan.rate or 0.0, default=None)
    limited = lowest is None or not lowest.is_valid
    return replace(search, rate=best, steps=tuple(steps), is_limited_by_generator=limited)


def _bracket(rate: float, passes: Callable[[float], bool], *, lowest: float) -> tuple[float, float]:
    """The greatest rate that passed and the lowest that failed; 0 stands for none."""
    best = broken = 0.0
    for _ in range(_MAX_DOUBLINGS):
        if passes(rate):
            best = rate
            if broken:
                break
            rate *= 2
        else:
            broken = rate
            if best or rate / 2 < lowest:
                break
            rate /= 2
    return best, broken
