"""Replays a model's `tf_serving_warmup_requests` before it takes traffic."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from core import bundle as bundles
from serving.engines.graph_import import quiet_tensorflow
from serving.engines.saved_model import DEFAULT_SIGNATURE
from serving.server.errors import ServingError
from serving.server.models import inference
from serving.server.models.engines import Engine
from serving.server.models.servable import Servable
from serving.server.models.tensors import to_array
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import run_now

_LOG = logging.getLogger(__name__)

#: TF Serving's own limit.
MAX_RECORDS = 1000


def warm_up(metrics: Metrics, name: str, path: Path, engine: Engine) -> None:
    """Replays a version's requests and records their number and duration.

    Args:
      metrics: of the server.
      name: of the model.
      path: folder of the version.
      engine: loaded from it.

    Raises:
      ServingError: see `replay`.
    """
    began, status = time.monotonic(), "INTERNAL"
    try:
        count = replay(name, path, engine)
        status = "OK"
    except ServingError as error:
        status = error.code
        raise
    finally:
        seconds = time.monotonic() - began
        metrics.observe("model_warmup_latency", seconds, model_path=str(path), status=status)
    if count:
        metrics.count("model_warmup_records_read", count, model_path=str(path))


def replay(name: str, path: Path, engine: Engine) -> int:
    """The number of requests that ran on `engine`; 0 when the model has none.

    Requests for signatures that a `.tflite` file lacks are skipped, with a warning.

    Args:
      name: of the model.
      path: folder of the version.
      engine: loaded from it.

    Raises:
      ServingError: the file is damaged or too long, or a request in it fails. The version is then
        not made available.
    """
    file = path / bundles.WARMUP_FILE
    if not file.is_file():
        return 0
    servable = Servable(name, 0, engine)
    count = skipped = 0
    try:
        for record in _records(file):
            count += 1
            if count > MAX_RECORDS:
                raise ServingError(
                    "INVALID_ARGUMENT", f"{file} holds more than {MAX_RECORDS} warm-up requests"
                )
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if not _fits(log, engine):
                skipped += 1
            else:
                _run(servable, log)
    except ServingError as error:
        raise ServingError(error.code, f"warm-up request {count}: {error.message}") from error
    except (tf.errors.OpError, ValueError) as error:
        raise ServingError("DATA_LOSS", f"{file}, record {count + 1}: {error}") from error
    if skipped:
        _LOG.warning("%s: skipped %d requests that its .tflite file does not take", file, skipped)
    return count - skipped


def _fits(log: prediction_log_pb2.PredictionLog, engine: Engine) -> bool:
    """Whether the engine has the signature; a `.tflite` alone may lack it."""
    if engine.runtime != "TFLite" or len(engine.signatures) > 1:
        return True
    request = log.predict_log.request
    signature = engine.signatures.get(request.model_spec.signature_name or DEFAULT_SIGNATURE)
    return signature is not None and set(request.inputs) == set(signature.inputs)


def _records(file: Path) -> Iterator[bytes]:
    # Not tf.data, which traces a function each time and delays requests meanwhile.
    with quiet_tensorflow(tf):
        records = tf.compat.v1.io.tf_record_iterator(str(file))
    return iter(records)


def _run(servable: Servable, log: prediction_log_pb2.PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        inputs = {name: to_array(name, proto) for name, proto in request.inputs.items()}
        signature = request.model_spec.signature_name
        run_now(inference.predict(servable, signature, inputs, list(request.output_filter)))
    elif kind == "classify_log":
        request = log.classify_log.request
        run_now(inference.classify(servable, request.model_spec.signature_name, request.input))
    elif kind == "regress_log":
        request = log.regress_log.request
        run_now(inference.regress(servable, request.model_spec.signature_name, request.input))
    elif kind == "multi_inference_log":
        run_now(inference.multi_inference(servable, log.multi_inference_log.request))
    else:
        raise ServingError("UNIMPLEMENTED", f"log type {kind} cannot be replayed")
