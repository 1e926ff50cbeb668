"""The protocol's gRPC messages, by the field numbers of its published specification.

Written down from kserve/open-inference-protocol, `open_inference_grpc.proto`; the tests hold them
against bytes put together by hand.
"""

from functools import cache
from typing import Any

from serving.protocol.declare import Table, declare

SERVICE = "inference.GRPCInferenceService"

_MODEL_QUESTION = {"name": (1, "string", False), "version": (2, "string", False)}
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
    "ModelReadyRequest": _MODEL_QUESTION,
    "ModelReadyResponse": {"ready": (1, "bool", False)},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": (1, "string", False),
        "version": (2, "string", False),
        "extensions": (3, "string", True),
    },
    "ModelMetadataRequest": _MODEL_QUESTION,
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
