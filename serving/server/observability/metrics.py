"""Counters and histograms under TF Serving's Prometheus names, and their text."""

import asyncio
import contextlib
import json
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from serving.server.errors import ServingError

_PREFIX = ":tensorflow:serving:"
#: For metrics that TF Serving does not have.
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
#: The numbers of a process: kind -> name -> list of (labels, number or numbers).
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
    """The metrics of one server; every method is thread-safe."""

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
        """Registers a number that is read with the metrics; a second one replaces the first."""
        with self._lock:
            self._gauges[name] = read

    def queued(self, pool: str, model: str, seconds: float) -> None:
        """Records the time that a request waited for its batch.

        Args:
          pool: name of the batch threads, or empty for a request that waited for any thread.
          model: its name.
          seconds: from joining the queue to leaving it.
        """
        if pool:
            self.observe("batching_session:queuing_latency", seconds, thread_pool_name=pool)
        self.observe("queue_latency", seconds, model_name=model)

    def computed(self, model: str, seconds: float) -> None:
        """Records one run of a model, without waiting time."""
        self.observe("compute_latency", seconds, model_name=model)

    def batch(self, model: str, rows: int, padded: int) -> None:
        """Records one batch: its rows without and with padding."""
        self.count("batching_session:wrapped_run_count")
        self.add("batch_rows", rows, model_name=model)
        if padded > rows:
            self.count("padding_rows", padded - rows, model_name=model)

    def engine_call(self, model: str, api: str, runtime: str, seconds: float) -> None:
        """Records a run as TF Serving does: with batching, it includes the wait for the batch."""
        self.observe("runtime_latency", seconds, model_name=model, API=api, runtime=runtime)

    def examples(self, model: str, count: int) -> None:
        """Records the number of tf.Examples of one request."""
        self.add("request_example_counts", count, model=model)
        self.count("request_example_count_total", count, model=model)

    def request(self, model: str, api: str, entry: str, status: str, seconds: float) -> None:
        """Records one finished request.

        Args:
          model: its name.
          api: `Predict`, `Classify`, ...
          entry: `REST` or `GRPC`.
          status: gRPC status name.
          seconds: until its response; recorded for successes only, as in TF Serving.
        """
        self.count("request_count", model_name=model, status=status)
        if status == "OK":
            self.observe("request_latency", seconds, model_name=model, API=api, entrypoint=entry)

    @contextlib.contextmanager
    def counting(self, model: str, api: str, entry: str) -> Iterator[None]:
        """Counts the block as one request, with the status of its exception; see `request`."""
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
        """A counter, summed over its labels; 0 for an unknown one.

        Args:
          name: full name, e.g. `/tensorflow/serving/request_count` as TensorFlow writes it, or
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
        """All numbers, for `merge` in another process."""
        with self._lock:
            gauges = dict(self._gauges)
            snapshot: Snapshot = {
                "counters": {name: list(s.items()) for name, s in self._counters.items()},
                "histograms": {
                    name: [(key, [*h.counts, h.total]) for key, h in series.items()]
                    for name, series in self._histograms.items()
                },
            }
        # Read without the lock, as a gauge may take other locks.
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
        """The metrics in Prometheus' text format, without HELP lines.

        Args:
          others: numbers of other processes, which are added.
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


_PERIOD_S = 1.0


class SharedMetrics:
    """The metrics of several processes as one page, in whichever of them it is requested.

    Every process keeps a file of its numbers in a shared folder. A file outlives its process: a
    counter that decreased when a process died would look like a restart of the whole server.
    """

    def __init__(self, metrics: Metrics, folder: Path, *, period_s: float = _PERIOD_S) -> None:
        """Starts the thread that writes.

        Args:
          metrics: of this process.
          folder: holds nothing else.
          period_s: between two writes, and so the age of the other processes' numbers.
        """
        self._metrics = metrics
        self._folder = folder
        self._file = folder / f"{os.getpid()}.metrics"
        self._period_s = period_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_always, name="metrics", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """The metrics of all processes, as `Metrics.text`."""
        others = [path for path in self._folder.glob("*.metrics") if path != self._file]
        return self._metrics.text(filter(None, map(_read, sorted(others))))

    def close(self) -> None:
        """Ends the thread after writing the last numbers."""
        self._stopping.set()
        self._thread.join()

    def _write_always(self) -> None:
        while not self._stopping.wait(self._period_s):
            self._write()
        self._write()

    def _write(self) -> None:
        temporary = self._file.with_suffix(".new")
        # The server continues when the parent has removed the folder, or the disk is full.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(self._metrics.snapshot()), encoding="utf-8")
            temporary.replace(self._file)


def _read(path: Path) -> Snapshot | None:
    try:
        snapshot: Snapshot = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not _is_alive(int(path.stem)):
        # The counters of a dead process remain valid, its gauges do not.
        snapshot["gauges"] = {}
    return snapshot


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
