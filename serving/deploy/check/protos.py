"""TF Serving's text configuration files, parsed with their real field names and types.

`ModelServerConfig` comes from `tensorflow-serving-api`, whose configuration part needs no
TensorFlow. The other three are in no package, so they are declared here; a text file holds names,
not numbers, and so only names and types matter.
"""

from functools import cache
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

from serving.deploy.check.findings import CheckError

_PACKAGE = "sightline.deploy"
_Field = descriptor_pb2.FieldDescriptorProto
_INT64 = ".google.protobuf.Int64Value"
_BOOL = ".google.protobuf.BoolValue"
_STRING = ".google.protobuf.StringValue"

# message -> field -> (type, repeated); a type with a dot is a message.
_MESSAGES: dict[str, dict[str, tuple[str, bool]]] = {
    "BatchingParameters": {
        "max_batch_size": (_INT64, False),
        "batch_timeout_micros": (_INT64, False),
        "max_enqueued_batches": (_INT64, False),
        "num_batch_threads": (_INT64, False),
        "thread_pool_name": (_STRING, False),
        "allowed_batch_sizes": ("int64", True),
        "pad_variable_length_inputs": ("bool", False),
        "enable_large_batch_splitting": (_BOOL, False),
        "max_execution_batch_size": (_INT64, False),
    },
    "PrometheusConfig": {"enable": ("bool", False), "path": ("string", False)},
    "MonitoringConfig": {"prometheus_config": (f".{_PACKAGE}.PrometheusConfig", False)},
    "SSLConfig": {
        "server_key": ("string", False),
        "server_cert": ("string", False),
        "custom_ca": ("string", False),
        "client_verify": ("bool", False),
    },
}


def parse(name: str, text: str) -> Any:
    """The message `name` that the text holds.

    Args:
      name: `ModelServerConfig`, `BatchingParameters`, `MonitoringConfig` or `SSLConfig`.
      text: in protobuf's text format.

    Raises:
      ValueError: the text is no such message; says the line and the column.
      CheckError: the API package is not installed.
    """
    message = _message_class(name)()
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ValueError(str(error).replace(f"{_PACKAGE}.", "")) from error


def _message_class(name: str) -> Any:
    if name != "ModelServerConfig":
        return _classes()[name]
    try:
        from tensorflow_serving.config import model_server_config_pb2
    except ModuleNotFoundError as error:
        raise CheckError(
            f"cannot read a ModelServerConfig: {error}; install `sightline[deploy]`"
        ) from error
    return model_server_config_pb2.ModelServerConfig


@cache
def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="sightline/deploy.proto", package=_PACKAGE, syntax="proto3"
    )
    file.dependency.append("google/protobuf/wrappers.proto")
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for number, (field_name, (kind, repeated)) in enumerate(fields.items(), 1):
            field = declared.field.add(name=field_name, number=number)
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind.startswith("."):
                field.type, field.type_name = _Field.TYPE_MESSAGE, kind
            else:
                field.type = getattr(_Field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    descriptors = {name: pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _MESSAGES}
    if hasattr(message_factory, "GetMessageClass"):
        return {name: message_factory.GetMessageClass(d) for name, d in descriptors.items()}
    factory: Any = message_factory.MessageFactory(pool)  # protobuf before 4.22
    return {name: factory.GetPrototype(d) for name, d in descriptors.items()}
