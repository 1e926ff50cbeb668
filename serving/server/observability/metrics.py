"""Counters and histograms under TF Serving's Prometheus names, and their text."""

import asyncio
import contextlib
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from serving.server.errors import ServingError

_PREFIX = ":tensorflow:serving:"
#: What TF Serving has no name for.
_OWN_PREFIX = ":sightline:serving:"
#: TF Serving's latency buckets: 10 x 1.8^k microseconds, 33 of them.
_LATENCY_BUCKETS = tuple(10 * 1.8**k for k in range(33))
_OWN = (
    "queue_latency",
    "compute_latency",
    "batch_rows",
    "padding_rows",
    "refused_count",
    "canary_count",
    "shadow_count",
    "shadow_latency",
    "model_event_count",
)
_SIZES = tuple(float(2**k) for k in range(15))
_BUCKETS = {
    "batching_session:queuing_latency": tuple(100 * 1.2**k for k in range(52)),
    "request_example_counts": _SIZES,
    "batch_rows": _SIZES,
}

Labels = tuple[tuple[str, str], ...]
#: A process's numbers as plain values: kind -> name -> list of (labels, number or numbers).
Snapshot: TypeAlias = dict[str, dict[str, list[tuple[Any, Any]]]]


@dataclass
class _Histogram:
    limits: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.limits) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.limits, value)] += 1
        self.total += value

    def merge(self, counts: Sequence[int], total: float) -> None:
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
        self.total += total


class Metrics:
    """One server's metrics; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, int]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}
        self._gauges: dict[str, Callable[[], int]] = {}

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Adds to a counter, e.g. `count("request_count", model_name="m", status="OK")`."""
        with self._lock:
            series = self._counters.setdefault(name, {})
            key = tuple(labels.items())
            series[key] = series.get(key, 0) + amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds a duration to a histogram, which is kept in microseconds."""
        self.add(name, seconds * 1e6, **labels)

    def add(self, name: str, value: float, **labels: str) -> None:
        """Adds a value to a histogram, in the histogram's own unit."""
        with self._lock:
            self._histogram(name, tuple(labels.items())).add(value)

    def gauge(self, name: str, read: Callable[[], int]) -> None:
        """Tells a number that is read whenever the metrics are; a second one replaces the first."""
        with self._lock:
            self._gauges[name] = read

    def queued(self, pool: str, model: str, seconds: float) -> None:
        """The time that a request waited for its batch.

        Args:
          pool: name of the batch threads, or empty for a request that waited for any thread.
          model: the name asked for.
          seconds: from joining the queue to leaving it.
        """
        if pool:
            self.observe("batching_session:queuing_latency", seconds, thread_pool_name=pool)
        self.observe("queue_latency", seconds, model_name=model)

    def computed(self, model: str, seconds: float) -> None:
        """One run of a model, of one request or of a batch, without any waiting."""
        self.observe("compute_latency", seconds, model_name=model)

    def batch(self, model: str, rows: int, padded: int) -> None:
        """One batch: its rows, and how many it runs with padding."""
        self.count("batching_session:wrapped_run_count")
        self.add("batch_rows", rows, model_name=model)
        if padded > rows:
            self.count("padding_rows", padded - rows, model_name=model)

    def engine_call(self, model: str, api: str, runtime: str, seconds: float) -> None:
        """What TF Serving calls a run: with batching it holds the wait for the batch too."""
        self.observe("runtime_latency", seconds, model_name=model, API=api, runtime=runtime)

    def examples(self, model: str, count: int) -> None:
        """The tf.Examples of one request."""
        self.add("request_example_counts", count, model=model)
        self.count("request_example_count_total", count, model=model)

    def request(self, model: str, api: str, entry: str, status: str, seconds: float) -> None:
        """One finished request.

        Args:
          model: the name asked for.
          api: `Predict`, `Classify`, ...
          entry: `REST` or `GRPC`.
          status: gRPC status name.
          seconds: from reading it to its answer; kept for successes only, as TF Serving does.
        """
        self.count("request_count", model_name=model, status=status)
        if status == "OK":
            self.observe("request_latency", seconds, model_name=model, API=api, entrypoint=entry)

    @contextlib.contextmanager
    def counting(self, model: str, api: str, entry: str) -> Iterator[None]:
        """Counts what it surrounds as one request, by how it ends; see `request`."""
        began = time.perf_counter()
        status = "INTERNAL"
        try:
            yield
            status = "OK"
        except ServingError as error:
            status = error.code
            raise
        except asyncio.CancelledError:
            status = "CANCELLED"
            raise
        finally:
            self.request(model, api, entry, status, time.perf_counter() - began)

    def total(self, name: str) -> int:
        """A counter, summed over its labels; 0 for what has not counted.

        Args:
          name: in full, e.g. `/tensorflow/serving/request_count` as TensorFlow writes it, or
            `:tensorflow:serving:request_count` as Prometheus does.
        """
        full = name.replace("/", ":")
        with self._lock:
            return sum(
                sum(series.values())
                for own, series in self._counters.items()
                if _full_name(own) == full
            )

    def snapshot(self) -> Snapshot:
        """All numbers, for another process to add to its own."""
        with self._lock:
            gauges = dict(self._gauges)
            snapshot: Snapshot = {
                "counters": {name: list(s.items()) for name, s in self._counters.items()},
                "histograms": {
                    name: [(key, [*h.counts, h.total]) for key, h in series.items()]
                    for name, series in self._histograms.items()
                },
            }
        # Read without the lock: what they ask may be counting just now.
        snapshot["gauges"] = {name: [((), read())] for name, read in gauges.items()}
        return snapshot

    def merge(self, other: Snapshot) -> None:
        """Adds another process's counters and histograms."""
        for name, series in other["counters"].items():
            for labels, number in series:
                self.count(name, number, **dict(labels))
        for name, series in other["histograms"].items():
            for labels, (*counts, total) in series:
                with self._lock:
                    self._histogram(name, tuple(map(tuple, labels))).merge(counts, total)

    def text(self, others: Iterable[Snapshot] = ()) -> str:
        """Everything in Prometheus' text format, without HELP lines.

        Args:
          others: of other processes, to be added.
        """
        total = Metrics()
        gauges: dict[str, int] = {}
        for snapshot in (self.snapshot(), *others):
            total.merge(snapshot)
            for name, ((_, number),) in snapshot["gauges"].items():
                gauges[name] = gauges.get(name, 0) + number
        return total._text(gauges)

    def _histogram(self, name: str, key: Labels) -> _Histogram:
        series = self._histograms.setdefault(name, {})
        if key not in series:
            series[key] = _Histogram(_BUCKETS.get(name, _LATENCY_BUCKETS))
        return series[key]

    def _text(self, gauges: Mapping[str, int]) -> str:
        lines: list[str] = []
        for name, number in gauges.items():
            lines += [f"# TYPE {_OWN_PREFIX}{name} gauge", f"{_OWN_PREFIX}{name} {number}"]
        for name, series in self._counters.items():
            full = _full_name(name)
            lines.append(f"# TYPE {full} counter")
            lines += [f"{full}{_braces(key)} {n}" for key, n in series.items()]
        for name, histograms in self._histograms.items():
            lines.append(f"# TYPE {_full_name(name)} histogram")
            for key, histogram in histograms.items():
                lines += _histogram_lines(_full_name(name), key, histogram)
        return "\n".join(lines) + "\n"


def _full_name(name: str) -> str:
    return (_OWN_PREFIX if name in _OWN else _PREFIX) + name


def _histogram_lines(name: str, labels: Labels, histogram: _Histogram) -> list[str]:
    lines = []
    running = 0
    for limit, count in zip((*histogram.limits, float("inf")), histogram.counts, strict=True):
        running += count
        le = "+Inf" if limit == float("inf") else f"{limit:g}"
        lines.append(f"{name}_bucket{_braces((*labels, ('le', le)))} {running}")
    lines.append(f"{name}_sum{_braces(labels)} {histogram.total:g}")
    lines.append(f"{name}_count{_braces(labels)} {running}")
    return lines


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{key}="{_escape(value)}"' for key, value in labels)
    return f"{{{inside}}}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
