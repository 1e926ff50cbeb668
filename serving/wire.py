"""TF Serving's gRPC messages without TensorFlow.

`tensorflow-serving-api` imports all of TensorFlow with its protos, which costs a client seconds
and gigabytes. The messages a client of images needs are declared here again, by field number, in a
descriptor pool of their own; the tests hold them against the real ones. Map fields are declared as
the entry messages they are on the wire. Two that the API package lacks, health and monitoring, are
here as well.
"""

from functools import cache
from math import prod
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "sightline.wire"
_Field = descriptor_pb2.FieldDescriptorProto

# message -> field -> (number, type, repeated); a type in capitals is one of these messages.
_MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Dim": {"size": (1, "int64", False)},
    "Shape": {"dim": (2, "Dim", True), "unknown_rank": (3, "bool", False)},
    "Tensor": {
        "dtype": (1, "int32", False),
        "tensor_shape": (2, "Shape", False),
        "tensor_content": (4, "bytes", False),
        "float_val": (5, "float", True),
        "double_val": (6, "double", True),
        "int_val": (7, "int32", True),
        "string_val": (8, "bytes", True),
        "int64_val": (10, "int64", True),
        "bool_val": (11, "bool", True),
        "uint32_val": (16, "uint32", True),
        "uint64_val": (17, "uint64", True),
    },
    "NamedTensor": {"key": (1, "string", False), "value": (2, "Tensor", False)},
    "Int64Value": {"value": (1, "int64", False)},
    "ModelSpec": {
        "name": (1, "string", False),
        "version": (2, "Int64Value", False),
        "signature_name": (3, "string", False),
        "version_label": (4, "string", False),
    },
    "PredictRequest": {
        "model_spec": (1, "ModelSpec", False),
        "inputs": (2, "NamedTensor", True),
        "output_filter": (3, "string", True),
    },
    "PredictResponse": {
        "outputs": (1, "NamedTensor", True),
        "model_spec": (2, "ModelSpec", False),
    },
    "GetModelStatusRequest": {"model_spec": (1, "ModelSpec", False)},
    "StatusProto": {"error_code": (1, "int32", False), "error_message": (2, "string", False)},
    "ModelVersionStatus": {
        "version": (1, "int64", False),
        "state": (2, "int32", False),
        "status": (3, "StatusProto", False),
    },
    "GetModelStatusResponse": {"model_version_status": (1, "ModelVersionStatus", True)},
    "HealthCheckRequest": {"service": (1, "string", False)},
    "HealthCheckResponse": {"status": (1, "int32", False)},
    "PrometheusConfig": {"enable": (1, "bool", False), "path": (2, "string", False)},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig", False)},
}

#: TensorFlow's DataType number -> (NumPy type, field that holds its values).
_DTYPES: dict[int, tuple[Any, str]] = {
    1: (np.float32, "float_val"),
    2: (np.float64, "double_val"),
    3: (np.int32, "int_val"),
    4: (np.uint8, "int_val"),
    5: (np.int16, "int_val"),
    6: (np.int8, "int_val"),
    9: (np.int64, "int64_val"),
    10: (np.bool_, "bool_val"),
    17: (np.uint16, "int_val"),
    22: (np.uint32, "uint32_val"),
    23: (np.uint64, "uint64_val"),
}
_DT_STRING = 7


def message(name: str) -> Any:
    """The class of a message, e.g. `message("PredictRequest")`."""
    return _classes()[name]


@cache
def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="sightline/wire.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for field_name, (number, kind, repeated) in fields.items():
            field = declared.field.add(name=field_name, number=number)
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind in _MESSAGES:
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
            else:
                field.type = getattr(_Field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptors = {name: pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _MESSAGES}
    if hasattr(message_factory, "GetMessageClass"):
        return {name: message_factory.GetMessageClass(d) for name, d in descriptors.items()}
    factory: Any = message_factory.MessageFactory(pool)  # protobuf before 4.22
    return {name: factory.GetPrototype(d) for name, d in descriptors.items()}


def to_tensor(array: np.ndarray) -> Any:
    """A `Tensor` message of any of the types above; object arrays hold bytes.

    Raises:
      ValueError: a type that has no place in a request.
    """
    tensor = message("Tensor")()
    for size in array.shape:
        tensor.tensor_shape.dim.add().size = size
    if array.dtype.kind in "OS":
        tensor.dtype = _DT_STRING
        tensor.string_val.extend(array.ravel().tolist())
        return tensor
    for number, (dtype, _) in _DTYPES.items():
        if array.dtype == dtype:
            tensor.dtype = number
            tensor.tensor_content = np.ascontiguousarray(array).tobytes()
            return tensor
    raise ValueError(f"cannot send an array of {array.dtype}")


def to_array(tensor: Any) -> np.ndarray:
    """The array of a `Tensor` message; strings become an object array of bytes.

    Raises:
      ValueError: a type not known here, or too few values.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == _DT_STRING:
        strings = np.empty(len(tensor.string_val), object)
        strings[:] = list(tensor.string_val)
        return strings.reshape(shape)
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"cannot read a tensor of DataType {tensor.dtype}")
    dtype, field = _DTYPES[tensor.dtype]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = np.array(getattr(tensor, field), dtype)
    if len(values) == 1:
        # TensorFlow writes equal values once.
        return np.full(shape, values[0], dtype)
    if len(values) != prod(shape):
        raise ValueError(f"{len(values)} values do not fill the shape {shape}")
    return values.reshape(shape)
