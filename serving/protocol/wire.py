"""TF Serving's gRPC messages without TensorFlow.

The protos of `tensorflow-serving-api` import all of TensorFlow, which takes a client seconds and
gigabytes. The messages that an image client needs are declared here by field number, in a separate
descriptor pool; tests compare them with the original ones. Map fields are declared as their entry
messages. The health messages, which the API package lacks, are also here.
"""

from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any

import numpy as np

from serving.protocol.declare import Table, declare
from serving.protocol.types import DATA_TYPES

_MESSAGES: Table = {
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
        "scomplex_val": (9, "float", True),
        "int64_val": (10, "int64", True),
        "bool_val": (11, "bool", True),
        "dcomplex_val": (12, "double", True),
        "half_val": (13, "int32", True),
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
    # A tf.Example is a bytes field here, which is equal to a message field on the wire.
    "ExampleList": {"examples": (1, "bytes", True)},
    "Input": {"example_list": (1, "ExampleList", False)},
    "ExamplesRequest": {
        "model_spec": (1, "ModelSpec", False),
        "input": (2, "Input", False),
    },
    "Class": {"label": (1, "string", False), "score": (2, "float", False)},
    "Classifications": {"classes": (1, "Class", True)},
    "ClassificationResult": {"classifications": (1, "Classifications", True)},
    "ClassificationResponse": {"result": (1, "ClassificationResult", False)},
    "Regression": {"value": (1, "float", False)},
    "RegressionResult": {"regressions": (1, "Regression", True)},
    "RegressionResponse": {"result": (1, "RegressionResult", False)},
    "BytesList": {"value": (1, "bytes", True)},
    "FloatList": {"value": (1, "float", True)},
    "Int64List": {"value": (1, "int64", True)},
    "Feature": {
        "bytes_list": (1, "BytesList", False),
        "float_list": (2, "FloatList", False),
        "int64_list": (3, "Int64List", False),
    },
    "NamedFeature": {"key": (1, "string", False), "value": (2, "Feature", False)},
    "Features": {"feature": (1, "NamedFeature", True)},
    "Example": {"features": (1, "Features", False)},
    "Any": {"type_url": (1, "string", False), "value": (2, "bytes", False)},
    "NamedAny": {"key": (1, "string", False), "value": (2, "Any", False)},
    "GetModelMetadataRequest": {
        "model_spec": (1, "ModelSpec", False),
        "metadata_field": (2, "string", True),
    },
    "GetModelMetadataResponse": {
        "model_spec": (1, "ModelSpec", False),
        "metadata": (2, "NamedAny", True),
    },
    "TensorInfo": {
        "name": (1, "string", False),
        "dtype": (2, "int32", False),
        "tensor_shape": (3, "Shape", False),
    },
    "NamedTensorInfo": {"key": (1, "string", False), "value": (2, "TensorInfo", False)},
    "SignatureDef": {
        "inputs": (1, "NamedTensorInfo", True),
        "outputs": (2, "NamedTensorInfo", True),
        "method_name": (3, "string", False),
    },
    "NamedSignatureDef": {"key": (1, "string", False), "value": (2, "SignatureDef", False)},
    "SignatureDefMap": {"signature_def": (1, "NamedSignatureDef", True)},
    "Duration": {"seconds": (1, "int64", False), "nanos": (2, "int32", False)},
    "RetryInfo": {"retry_delay": (1, "Duration", False)},
    "RpcStatus": {"details": (3, "Any", True)},
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
}

#: Field of a `Tensor` -> the types of its values.
_FIELDS = {
    "float_val": ("DT_FLOAT",),
    "double_val": ("DT_DOUBLE",),
    "int_val": ("DT_INT32", "DT_UINT8", "DT_INT16", "DT_INT8", "DT_UINT16"),
    "int64_val": ("DT_INT64",),
    "bool_val": ("DT_BOOL",),
    "uint32_val": ("DT_UINT32",),
    "uint64_val": ("DT_UINT64",),
    "half_val": ("DT_HALF",),
    "scomplex_val": ("DT_COMPLEX64",),
    "dcomplex_val": ("DT_COMPLEX128",),
}
_FIELD_OF = {name: field for field, names in _FIELDS.items() for name in names}
#: TensorFlow's DataType number -> (NumPy type, field of the values).
_DTYPES: dict[int, tuple[Any, str]] = {
    number: (dtype, _FIELD_OF[name]) for number, name, dtype in DATA_TYPES if name in _FIELD_OF
}
_DT_STRING = 7


def message(name: str) -> Any:
    """The class of a message, e.g. `message("PredictRequest")`."""
    return _classes()[name]


@cache
def _classes() -> dict[str, Any]:
    return declare("sightline.wire", _MESSAGES)


def model_request(
    name: str,
    model: str,
    *,
    signature: str = "",
    version: int | None = None,
    label: str | None = None,
) -> Any:
    """A request message for a model.

    Args:
      name: of a message with a `model_spec`, e.g. `PredictRequest`.
      model: model name.
      signature: empty is the server's default.
      version: model version; None without `label` is the newest.
      label: version label, instead of `version`.
    """
    request = message(name)()
    spec = request.model_spec
    spec.name, spec.signature_name = model, signature
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label
    return request


def fill_inputs(request: Any, inputs: Mapping[str, np.ndarray]) -> None:
    """Writes arrays into the inputs of a `PredictRequest`; see `fill_tensor`.

    Raises:
      ValueError: the type cannot be sent; the message has the input.
    """
    for name, array in inputs.items():
        try:
            fill_tensor(request.inputs.add(key=name).value, array)
        except ValueError as error:
            raise ValueError(f"input {name!r}: {error}") from error


def fill_tensor(tensor: Any, array: np.ndarray) -> None:
    """Writes an array into an empty `Tensor` message; object arrays have bytes or text.

    Raises:
      ValueError: the type cannot be sent.
    """
    for size in array.shape:
        tensor.tensor_shape.dim.add().size = size
    if array.dtype.kind in "OSU":
        tensor.dtype = _DT_STRING
        tensor.string_val.extend(_encoded(value) for value in array.ravel().tolist())
        return
    for number, (dtype, _) in _DTYPES.items():
        if array.dtype == dtype:
            tensor.dtype = number
            # Little-endian, like all TensorFlow wheels.
            tensor.tensor_content = np.ascontiguousarray(array).tobytes()
            return
    raise ValueError(f"cannot send an array of {array.dtype}")


def _encoded(value: Any) -> bytes:
    if isinstance(value, (bytes, str)):
        return value.encode() if isinstance(value, str) else value
    raise ValueError(f"an object array holds bytes or text, got {type(value).__name__}")


def to_array(tensor: Any) -> np.ndarray:
    """The array of a `Tensor` message, writable; strings become an object array of bytes.

    As in TensorFlow, the last value fills missing ones, and 0 fills an empty list.

    Raises:
      ValueError: an unsupported type, or values that do not fit the shape.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == _DT_STRING:
        strings = np.empty(len(tensor.string_val), object)
        strings[:] = list(tensor.string_val)
        return _filled(strings, shape, b"")
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"cannot read a tensor of DataType {tensor.dtype}")
    dtype, field = _DTYPES[tensor.dtype]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape).copy()
    return _filled(_typed_values(getattr(tensor, field), dtype), shape, dtype())


def _typed_values(values: Any, dtype: Any) -> np.ndarray:
    if dtype is np.float16:
        return np.array(values, np.uint16).view(np.float16)
    if dtype in (np.complex64, np.complex128):
        # Real and imaginary parts alternate.
        return np.array(values, dtype(0).real.dtype).view(dtype)
    return np.array(values, dtype)


def _filled(values: np.ndarray, shape: list[int], default: Any) -> np.ndarray:
    count = prod(shape)
    if len(values) == count:
        return values.reshape(shape)
    if len(values) > count:
        raise ValueError(f"{len(values)} values do not fit the shape {shape}")
    array = np.full(count, values[-1] if len(values) else default, values.dtype)
    array[: len(values)] = values
    return array.reshape(shape)


def to_example(features: Mapping[str, Any]) -> bytes:
    """A serialized tf.Example.

    Args:
      features: name -> value or flat list of values: bytes or text, integers (bool too), or
        floats; an array is flattened.

    Raises:
      ValueError: values of unsupported or mixed types.
    """
    example = message("Example")()
    for name, value in features.items():
        values = np.ravel(value).tolist() if isinstance(value, np.ndarray) else value
        if not isinstance(values, (list, tuple)):
            values = [values]
        feature = example.features.feature.add(key=name).value
        _fill_feature(feature, name, [v.item() if isinstance(v, np.generic) else v for v in values])
    return example.SerializeToString()


def example_strings(serialized: bytes, name: str) -> list[bytes]:
    """The byte strings of a feature in a serialized tf.Example, of all entries with its name.

    Raises:
      ValueError: not a tf.Example.
    """
    try:
        example = message("Example").FromString(serialized)
    except Exception as error:
        # The class of protobuf's DecodeError depends on the implementation.
        raise ValueError(f"not a tf.Example: {error}") from error
    entries = [entry.value for entry in example.features.feature if entry.key == name]
    return [value for feature in entries for value in feature.bytes_list.value]


def _fill_feature(feature: Any, name: str, values: list[Any]) -> None:
    if not values:
        feature.SetInParent()
    elif all(isinstance(value, (bytes, str)) for value in values):
        feature.bytes_list.value.extend(_encoded(value) for value in values)
    elif all(isinstance(value, int) for value in values):
        feature.int64_list.value.extend(map(int, values))  # Protobuf 6 does not accept bool here.
    elif all(isinstance(value, float) for value in values):
        feature.float_list.value.extend(values)
    else:
        kinds = sorted({type(value).__name__ for value in values})
        raise ValueError(
            f"feature {name!r} holds {' and '.join(kinds)}; it may hold text or bytes, "
            "integers, or floats, and only one of them"
        )
