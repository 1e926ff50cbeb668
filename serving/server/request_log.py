"""A sample of the requests and answers, as TFRecord files of `PredictionLog`.

TF Serving's `logging_config`: TFX and TFMA read the files as they read TF Serving's. A request only
puts what it has into a bounded queue; one thread makes the records and writes them. A file that is
still being written ends in `.open`; what ends in `.tfrecord` is whole.
"""

import contextlib
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from serving.saved_model import DEFAULT_SIGNATURE
from serving.server.errors import ServerError, ServingError
from serving.server.hooks import Exchange
from serving.server.metrics import Metrics
from serving.server.side_thread import SideThread

_LOG = logging.getLogger(__name__)

#: TFRecord's own bytes around each record: length, two checksums.
_FRAME_BYTES = 16


@dataclass(frozen=True)
class LogConfig:
    """Where one model's requests are logged.

    Attributes:
      prefix: of the files' names, with their folder.
      sampling_rate: share of the requests, in [0, 1].
      max_bytes: of a file, after which the next is begun.
      max_seconds: that a file stays open, and so unread, at most.
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
    """Writes the logs of a server; called with every answered exchange, from any thread."""

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
          configs: model -> where; the name "" stands for all other models.
          metrics: get `request_log_count` by model and status: OK, RESOURCE_EXHAUSTED for what was
            dropped, or why it could not be written.
          clock: seconds.
          draw: a number in [0, 1) for each request.
          max_waiting: requests that may wait to be written.

        Raises:
          ServerError: two models with one prefix, or a folder that cannot be made.
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
        self._files: dict[str, _OpenFile] = {}
        self._writer = SideThread(
            "request log", self._write, idle=self._rotate_old, max_waiting=max_waiting
        )

    def __call__(self, exchange: Exchange) -> None:
        """Samples an exchange; never waits."""
        config = self._config(exchange.servable.name)
        if config is None or self._draw() >= config.sampling_rate:
            return
        if not self._writer.offer((exchange, time.time()), exchange.size_bytes):
            self._count(exchange.servable.name, "RESOURCE_EXHAUSTED")

    def close(self) -> None:
        """Writes what waits and ends the files."""
        self._writer.close(drain=True)
        for model in list(self._files):
            self._end(model)

    def _config(self, model: str) -> LogConfig | None:
        return self._configs.get(model, self._configs.get(""))

    def _write(self, sampled: tuple[Exchange, float]) -> None:
        exchange, seconds = sampled
        model = exchange.servable.name
        config = self._configs.get(model) or self._configs[""]
        try:
            record = prediction_log(exchange, config, seconds).SerializeToString()
            if model not in self._files:
                self._files[model] = _OpenFile(config, model, self._clock())
            self._files[model].write(record)
            status = "OK"
        except ServingError as error:
            status = error.code
        except Exception:
            # A full disk, say: requests go on, the log tells and tries a new file.
            _LOG.exception("the request log %s could not be written", config.prefix)
            status = "UNKNOWN"
            self._end(model)
        self._count(model, status)

    def _rotate_old(self) -> None:
        now = self._clock()
        for model in [model for model, file in self._files.items() if file.is_due(now)]:
            self._end(model)

    def _end(self, model: str) -> None:
        file = self._files.pop(model, None)
        if file is None:
            return
        try:
            file.end()
        except Exception:
            _LOG.exception("the request log %s could not be ended", file.path)

    def _count(self, model: str, status: str) -> None:
        self._metrics.count("request_log_count", model_name=model, status_code=status)


class _OpenFile:
    """A file that is being written, under a name that no reader looks for."""

    def __init__(self, config: LogConfig, model: str, now: float) -> None:
        import tensorflow as tf

        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        # Process and a random part: several processes and fast rotation share the prefix.
        unique = f"{os.getpid()}-{random.getrandbits(32):08x}"
        name = f"{config.prefix}-{quote(model, safe='')}-{stamp}-{unique}"
        self.path = Path(f"{name}.tfrecord")
        self._config = config
        self._began = now
        self._size = 0
        self._temporary = Path(f"{name}.open")
        self._writer = tf.io.TFRecordWriter(str(self._temporary))

    def write(self, record: bytes) -> None:
        self._writer.write(record)
        self._size += len(record) + _FRAME_BYTES

    def is_due(self, now: float) -> bool:
        """Whether it is large or old enough to be ended."""
        old = now - self._began >= self._config.max_seconds
        return old or self._size >= self._config.max_bytes

    def end(self) -> None:
        """Closes it and gives it its name, once its bytes are on the disk."""
        self._writer.close()
        with self._temporary.open("rb") as file, contextlib.suppress(OSError):
            os.fsync(file.fileno())
        self._temporary.rename(self.path)


def prediction_log(exchange: Exchange, config: LogConfig, seconds: float) -> Any:
    """The `PredictionLog` of an exchange.

    Args:
      exchange: answered.
      config: of its model.
      seconds: since 1970, when it was answered.

    Raises:
      ServingError: UNIMPLEMENTED, an API that has no log.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    _fill_spec(log.log_metadata.model_spec, exchange)
    log.log_metadata.sampling_config.sampling_rate = config.sampling_rate
    log.log_metadata.timestamp_secs = int(seconds)
    log.log_metadata.saved_model_tags.append("serve")
    fill = {
        "Predict": _fill_predict,
        "Classify": _fill_classify,
        "Regress": _fill_regress,
        "MultiInference": _fill_multi_inference,
    }.get(exchange.api)
    if fill is None:
        raise ServingError("UNIMPLEMENTED", f"{exchange.api} has no log")
    fill(log, exchange)
    return log


def _fill_predict(log: Any, exchange: Exchange) -> None:
    from serving.server.tensors import fill_proto

    request, response = log.predict_log.request, log.predict_log.response
    _fill_spec(request.model_spec, exchange)
    _fill_spec(response.model_spec, exchange)
    request.output_filter.extend(exchange.output_filter)
    for name, array in exchange.request.items():
        fill_proto(request.inputs[name], np.asarray(array))
    for name, array in exchange.response.items():
        fill_proto(response.outputs[name], array)


def _fill_classify(log: Any, exchange: Exchange) -> None:
    _fill_examples(log.classify_log, exchange)


def _fill_regress(log: Any, exchange: Exchange) -> None:
    _fill_examples(log.regress_log, exchange)


def _fill_examples(log: Any, exchange: Exchange) -> None:
    _fill_spec(log.request.model_spec, exchange)
    _fill_spec(log.response.model_spec, exchange)
    log.request.input.CopyFrom(exchange.request)
    log.response.result.CopyFrom(exchange.response)


def _fill_multi_inference(log: Any, exchange: Exchange) -> None:
    log.multi_inference_log.request.CopyFrom(exchange.request)
    log.multi_inference_log.response.CopyFrom(exchange.response)


def _fill_spec(spec: Any, exchange: Exchange) -> None:
    spec.name = exchange.servable.name
    spec.version.value = exchange.servable.version
    spec.signature_name = exchange.signature or DEFAULT_SIGNATURE


def read_log_configs(config: Any) -> dict[str, LogConfig]:
    """Model -> its `logging_config`, of a `ModelServerConfig` from a file.

    A reload request must not be read with it: it would let a client choose a path to write to.

    Raises:
      ServerError: a collector of another type than TFRecord files, or a bad prefix or rate.
    """
    configs = {}
    for entry in config.model_config_list.config:
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
