"""TF Serving's `BatchingParameters` files: the server's, and the one in a version's folder."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from serving.server.batching import PER_MODEL_FILE, BatchingOptions
from serving.server.errors import ServerError

_Field = descriptor_pb2.FieldDescriptorProto

# The API package lacks this message. Field -> (number, type, whether it is `{ value: ... }`).
_FIELDS = {
    "max_batch_size": (1, "int64", True),
    "batch_timeout_micros": (2, "int64", True),
    "max_enqueued_batches": (3, "int64", True),
    "num_batch_threads": (4, "int64", True),
    "thread_pool_name": (5, "string", True),
    "allowed_batch_sizes": (6, "int64", False),
    "pad_variable_length_inputs": (7, "bool", False),
    "enable_large_batch_splitting": (8, "bool", True),
    "max_execution_batch_size": (9, "int64", True),
}
_REPEATED = "allowed_batch_sizes"

#: Rows of one run with `--adaptive_batching`, unless a parameters file says otherwise.
_ADAPTIVE_BATCH_SIZE = 32


def read_batching_options(file: Path) -> BatchingOptions:
    """The options in a text `BatchingParameters`, TF Serving's defaults for what it leaves out.

    Raises:
      ServerError: no such file, it is not one, or its values do not fit together.
    """
    parameters = _message_class()()
    try:
        text_format.Parse(file.read_text(encoding="utf-8"), parameters)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ServerError(f"{file} is not a BatchingParameters: {error}") from error
    given: dict[str, Any] = {_REPEATED: tuple(parameters.allowed_batch_sizes)}
    for name, (_, _, wrapped) in _FIELDS.items():
        value = getattr(parameters, name)
        if wrapped and parameters.HasField(name):
            given[name] = value.value
        elif not wrapped and name != _REPEATED:
            given[name] = value
    try:
        return BatchingOptions(**given)
    except ServerError as error:
        raise ServerError(f"{file}: {error}") from error


def adaptive_options(options: BatchingOptions | None) -> BatchingOptions:
    """Our own adaptive batching, with the sizes and threads of a parameters file if given."""
    if options is None:
        return BatchingOptions(max_batch_size=_ADAPTIVE_BATCH_SIZE, adaptive=True)
    # It never waits, and --max_queue bounds what waits for a thread.
    return replace(options, adaptive=True, batch_timeout_micros=0)


class PerModelBatching:
    """The options of each version, from its own file, as TF Serving reads them.

    A version without one is not batched. Threads are shared, so those of its file do not count.
    """

    def __init__(self, shared: BatchingOptions) -> None:
        self._shared = shared

    def __call__(self, version_dir: Path) -> BatchingOptions | None:
        """The options of one version.

        Raises:
          ServerError: its file is not a BatchingParameters.
        """
        file = version_dir / PER_MODEL_FILE
        if not file.is_file():
            return None
        own = read_batching_options(file)
        return adaptive_options(own) if self._shared.adaptive else own


@cache
def _message_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="sightline/batching.proto", package="sightline.batching", syntax="proto3"
    )
    for kind in ("int64", "string", "bool"):
        wrapper = file.message_type.add(name=f"{kind}_value")
        wrapper.field.add(name="value", number=1, type=_type(kind), label=_Field.LABEL_OPTIONAL)
    message = file.message_type.add(name="BatchingParameters")
    for name, (number, kind, wrapped) in _FIELDS.items():
        field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
        if name == _REPEATED:
            field.label = _Field.LABEL_REPEATED
        if wrapped:
            field.type = _Field.TYPE_MESSAGE
            field.type_name = f".sightline.batching.{kind}_value"
        else:
            field.type = _type(kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindMessageTypeByName("sightline.batching.BatchingParameters")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    factory: Any = message_factory.MessageFactory(pool)  # protobuf before 4.22
    return factory.GetPrototype(descriptor)


def _type(kind: str) -> Any:
    return getattr(_Field, f"TYPE_{kind.upper()}")
