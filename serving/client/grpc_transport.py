"""TF Serving's gRPC API; needs `grpcio` and `protobuf`, and does not import TensorFlow."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from core import bundle as bundles
from serving.client.address import Address, Tls, grpc_proxy_options
from serving.client.api import Columns, Example, ModelSpec, Steps
from serving.client.errors import DEADLINE_EXCEEDED, ClientError, Failure
from serving.client.retry import CONNECT_TIMEOUT_S, finite
from serving.protocol import wire
from serving.protocol.types import DATA_TYPES, STATUS_CODES, VERSION_STATES, ModelVersion

_PREDICTION = "/tensorflow.serving.PredictionService/"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_DTYPE_NAMES = {number: name for number, name, _ in DATA_TYPES}
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Only `retry.Tries` retries.
    ("grpc.enable_retries", 0),
    # Reconnect as often as `retry.Tries` waits; gRPC's own back-off starts at a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name, this is the timeout of one connection attempt; a busy server may need more
    # than a second for its half of the handshake.
    ("grpc.min_reconnect_backoff_ms", round(1000 * CONNECT_TIMEOUT_S)),
    # Each client of a process has its own connection.
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class GrpcRequest:
    """A request message and the class of its response."""

    method: str
    message: Any
    response_type: Any


class GrpcApi:
    """`serving.client.api.Api` over gRPC messages."""

    def images(self, encoded: list[bytes], spec: ModelSpec, signature: str) -> Steps[Columns]:
        """Sends the images as the input `image_bytes`."""
        array = np.empty(len(encoded), object)
        array[:] = encoded
        return (yield from self.run({bundles.INPUT_BYTES: array}, spec, signature))

    def run(
        self, inputs: Mapping[str, np.ndarray], spec: ModelSpec, signature: str
    ) -> Steps[dict[str, np.ndarray]]:
        """Sends values as bytes; the server chooses the encoding of the response."""
        request = _message("PredictRequest", spec, signature)
        wire.fill_inputs(request, inputs)
        response = yield GrpcRequest(
            f"{_PREDICTION}Predict", request, wire.message("PredictResponse")
        )
        try:
            return {entry.key: wire.to_array(entry.value) for entry in response.outputs}
        except ValueError as error:
            raise ClientError(f"{spec}: {error}") from error

    def classify(
        self, examples: Sequence[Example], spec: ModelSpec, signature: str
    ) -> Steps[list[list[tuple[str, float]]]]:
        """Scores are transferred as float32."""
        request = _examples(examples, spec, signature)
        response = yield GrpcRequest(
            f"{_PREDICTION}Classify", request, wire.message("ClassificationResponse")
        )
        return [
            [(entry.label, entry.score) for entry in one.classes]
            for one in response.result.classifications
        ]

    def regress(
        self, examples: Sequence[Example], spec: ModelSpec, signature: str
    ) -> Steps[np.ndarray]:
        """(B,) float32."""
        request = _examples(examples, spec, signature)
        response = yield GrpcRequest(
            f"{_PREDICTION}Regress", request, wire.message("RegressionResponse")
        )
        return np.array([entry.value for entry in response.result.regressions], np.float32)

    def status(self, spec: ModelSpec) -> Steps[list[ModelVersion]]:
        """In the server's order."""
        request = _message("GetModelStatusRequest", spec)
        response = yield GrpcRequest(_STATUS, request, wire.message("GetModelStatusResponse"))
        return [_version(entry) for entry in response.model_version_status]

    def metadata(self, spec: ModelSpec) -> Steps[dict[str, Any]]:
        """The message in the format of the REST API."""
        request = _message("GetModelMetadataRequest", spec)
        request.metadata_field.append("signature_def")
        response = yield GrpcRequest(
            f"{_PREDICTION}GetModelMetadata", request, wire.message("GetModelMetadataResponse")
        )
        packed = {entry.key: entry.value.value for entry in response.metadata}
        found = wire.message("SignatureDefMap").FromString(packed.get("signature_def", b""))
        signatures = {entry.key: _signature(entry.value) for entry in found.signature_def}
        model_spec = {
            "name": response.model_spec.name,
            "signature_name": response.model_spec.signature_name,
            "version": str(response.model_spec.version.value),
        }
        return {
            "model_spec": model_spec,
            "metadata": {"signature_def": {"signature_def": signatures}},
        }


def _options(target: str) -> list[tuple[str, int]]:
    return [*_OPTIONS, *grpc_proxy_options(target)]


class GrpcTransport:
    """Sends a `GrpcRequest` once; calls from all threads share one connection."""

    def __init__(self, address: Address, tls: Tls, headers: Mapping[str, str]) -> None:
        self._url = address.url
        self._metadata = _metadata(headers)
        credentials = _credentials(address, tls)
        if credentials is None:
            self._channel = grpc.insecure_channel(address.target, options=_options(address.target))
        else:
            options = _options(address.target)
            self._channel = grpc.secure_channel(address.target, credentials, options=options)

    def send(self, request: GrpcRequest, timeout_s: float) -> Any:
        """The response; `timeout_s` is sent to the server as the deadline.

        Raises:
          Failure: no response, or an error response.
        """
        try:
            method = _method(self._channel, request)
            return method(request.message, timeout=finite(timeout_s), metadata=self._metadata)
        except grpc.RpcError as error:
            raise failure_of(error, self._url, timeout_s) from error
        except ValueError as error:
            # gRPC raises it once the channel is closed.
            raise ClientError(f"this client is closed: {error}") from error

    def close(self) -> None:
        """Closes the connection; calls in progress fail."""
        self._channel.close()


class AioGrpcTransport:
    """`GrpcTransport` for asyncio, bound to the event loop of its first use."""

    def __init__(self, address: Address, tls: Tls, headers: Mapping[str, str]) -> None:
        self._address = address
        self._metadata = _metadata(headers)
        self._credentials = _credentials(address, tls)
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    async def send(self, request: GrpcRequest, timeout_s: float) -> Any:
        """See `GrpcTransport.send`; cancelling the task cancels the call on the server.

        Raises:
          Failure: no response, or an error response.
        """
        method = _method(self._opened(), request)
        try:
            return await method(request.message, timeout=finite(timeout_s), metadata=self._metadata)
        except grpc.RpcError as error:
            raise failure_of(error, self._address.url, timeout_s) from error
        except grpc.aio.UsageError as error:
            raise ClientError(f"this client is closed: {error}") from error

    async def close(self) -> None:
        """Closes the connection and cancels calls in progress."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    def _opened(self) -> grpc.aio.Channel:
        if self._closed:
            raise ClientError("this client is closed")
        if self._channel is None:
            # Not in __init__, because a channel is bound to the running loop.
            asyncio.get_running_loop()
            target = self._address.target
            self._channel = (
                grpc.aio.insecure_channel(target, options=_options(target))
                if self._credentials is None
                else grpc.aio.secure_channel(target, self._credentials, options=_options(target))
            )
        return self._channel


def failure_of(error: Any, url: str, timeout_s: float) -> Failure:
    """The failure of a call, and whether to retry it.

    UNAVAILABLE is retried, and RESOURCE_EXHAUSTED if the server names a wait: a full queue empties,
    but a message over the size limit stays over it.
    """
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(f"no response from {url} within {timeout_s:.3g} s", DEADLINE_EXCEEDED)
    refused, wait_s = _pushback(error.trailing_metadata() or ())
    busy = code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait_s is not None
    again = not refused and (code is grpc.StatusCode.UNAVAILABLE or busy)
    return Failure(f"{url}: {details}", code.name, again=again, wait_s=wait_s)


def _pushback(trailers: Any) -> tuple[bool, float | None]:
    """(whether the server forbids a retry, seconds to wait before it or None)."""
    found = dict(trailers)
    pushback = found.get("grpc-retry-pushback-ms")
    if pushback is not None:
        # gRFC A6: a negative or invalid value forbids retries.
        return (False, int(pushback) / 1000) if str(pushback).isdigit() else (True, None)
    after = str(found.get("retry-after", ""))
    if after.isdigit():
        return False, float(after)
    status = found.get("grpc-status-details-bin")
    if status is not None:
        for detail in wire.message("RpcStatus").FromString(status).details:
            if detail.type_url.endswith("/google.rpc.RetryInfo"):
                delay = wire.message("RetryInfo").FromString(detail.value).retry_delay
                return False, delay.seconds + delay.nanos / 1e9
    return False, None


def _method(channel: Any, request: GrpcRequest) -> Any:
    return channel.unary_unary(
        request.method,
        request_serializer=_serialize,
        response_deserializer=request.response_type.FromString,
    )


def _serialize(message: Any) -> bytes:
    return message.SerializeToString()


def _metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in headers.items())


def _credentials(address: Address, tls: Tls) -> grpc.ChannelCredentials | None:
    if not address.secure:
        return None
    roots, key, certificate = (
        None if path is None else Path(path).read_bytes()
        for path in (tls.roots, tls.key, tls.certificate)
    )
    return grpc.ssl_channel_credentials(roots, key, certificate)


def _message(name: str, spec: ModelSpec, signature: str = "") -> Any:
    return wire.model_request(
        name,
        spec.model,
        signature=signature,
        version=spec.version,
        label=spec.label,
    )


def _examples(examples: Sequence[Example], spec: ModelSpec, signature: str) -> Any:
    request = _message("ExamplesRequest", spec, signature)
    encoded = [one if isinstance(one, bytes) else wire.to_example(one) for one in examples]
    request.input.example_list.examples.extend(encoded)
    return request


def _signature(entry: Any) -> dict[str, Any]:
    return {
        "inputs": {item.key: _tensor_info(item.value) for item in entry.inputs},
        "outputs": {item.key: _tensor_info(item.value) for item in entry.outputs},
        "method_name": entry.method_name,
    }


def _tensor_info(entry: Any) -> dict[str, Any]:
    shape = entry.tensor_shape
    return {
        "dtype": _DTYPE_NAMES.get(entry.dtype, f"DataType {entry.dtype}"),
        "tensor_shape": {
            "dim": [{"size": str(dim.size), "name": ""} for dim in shape.dim],
            "unknown_rank": shape.unknown_rank,
        },
        "name": entry.name,
    }


def _version(entry: Any) -> ModelVersion:
    code = entry.status.error_code
    name = STATUS_CODES[code] if code < len(STATUS_CODES) else f"code {code}"
    return ModelVersion(
        version=entry.version,
        state=VERSION_STATES.get(entry.state, f"state {entry.state}"),
        error="" if code == 0 else f"{name}: {entry.status.error_message}",
    )
