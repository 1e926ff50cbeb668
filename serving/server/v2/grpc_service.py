"""The protocol over gRPC: `inference.GRPCInferenceService`."""

from collections.abc import Callable
from functools import cache
from typing import Any

import grpc

from serving.engines.saved_model import DEFAULT_SIGNATURE
from serving.protocol.declare import Table, declare
from serving.server.errors import invalid
from serving.server.grpc.methods import (
    CallThreads,
    Method,
    call_headers,
    reporting_errors,
    time_left,
    unary_service,
)
from serving.server.v2 import tensors
from serving.server.v2.service import (
    SIGNATURE_PARAMETER,
    InferCall,
    InferRequest,
    InferResponse,
    OpenInference,
)

SERVICE = "inference.GRPCInferenceService"

_MODEL_REQUEST = {"name": (1, "string", False), "version": (2, "string", False)}
_TENSOR = {
    "name": (1, "string", False),
    "datatype": (2, "string", False),
    "shape": (3, "int64", True),
    "parameters": (4, "NamedParameter", True),
    "contents": (5, "InferTensorContents", False),
}

_MESSAGES: Table = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool", False)},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool", False)},
    "ModelReadyRequest": _MODEL_REQUEST,
    "ModelReadyResponse": {"ready": (1, "bool", False)},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": (1, "string", False),
        "version": (2, "string", False),
        "extensions": (3, "string", True),
    },
    "ModelMetadataRequest": _MODEL_REQUEST,
    "TensorMetadata": {
        "name": (1, "string", False),
        "datatype": (2, "string", False),
        "shape": (3, "int64", True),
    },
    "ModelMetadataResponse": {
        "name": (1, "string", False),
        "versions": (2, "string", True),
        "platform": (3, "string", False),
        "inputs": (4, "TensorMetadata", True),
        "outputs": (5, "TensorMetadata", True),
    },
    "InferParameter": {
        "bool_param": (1, "bool", False),
        "int64_param": (2, "int64", False),
        "string_param": (3, "string", False),
        "double_param": (4, "double", False),
        "uint64_param": (5, "uint64", False),
    },
    "NamedParameter": {"key": (1, "string", False), "value": (2, "InferParameter", False)},
    "InferTensorContents": {
        "bool_contents": (1, "bool", True),
        "int_contents": (2, "int32", True),
        "int64_contents": (3, "int64", True),
        "uint_contents": (4, "uint32", True),
        "uint64_contents": (5, "uint64", True),
        "fp32_contents": (6, "float", True),
        "fp64_contents": (7, "double", True),
        "bytes_contents": (8, "bytes", True),
    },
    "InferInputTensor": _TENSOR,
    "InferOutputTensor": _TENSOR,
    "InferRequestedOutputTensor": {
        "name": (1, "string", False),
        "parameters": (2, "NamedParameter", True),
    },
    "ModelInferRequest": {
        "model_name": (1, "string", False),
        "model_version": (2, "string", False),
        "id": (3, "string", False),
        "parameters": (4, "NamedParameter", True),
        "inputs": (5, "InferInputTensor", True),
        "outputs": (6, "InferRequestedOutputTensor", True),
        "raw_input_contents": (7, "bytes", True),
    },
    "ModelInferResponse": {
        "model_name": (1, "string", False),
        "model_version": (2, "string", False),
        "id": (3, "string", False),
        "parameters": (4, "NamedParameter", True),
        "outputs": (5, "InferOutputTensor", True),
        "raw_output_contents": (6, "bytes", True),
    },
}


def message(name: str) -> Any:
    """The class of a message, e.g. `message("ModelInferRequest")`."""
    return _classes()[name]


@cache
def _classes() -> dict[str, Any]:
    return declare("sightline.open_inference", _MESSAGES)


def open_inference_handler(service: OpenInference, threads: CallThreads) -> grpc.GenericRpcHandler:
    """The service, for `server.add_generic_rpc_handlers`."""

    def infer(request: Any, context: Any) -> Any:
        call = InferCall(
            request.model_name,
            request.model_version,
            read=lambda: _read(request),
            write=lambda _, response: _write(response, raw=bool(request.raw_input_contents)),
        )
        return service.infer_here(
            call,
            headers=call_headers(context),
            timeout=time_left(context),
            on_disconnect=context.add_callback,
        )

    queries = {
        "ServerLive": lambda request: message("ServerLiveResponse")(live=True),
        "ServerReady": lambda request: message("ServerReadyResponse")(ready=service.server_ready()),
        "ModelReady": lambda request: message("ModelReadyResponse")(
            ready=service.model_ready(request.name, request.version)
        ),
        "ServerMetadata": lambda request: _server_metadata(service),
        "ModelMetadata": lambda request: message("ModelMetadataResponse")(
            **service.model_metadata(request.name, request.version)
        ),
    }
    methods = {
        name: (threads.quick(_of_request(query)), message(f"{name}Request"))
        for name, query in queries.items()
    }
    methods["ModelInfer"] = (reporting_errors(infer), message("ModelInferRequest"))
    return unary_service(SERVICE, methods, threads)


def _of_request(query: Callable[[Any], Any]) -> Method:
    return reporting_errors(lambda request, context: query(request))


def _server_metadata(service: OpenInference) -> Any:
    name, version, extensions = service.server_metadata()
    return message("ServerMetadataResponse")(name=name, version=version, extensions=extensions)


def _read(request: Any) -> InferRequest:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise invalid(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    inputs = {}
    for index, entry in enumerate(request.inputs):
        if entry.name in inputs:
            raise invalid(f"input {entry.name!r} is given twice")
        inputs[entry.name] = _array(entry, raw[index] if raw else None)
    parameters = {entry.key: entry.value for entry in request.parameters}
    signature = parameters.get(SIGNATURE_PARAMETER)
    return InferRequest(
        inputs=inputs,
        outputs=tuple(output.name for output in request.outputs),
        signature=DEFAULT_SIGNATURE if signature is None else signature.string_param,
        id=request.id,
    )


def _array(entry: Any, raw: bytes | None) -> Any:
    shape = list(entry.shape)
    if raw is not None:
        return tensors.from_raw(entry.name, entry.datatype, shape, raw)
    tensors.check_tensor(entry.name, entry.datatype, shape)
    field = tensors.CONTENTS.get(entry.datatype)
    if field is None:
        raise invalid(f"input {entry.name!r}: {entry.datatype} travels in raw_input_contents only")
    values = getattr(entry.contents, field)
    return tensors.from_values(entry.name, entry.datatype, shape, values)


def _write(response: InferResponse, *, raw: bool) -> Any:
    """The message, raw if the request was raw, or for FP16, which has no typed form."""
    written = message("ModelInferResponse")(
        model_name=response.model, model_version=str(response.version), id=response.id
    )
    types = {name: tensors.datatype_of(array) for name, array in response.outputs.items()}
    raw = raw or "FP16" in types.values()
    for name, array in response.outputs.items():
        output = written.outputs.add(name=name, datatype=types[name], shape=array.shape)
        if raw:
            written.raw_output_contents.append(tensors.to_raw(array))
        else:
            field = getattr(output.contents, tensors.CONTENTS[types[name]])
            field.extend(tensors.to_values(array))
    return written
