"""Declares protobuf messages in a table of field numbers, without generated code.

classes = declare("sightline.ssl", {"SSLConfig": {"server_key": (1, "string", False)}})
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto

#: message -> field -> (number, type, repeated); a capitalized type is another message.
Table: TypeAlias = Mapping[str, Mapping[str, tuple[int, str, bool]]]


def declare(package: str, messages: Table) -> dict[str, Any]:
    """Message name -> class, in a separate descriptor pool.

    Map fields are declared as their entry messages, and the fields of a `oneof` as separate fields.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package.replace('.', '/')}.proto", package=package, syntax="proto3"
    )
    for name, fields in messages.items():
        declared = file.message_type.add(name=name)
        for field_name, (number, kind, repeated) in fields.items():
            field = declared.field.add(name=field_name, number=number)
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind in messages:
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}"
            else:
                field.type = getattr(_Field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptors = {name: pool.FindMessageTypeByName(f"{package}.{name}") for name in messages}
    if hasattr(message_factory, "GetMessageClass"):
        return {name: message_factory.GetMessageClass(d) for name, d in descriptors.items()}
    factory: Any = message_factory.MessageFactory(pool)  # protobuf before 4.22
    return {name: factory.GetPrototype(d) for name, d in descriptors.items()}
