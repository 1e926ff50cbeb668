"""Shadow traffic: copies of requests run on another version, and the outputs are compared.

    --shadow digits_cnn=candidate:25        a quarter of the requests that another version served

One thread of low priority runs the copies from a bounded queue. Copies that do not fit are dropped
and counted, so that no request waits for a shadow.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.server.errors import ServerError, ServingError
from serving.server.extras.side_thread import SideThread
from serving.server.extras.traffic import VersionRef
from serving.server.models.manager import ModelManager
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import Outputs, Steps, run_now

if TYPE_CHECKING:
    from serving.server.extras.hooks import Exchange

_FORM = re.compile(r"(?P<model>[^=]+)=(?P<target>[^:=]+)(?::(?P<percent>[0-9]+(?:\.[0-9]+)?))?")
#: Relative and absolute tolerance within which floats count as equal.
TOLERANCE = 1e-3
_MAX_WAITING = 32
_NICENESS = 10

Predict = Callable[[Any, str, Mapping[str, Any], Sequence[str]], Steps[Outputs]]


@dataclass(frozen=True)
class ShadowConfig:
    """The version of a model that receives copies, and the share of the requests."""

    model: str
    target: VersionRef
    share: float = 1.0


def read_shadow(text: str) -> ShadowConfig:
    """The shadow of `MODEL=LABEL` or `MODEL=LABEL:PERCENT`; a label may be a version's number.

    Raises:
      ServerError: another form, or more than 100 percent.
    """
    found = _FORM.fullmatch(text)
    percent = float(found["percent"] or 100) if found else 0.0
    if not found or percent > 100:
        raise ServerError(f"--shadow must be MODEL=LABEL or MODEL=LABEL:PERCENT, got {text!r}")
    return ShadowConfig(found["model"], VersionRef(found["target"]), percent / 100)


@dataclass(frozen=True)
class Difference:
    """The difference between two versions' outputs for one request.

    Attributes:
      rows: images in the request; 0 when the outputs cannot be compared by row.
      top1_disagreements: rows with different best classes.
      score: largest absolute difference of `scores`, or of any float output without them.
      values: whether an output is missing or differs in shape or value; floats may differ by
        `TOLERANCE`.
    """

    rows: int
    top1_disagreements: int
    score: float
    values: bool = False


@dataclass
class ShadowReport:
    """The results of one shadow.

    Attributes:
      target: label or version that receives the copies.
      requests: number of compared requests.
      rows: images in them.
      top1_disagreements: rows with different best classes.
      requests_that_differ: requests with any such row.
      requests_of_other_values: requests with different outputs; see `Difference.values`.
      max_score_difference: the largest difference of a score.
      failed: copies that failed on the shadow only.
      dropped: copies that did not run because the shadow was too slow.
      not_served: copies that did not run because the target was not loaded.
      versions: compared pairs (served, shadow).
      errors: code -> number of failed copies.
    """

    target: str
    requests: int = 0
    rows: int = 0
    top1_disagreements: int = 0
    requests_that_differ: int = 0
    requests_of_other_values: int = 0
    max_score_difference: float = 0.0
    failed: int = 0
    dropped: int = 0
    not_served: int = 0
    versions: list[tuple[int, int]] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)


class Shadow:
    """Copies predictions; thread-safe observer of exchanges."""

    def __init__(
        self,
        configs: Sequence[ShadowConfig],
        models: ModelManager,
        metrics: Metrics,
        *,
        predict: Predict,
        draw: Callable[[], float] = random.random,
        max_waiting: int = _MAX_WAITING,
    ) -> None:
        """Starts the thread.

        Args:
          configs: one per model.
          models: the served models.
          metrics: record `shadow_count` by model and outcome, and `shadow_latency`.
          predict: `inference.predict`.
          draw: returns a number in [0, 1) for each request.
          max_waiting: copies that may wait.

        Raises:
          ServerError: two shadows of one model.
        """
        self._configs = {config.model: config for config in configs}
        if len(self._configs) < len(configs):
            raise ServerError("--shadow names a model twice; one shadow per model")
        self._models = models
        self._metrics = metrics
        self._predict = predict
        self._draw = draw
        self._lock = threading.Lock()
        self._reports = {c.model: ShadowReport(c.target.text) for c in configs}
        self._thread = SideThread(
            "shadow", self._compare, max_waiting=max_waiting, niceness=_NICENESS
        )

    def __call__(self, exchange: "Exchange") -> None:
        """Queues a copy, without waiting."""
        config = self._configs.get(exchange.servable.name)
        if config is None or exchange.api != "Predict" or self._draw() >= config.share:
            return
        if not self._thread.offer(exchange, exchange.size_bytes):
            self._count(config.model, "dropped")

    def reports(self) -> dict[str, dict[str, Any]]:
        """Model -> its report, as plain values."""
        with self._lock:
            return {model: asdict(report) for model, report in self._reports.items()}

    def close(self) -> None:
        """Ends the thread; waiting copies are dropped."""
        self._thread.close(drain=False)

    def _compare(self, exchange: "Exchange") -> None:
        config = self._configs[exchange.servable.name]
        if not config.target.is_served(self._models, config.model):
            self._count(config.model, "not_served")
            return
        try:
            with self._models.use(config.model, *config.target.version_and_label) as servable:
                if servable.version == exchange.servable.version:
                    return
                began = time.monotonic()
                steps = self._predict(
                    servable, exchange.signature, exchange.request, exchange.output_filter
                )
                outputs = run_now(steps)
                seconds = time.monotonic() - began
        except ServingError as error:
            self._fail(config.model, error.code)
            return
        self._metrics.observe("shadow_latency", seconds, model_name=config.model)
        versions = (exchange.servable.version, servable.version)
        self._record(config.model, versions, compare(exchange.response, outputs))

    def _record(self, model: str, versions: tuple[int, int], difference: Difference) -> None:
        with self._lock:
            report = self._reports[model]
            report.requests += 1
            report.rows += difference.rows
            report.top1_disagreements += difference.top1_disagreements
            report.requests_that_differ += difference.top1_disagreements > 0
            report.requests_of_other_values += difference.values
            report.max_score_difference = max(report.max_score_difference, difference.score)
            if versions not in report.versions:
                report.versions.append(versions)
        differs = difference.top1_disagreements or difference.values
        outcome = "disagreed" if differs else "agreed"
        self._metrics.count("shadow_count", model_name=model, outcome=outcome)

    def _fail(self, model: str, code: str) -> None:
        with self._lock:
            errors = self._reports[model].errors
            errors[code] = errors.get(code, 0) + 1
        self._count(model, "failed")

    def _count(self, model: str, outcome: str) -> None:
        with self._lock:
            report = self._reports[model]
            setattr(report, outcome, getattr(report, outcome) + 1)
        self._metrics.count("shadow_count", model_name=model, outcome=outcome)


def compare(served: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> Difference:
    """The difference between two outputs for one request.

    The best class is the first of `classes` or `labels`, which are sorted, or else the argmax of
    (B, N) scores. Scores of a top-k output are compared by class.
    """
    rows, wrong = _top1(served, other)
    return Difference(rows, wrong, _score_difference(served, other), _values_differ(served, other))


def _values_differ(served: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    if served.keys() != other.keys():
        return True
    for name, first in served.items():
        second = other[name]
        if first.shape != second.shape:
            return True
        if _is_float(first) and _is_float(second):
            if not np.allclose(first, second, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                return True
        elif not np.array_equal(first, second):
            return True
    return False


def _top1(served: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> tuple[int, int]:
    for name in ("classes", "labels"):
        if _comparable(served, other, name):
            first, second = served[name][:, 0], other[name][:, 0]
            return len(first), int(np.count_nonzero(first != second))
    names = ["scores"] if "scores" in served else [n for n in served if _is_float(served[n])]
    if len(names) == 1 and _comparable(served, other, names[0]):
        first, second = served[names[0]].argmax(axis=1), other[names[0]].argmax(axis=1)
        return len(first), int(np.count_nonzero(first != second))
    return 0, 0


def _comparable(
    served: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], name: str
) -> bool:
    arrays = [side[name] for side in (served, other) if name in side]
    shapes = [array.shape for array in arrays]
    return len(arrays) == 2 and all(
        len(shape) == 2 and shape[1] > 0 and shape[0] == shapes[0][0] for shape in shapes
    )


def _score_difference(served: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    sides = (served, other)
    if all(_comparable(served, other, name) for name in ("classes", "scores")):
        pairs = zip(*(_by_class(side) for side in sides), strict=True)
        steps = [abs(a[c] - b[c]) for a, b in pairs for c in a.keys() & b.keys()]
        return float(max(steps, default=0.0))
    names = [n for n in served if n in other and _is_float(served[n]) and served[n].size]
    names = ["scores"] if "scores" in names else names
    same = [n for n in names if served[n].shape == other[n].shape]
    return float(max((np.max(np.abs(served[n] - other[n])) for n in same), default=0.0))


def _by_class(side: Mapping[str, np.ndarray]) -> list[dict[Any, float]]:
    rows = zip(side["classes"].tolist(), side["scores"].tolist(), strict=True)
    return [dict(zip(classes, scores, strict=True)) for classes, scores in rows]


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"
