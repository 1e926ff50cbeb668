"""The criteria of a soak test, as a table and as JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from serving.benchmark.loadtest import report
from serving.benchmark.loadtest.callers import OK
from serving.benchmark.loadtest.malformed import Refusals
from serving.benchmark.loadtest.quantiles import PercentileInterval, interval
from serving.benchmark.loadtest.result import LoadResult

MAX_P99_RATIO = 1.5
MAX_GROWTH = 0.05
#: Number of swaps that a judgment of memory needs.
CYCLES = 20

#: Requests that waited during a swap still complete this long after it.
_AFTER_S = 0.5
#: Number of last swaps whose median is the memory at the end.
_LAST_SWAPS = 3


class Swap(NamedTuple):
    """The replacement of one version by the next.

    Attributes:
      began: time of the push, in seconds of `time.monotonic`.
      ended: time at which the previous version was removed.
      resident_mb: memory of the server at the end.
      done: False when it took longer than a minute.
    """

    began: float
    ended: float
    resident_mb: float
    done: bool


class Criterion(NamedTuple):
    """A requirement, with the value found and the value allowed.

    Attributes:
      name: of the criterion.
      found: value as text.
      allowed: limit as text.
      passed: whether the limit is met.
      judged: False when the criterion is only shown.
    """

    name: str
    found: str
    allowed: str
    passed: bool
    judged: bool = True


@dataclass(frozen=True)
class SoakResult:
    """The measurements of a soak test.

    Attributes:
      loads: the REST and the gRPC half.
      swaps: in order.
      malformed: responses to the malformed requests.
      start_mb: resident memory of the server after the warm-up.
      end_mb: resident memory after the load.
      answers_only: latency and memory are shown, not judged.
    """

    loads: tuple[LoadResult, ...]
    swaps: tuple[Swap, ...]
    malformed: Refusals
    start_mb: float
    end_mb: float
    answers_only: bool = False

    @property
    def failed(self) -> dict[str, int]:
        """Code -> number of valid requests that failed with it, warm-up included."""
        codes = np.concatenate([load.codes for load in self.loads])
        names, counts = np.unique(codes[codes != OK], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    @cached_property
    def _latencies_ms(self) -> tuple[np.ndarray, np.ndarray]:
        """Ascending latencies of requests due during swaps, and of others after the warm-up."""
        during: list[np.ndarray] = []
        steady: list[np.ndarray] = []
        for load in self.loads:
            due = load.started + load.scheduled_s
            latency = np.where(load.codes == OK, load.latency_ms, math.inf)
            inside = np.zeros(len(due), bool)
            for swap in self.swaps:
                inside |= (due >= swap.began) & (due < swap.ended + _AFTER_S)
            during.append(latency[inside])
            steady.append(latency[~inside & load.measured])
        return np.sort(np.concatenate(during)), np.sort(np.concatenate(steady))

    @cached_property
    def p99_ms(self) -> tuple[PercentileInterval, PercentileInterval]:
        """p99 of requests due during swaps and of others, as if they were independent."""
        during, steady = self._latencies_ms
        return interval(during, 99), interval(steady, 99)

    @property
    def growth(self) -> float:
        """Relative growth of resident memory from the start to the median of the last swaps."""
        last = [swap.resident_mb for swap in self.swaps[-_LAST_SWAPS:]]
        return float(np.median(last)) / self.start_mb - 1 if last else math.nan

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """All criteria with the values found."""
        during, steady = (found.value for found in self.p99_ms)
        # A short test has few requests during swaps, whose p99 is then the slowest of them, so the
        # low end of its interval must be above the limit to fail. This is not an interval of the
        # ratio: requests during a swap are dependent, and the steady p99 varies too.
        low_ratio = (self.p99_ms[0].low or 0.0) / steady
        failed = sum(self.failed.values())
        resends = sum(load.resends for load in self.loads)
        total = sum(len(load.codes) for load in self.loads)
        late = sum(not swap.done for swap in self.swaps)
        refused = sum(self.malformed.codes.values())
        listed = "".join(f", {count} x {code}" for code, count in self.failed.items())
        counts = [len(latencies) for latencies in self._latencies_ms]
        measured = not self.answers_only
        few = "" if len(self.swaps) >= CYCLES else f" (needs {CYCLES})"
        return (
            Criterion("failed good requests", f"{failed} of {total}{listed}", "0", failed == 0),
            Criterion("resent requests", str(resends), "0", resends == 0),
            Criterion(
                "version swaps",
                f"{len(self.swaps)}, {late} not done in time",
                "at least 1, all done",
                bool(self.swaps) and late == 0,
            ),
            Criterion(
                "malformed requests",
                ", ".join(f"{n} x {code}" for code, n in self.malformed.codes.items()),
                "all refused",
                refused > 0 and not self.malformed.wrong,
            ),
            Criterion(
                "p99 during swaps",
                f"{report.milliseconds(during)} of {counts[0]}, "
                f"steady {report.milliseconds(steady)} of {counts[1]}: "
                f"{during / steady:.2f} x, {low_ratio:.2f} x at the low end of its interval for "
                "independent requests",
                f"{MAX_P99_RATIO:g} x steady",
                not math.isnan(during) and low_ratio <= MAX_P99_RATIO,
                judged=measured,
            ),
            Criterion(
                "resident memory",
                f"{self.start_mb:.0f} MB, {self.growth:+.1%} after {len(self.swaps)} cycles{few}",
                f"+{MAX_GROWTH:.0%}",
                self.growth <= MAX_GROWTH,
                judged=measured,
            ),
        )

    @property
    def passed(self) -> bool:
        """Whether all judged criteria are met."""
        return all(criterion.passed for criterion in self.criteria if criterion.judged)


def table(result: SoakResult) -> Table:
    """The criteria, one per row."""
    title = "soak: " + ("passed" if result.passed else "FAILED")
    found = Table(
        title=Text(title, style="bold green" if result.passed else "bold red"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("criterion", "found", "allowed", ""):
        found.add_column(column, overflow="fold")
    for criterion in result.criteria:
        found.add_row(criterion.name, criterion.found, criterion.allowed, _mark(criterion))
    for line in result.malformed.wrong[:3]:
        found.add_row("", f"not refused: {line}", "", "")
    return found


def _mark(criterion: Criterion) -> Text:
    if not criterion.judged:
        return Text("shown", style="dim")
    return Text("ok", style="green") if criterion.passed else Text("FAILED", style="bold red")


def document(result: SoakResult, options: Mapping[str, Any]) -> dict[str, Any]:
    """The results as JSON values."""
    values = report.document(result.loads)
    return {
        **values,
        "kind": "soak",
        "options": {name: _plain(value) for name, value in options.items()},
        "passed": result.passed,
        "criteria": [criterion._asdict() for criterion in result.criteria],
        "failed": result.failed,
        # Not `asdict`: before Python 3.12 it makes a counter of pairs of a counter.
        "malformed": {
            "codes": dict(result.malformed.codes),
            "wrong": list(result.malformed.wrong),
        },
        "resident_mb": {
            "start": _plain(result.start_mb),
            "end": _plain(result.end_mb),
            "after_each_swap": [_plain(swap.resident_mb) for swap in result.swaps],
        },
        "swap_seconds": [swap.ended - swap.began for swap in result.swaps],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (int, bool)) else str(value)
