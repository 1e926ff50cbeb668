"""A sample of requests and responses, as TFRecord files of `PredictionLog`.

This is TF Serving's `logging_config`; TFX and TFMA read the files. A request only adds its arrays
to a bounded queue; one thread creates and writes the records.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.engines.saved_model import DEFAULT_SIGNATURE
from serving.server.errors import ServerError, ServingError
from serving.server.extras.log_file import LogFile, recover
from serving.server.extras.side_thread import SideThread
from serving.server.observability.metrics import Metrics

if TYPE_CHECKING:
    from serving.server.extras.hooks import Exchange

_LOG = logging.getLogger(__name__)

#: Seconds before a log that could not be written is tried again.
PAUSE_S = 30.0


@dataclass(frozen=True)
class LogConfig:
    """The log of one model's requests.

    Attributes:
      prefix: of the files' names, with their folder.
      sampling_rate: share of the requests, in [0, 1].
      max_bytes: size from which a file is ended.
      max_seconds: age from which a file is ended.
    """

    prefix: str
    sampling_rate: float = 1.0
    max_bytes: int = 64 * 2**20
    max_seconds: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.sampling_rate <= 1:
            raise ServerError(
                f"sampling_rate must be in [0, 1], got {self.sampling_rate}; 1 % is written 0.01"
            )
        if not self.prefix or self.prefix.endswith("/"):
            raise ServerError(
                f"filename_prefix must end in a file's name, got {self.prefix!r}; "
                "for example logs/requests"
            )


class RequestLog:
    """Writes the logs of a server; thread-safe observer of exchanges."""

    def __init__(
        self,
        configs: Mapping[str, LogConfig],
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        max_waiting: int = 1024,
    ) -> None:
        """Starts the thread that writes.

        Args:
          configs: model -> its log; the name "" stands for all other models.
          metrics: count `request_log_count` by model and status: OK, RESOURCE_EXHAUSTED for
            dropped requests, or the code of the error.
          clock: returns seconds.
          draw: returns a number in [0, 1) for each request.
          max_waiting: requests that may wait for the thread.

        Raises:
          ServerError: two models with one prefix, or a folder that cannot be created.
        """
        prefixes = [config.prefix for config in configs.values()]
        for prefix in prefixes:
            if prefixes.count(prefix) > 1:
                raise ServerError(f"Duplicate LogCollectorConfig::filename_prefix(): {prefix}")
            try:
                Path(prefix).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ServerError(f"the request log {prefix} cannot be written: {error}") from error
        self._configs = dict(configs)
        self._metrics = metrics
        self._clock = clock
        self._draw = draw
        self._files: dict[str, LogFile] = {}
        self._paused_until: dict[str, float] = {}
        for config in configs.values():
            for path in recover(config.prefix):
                _LOG.warning("the request log %s was left by a server that was killed", path)
        self._writer = SideThread(
            "request log", self._write, idle=self._rotate_old, max_waiting=max_waiting
        )

    def __call__(self, exchange: "Exchange") -> None:
        """Samples an exchange, without waiting."""
        config = self._config(exchange.servable.name)
        if config is None or self._draw() >= config.sampling_rate:
            return
        if not self._writer.offer((exchange, time.time()), exchange.size_bytes):
            self._count(exchange.servable.name, "RESOURCE_EXHAUSTED")

    def close(self) -> None:
        """Writes the waiting requests and ends the files."""
        self._writer.close(drain=True)
        for model in list(self._files):
            self._end(model)

    def _config(self, model: str) -> LogConfig | None:
        return self._configs.get(model, self._configs.get(""))

    def _write(self, sampled: tuple["Exchange", float]) -> None:
        exchange, seconds = sampled
        model = exchange.servable.name
        config = self._configs.get(model) or self._configs[""]
        if self._is_paused(model):
            self._count(model, "UNKNOWN")
            return
        try:
            record = prediction_log(exchange, config, seconds).SerializeToString()
            if model not in self._files:
                self._files[model] = LogFile(config.prefix, model, self._clock())
            self._files[model].write(record)
            self._resume(model, config)
            status = "OK"
        except ServingError as error:
            status = error.code
        except Exception as error:
            # Such as a full disk: requests continue, and the log resumes later.
            status = "UNKNOWN"
            self._end(model)
            self._pause(model, config, error)
        self._count(model, status)

    def _is_paused(self, model: str) -> bool:
        """Whether the disk refused a record a short time ago."""
        return self._clock() < self._paused_until.get(model, -math.inf)

    def _pause(self, model: str, config: LogConfig, error: Exception) -> None:
        if model not in self._paused_until:
            _LOG.error(
                "the request log %s cannot be written: %s; requests continue without it, and it is "
                "tried again every %g s",
                config.prefix,
                error,
                PAUSE_S,
            )
        self._paused_until[model] = self._clock() + PAUSE_S

    def _resume(self, model: str, config: LogConfig) -> None:
        if self._paused_until.pop(model, None) is not None:
            _LOG.warning("the request log %s is written again", config.prefix)

    def _rotate_old(self) -> None:
        now = self._clock()
        due = [model for model, file in self._files.items() if self._is_due(model, file, now)]
        for model in due:
            self._end(model)

    def _is_due(self, model: str, file: LogFile, now: float) -> bool:
        """Whether a file is large or old enough to end it."""
        config = self._configs.get(model) or self._configs[""]
        return now - file.began >= config.max_seconds or file.size >= config.max_bytes

    def _end(self, model: str) -> None:
        file = self._files.pop(model, None)
        if file is None:
            return
        try:
            file.end()
        except Exception as error:
            _LOG.error("the request log %s could not be ended: %s", file.path, error)

    def _count(self, model: str, status: str) -> None:
        self._metrics.count("request_log_count", model_name=model, status_code=status)


def prediction_log(exchange: "Exchange", config: LogConfig, seconds: float) -> Any:
    """The `PredictionLog` of an exchange.

    Args:
      exchange: request and response.
      config: of its model.
      seconds: time of the response, since 1970.

    Raises:
      ServingError: UNIMPLEMENTED, an API that has no log.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    _fill_spec(log.log_metadata.model_spec, exchange)
    log.log_metadata.sampling_config.sampling_rate = config.sampling_rate
    log.log_metadata.timestamp_secs = int(seconds)
    log.log_metadata.saved_model_tags.append("serve")
    if exchange.api == "Predict":
        _fill_predict(log.predict_log, exchange)
    elif exchange.api == "Classify":
        _fill_examples(log.classify_log, exchange)
    elif exchange.api == "Regress":
        _fill_examples(log.regress_log, exchange)
    elif exchange.api == "MultiInference":
        log.multi_inference_log.request.CopyFrom(exchange.request)
        log.multi_inference_log.response.CopyFrom(exchange.response)
    else:
        raise ServingError("UNIMPLEMENTED", f"{exchange.api} has no log")
    return log


def _fill_predict(log: Any, exchange: "Exchange") -> None:
    from serving.server.models.tensors import fill_proto

    _fill_spec(log.request.model_spec, exchange)
    _fill_spec(log.response.model_spec, exchange)
    log.request.output_filter.extend(exchange.output_filter)
    for name, array in exchange.request.items():
        fill_proto(log.request.inputs[name], np.asarray(array))
    for name, array in exchange.response.items():
        fill_proto(log.response.outputs[name], array)


def _fill_examples(log: Any, exchange: "Exchange") -> None:
    _fill_spec(log.request.model_spec, exchange)
    _fill_spec(log.response.model_spec, exchange)
    log.request.input.CopyFrom(exchange.request)
    log.response.result.CopyFrom(exchange.response)


def _fill_spec(spec: Any, exchange: "Exchange") -> None:
    spec.name = exchange.servable.name
    spec.version.value = exchange.servable.version
    spec.signature_name = exchange.signature or DEFAULT_SIGNATURE


def read_request_logs(path: Path) -> dict[str, LogConfig]:
    """Model -> its `logging_config` in a model config file.

    Reload requests are not read: a client could choose a path to write to.

    Raises:
      ServerError: not a ModelServerConfig, a collector of another type than TFRecord files, or an
        invalid prefix or rate.
    """
    from serving.server.models.protos import read_config

    configs = {}
    for entry in read_config(path).model_config_list.config:
        if not entry.HasField("logging_config"):
            continue
        collector = entry.logging_config.log_collector_config
        if collector.type not in ("", "tfrecord"):
            raise ServerError(
                f"model {entry.name}: log_collector_config.type {collector.type!r} is not known "
                "here; leave it out for TFRecord files"
            )
        rate = entry.logging_config.sampling_config.sampling_rate
        configs[entry.name] = LogConfig(collector.filename_prefix, rate)
    return configs
