"""Counters and histograms under TF Serving's Prometheus names, and their text."""

import threading
from bisect import bisect_left
from dataclasses import dataclass, field

_PREFIX = ":tensorflow:serving:"
#: TF Serving's latency buckets: 10 x 1.8^k microseconds, 33 of them.
_BUCKETS = tuple(10 * 1.8**k for k in range(33))

Labels = tuple[tuple[str, str], ...]


@dataclass
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(_BUCKETS, value)] += 1
        self.total += value


class Metrics:
    """One server's metrics; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, int]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Adds to a counter, e.g. `count("request_count", model_name="m", status="OK")`."""
        with self._lock:
            series = self._counters.setdefault(name, {})
            key = tuple(labels.items())
            series[key] = series.get(key, 0) + amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds a duration to a histogram, which is kept in microseconds."""
        with self._lock:
            series = self._histograms.setdefault(name, {})
            series.setdefault(tuple(labels.items()), _Histogram()).add(seconds * 1e6)

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

    def text(self) -> str:
        """Everything in Prometheus' text format, without HELP lines."""
        lines: list[str] = []
        with self._lock:
            for name, series in self._counters.items():
                lines.append(f"# TYPE {_PREFIX}{name} counter")
                lines += [f"{_PREFIX}{name}{_braces(key)} {n}" for key, n in series.items()]
            for name, histograms in self._histograms.items():
                lines.append(f"# TYPE {_PREFIX}{name} histogram")
                for key, histogram in histograms.items():
                    lines += _histogram_lines(_PREFIX + name, key, histogram)
        return "\n".join(lines) + "\n"


def _histogram_lines(name: str, labels: Labels, histogram: _Histogram) -> list[str]:
    lines = []
    running = 0
    for limit, count in zip((*_BUCKETS, float("inf")), histogram.counts, strict=True):
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
