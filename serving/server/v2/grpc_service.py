"""The protocol over gRPC: `inference.GRPCInferenceService`."""

from collections.abc import Callable
from typing import Any

import grpc

from serving.engines.saved_model import DEFAULT_SIGNATURE
from serving.server.errors import invalid
from serving.server.grpc.methods import (
    Behavior,
    CallThreads,
    call_headers,
    refusing,
    time_left,
    unary_service,
)
from serving.server.v2 import tensors
from serving.server.v2.messages import SERVICE, message
from serving.server.v2.service import (
    SIGNATURE_PARAMETER,
    InferAnswer,
    InferCall,
    InferRequest,
    OpenInference,
    TensorMetadata,
)


def open_inference_handler(service: OpenInference, threads: CallThreads) -> grpc.GenericRpcHandler:
    """The service, for `server.add_generic_rpc_handlers`."""

    def infer(request: Any, context: Any) -> Any:
        call = InferCall(
            request.model_name,
            request.model_version,
            read=lambda: _read(request),
            write=lambda asked, answer: _write(answer, raw=bool(request.raw_input_contents)),
        )
        return service.infer_here(
            call,
            headers=call_headers(context),
            timeout=time_left(context),
            on_gone=context.add_callback,
        )

    answers = {
        "ServerLive": lambda request: message("ServerLiveResponse")(live=True),
        "ServerReady": lambda request: message("ServerReadyResponse")(ready=service.server_ready()),
        "ModelReady": lambda request: message("ModelReadyResponse")(
            ready=service.model_ready(request.name, request.version)
        ),
        "ServerMetadata": lambda request: _server_metadata(service),
        "ModelMetadata": lambda request: _model_metadata(service, request),
    }
    methods = {
        name: (threads.at_once(_of_request(answer)), message(f"{name}Request"))
        for name, answer in answers.items()
    }
    methods["ModelInfer"] = (refusing(infer), message("ModelInferRequest"))
    return unary_service(SERVICE, methods, threads)


def _of_request(answer: Callable[[Any], Any]) -> Behavior:
    return refusing(lambda request, context: answer(request))


def _server_metadata(service: OpenInference) -> Any:
    name, version, extensions = service.server_metadata()
    return message("ServerMetadataResponse")(name=name, version=version, extensions=extensions)


def _model_metadata(service: OpenInference, request: Any) -> Any:
    model = service.model_metadata(request.name, request.version)
    return message("ModelMetadataResponse")(
        name=model.name,
        versions=model.versions,
        platform=model.platform,
        inputs=[_tensor(tensor) for tensor in model.inputs],
        outputs=[_tensor(tensor) for tensor in model.outputs],
    )


def _tensor(tensor: TensorMetadata) -> Any:
    return message("TensorMetadata")(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


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


def _write(answer: InferAnswer, *, raw: bool) -> Any:
    """The answer, raw if the request was; half precision has no other form, and mixing has none."""
    response = message("ModelInferResponse")(
        model_name=answer.model, model_version=str(answer.version), id=answer.id
    )
    types = {name: tensors.datatype_of(array) for name, array in answer.outputs.items()}
    raw = raw or "FP16" in types.values()
    for name, array in answer.outputs.items():
        output = response.outputs.add(name=name, datatype=types[name], shape=array.shape)
        if raw:
            response.raw_output_contents.append(tensors.to_raw(array))
        else:
            field = getattr(output.contents, tensors.CONTENTS[types[name]])
            field.extend(tensors.to_values(array))
    return response
