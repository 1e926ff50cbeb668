"""The gRPC client. It needs `grpcio` and `protobuf`, and imports no TensorFlow: `serving.wire`."""

import random
import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from serving import bundle as bundles
from serving import wire
from serving.client import ClientError
from serving.images import Image, encoded_image
from serving.types import (
    STATUS_CODES,
    VERSION_STATES,
    ModelVersion,
    Prediction,
    prediction_from_top,
)

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_FIRST_WAIT_S = 0.1
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


class GrpcClient:
    """Calls one server over gRPC; any thread may use it."""

    def __init__(self, target: str, *, timeout_s: float = 30.0, retries: int = 3) -> None:
        """Connects at the first call.

        Args:
          target: e.g. `127.0.0.1:8500`.
          timeout_s: for each try, sent along as the deadline.
          retries: after UNAVAILABLE and RESOURCE_EXHAUSTED, with growing waits.
        """
        self.target = target
        self._timeout_s = timeout_s
        self._retries = retries
        unlimited = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        self._channel = grpc.insecure_channel(target, options=unlimited)

    def predict(
        self,
        images: Sequence[Image],
        *,
        model: str,
        version: int | None = None,
        top_k: int | None = None,
    ) -> list[Prediction]:
        """One prediction an image; see `serving.client.Client.predict`.

        Raises:
          ClientError: with the server's reason.
          FileNotFoundError: a path to nothing.
        """
        if not images:
            return []
        coded = np.empty(len(images), object)
        coded[:] = [encoded_image(image) for image in images]
        outputs = self.run({"image_bytes": coded}, model=model, version=version)
        try:
            columns = zip(outputs["labels"], outputs["classes"], outputs["scores"], strict=True)
        except KeyError as error:
            raise ClientError(f"{model} does not answer as a classifier") from error
        return [
            prediction_from_top(
                [label.decode() for label in labels], classes.tolist(), scores.tolist(), top_k
            )
            for labels, classes, scores in columns
        ]

    def run(
        self,
        inputs: dict[str, np.ndarray],
        *,
        model: str,
        version: int | None = None,
        signature: str = bundles.SIGNATURE_BYTES,
    ) -> dict[str, np.ndarray]:
        """Any signature, arrays in and out; strings are object arrays of bytes.

        Raises:
          ClientError: with the server's reason.
        """
        request = wire.message("PredictRequest")()
        _fill_spec(request.model_spec, model, version)
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            entry = request.inputs.add(key=name)
            entry.value.CopyFrom(wire.to_tensor(array))
        answer = self._call(_PREDICT, request, wire.message("PredictResponse"))
        return {entry.key: wire.to_array(entry.value) for entry in answer.outputs}

    def status(self, model: str) -> list[ModelVersion]:
        """The model's versions that the server knows of, newest first.

        Raises:
          ClientError: no such model, or no server.
        """
        request = wire.message("GetModelStatusRequest")()
        _fill_spec(request.model_spec, model, None)
        answer = self._call(_STATUS, request, wire.message("GetModelStatusResponse"))
        return [_version(entry) for entry in answer.model_version_status]

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def __enter__(self) -> "GrpcClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _call(self, path: str, request: Any, answer: Any) -> Any:
        method = self._channel.unary_unary(
            path,
            request_serializer=_serialize,
            response_deserializer=answer.FromString,
        )
        for attempt in range(self._retries + 1):
            try:
                return method(request, timeout=self._timeout_s)
            except grpc.RpcError as error:
                code = error.code()  # type: ignore[attr-defined]
                if attempt == self._retries or code not in _RETRIED:
                    details = error.details()  # type: ignore[attr-defined]
                    raise ClientError(f"{self.target}: {details}", code.name) from error
            time.sleep(_FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.5))
        raise AssertionError("the last attempt returns or raises")


def _fill_spec(spec: Any, model: str, version: int | None) -> None:
    spec.name = model
    if version is not None:
        spec.version.value = version


def _version(entry: Any) -> ModelVersion:
    code = STATUS_CODES[entry.status.error_code]
    return ModelVersion(
        version=entry.version,
        state=VERSION_STATES[entry.state],
        error="" if code == "OK" else f"{code}: {entry.status.error_message}",
    )


def _serialize(message: Any) -> bytes:
    return message.SerializeToString()
