"""TF Serving's text configuration messages that are in no package.

config = parse("SSLConfig", Path("ssl.config").read_text())

The server and `sightline deploy check` read configuration files with them.
"""

import codecs
from functools import cache
from typing import Any

from google.protobuf import text_format

from serving.protocol.declare import Table, declare

#: Byte order mark -> encoding; UTF-32 is first, because its mark starts with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PACKAGE = "sightline.config"

_MESSAGES: Table = {
    "Int64Value": {"value": (1, "int64", False)},
    "StringValue": {"value": (1, "string", False)},
    "BoolValue": {"value": (1, "bool", False)},
    "BatchingParameters": {
        "max_batch_size": (1, "Int64Value", False),
        "batch_timeout_micros": (2, "Int64Value", False),
        "max_enqueued_batches": (3, "Int64Value", False),
        "num_batch_threads": (4, "Int64Value", False),
        "thread_pool_name": (5, "StringValue", False),
        "allowed_batch_sizes": (6, "int64", True),
        "pad_variable_length_inputs": (7, "bool", False),
        "enable_large_batch_splitting": (8, "BoolValue", False),
        "max_execution_batch_size": (9, "Int64Value", False),
    },
    "PrometheusConfig": {"enable": (1, "bool", False), "path": (2, "string", False)},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig", False)},
    "SSLConfig": {
        "server_key": (1, "string", False),
        "server_cert": (2, "string", False),
        "custom_ca": (3, "string", False),
        "client_verify": (4, "bool", False),
    },
}


def parse(name: str, text: str) -> Any:
    """The parsed message.

    Args:
      name: `BatchingParameters`, `MonitoringConfig` or `SSLConfig`.
      text: in protobuf's text format.

    Raises:
      ValueError: the text does not parse; the message has line and column.
    """
    return parse_text(text, _classes()[name]())


def decode(data: bytes) -> str:
    """The text of a configuration file in UTF-8 or the encoding of its byte order mark.

    Raises:
      ValueError: it is neither; the message has the position and what to do.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.removeprefix(mark).decode(encoding)
    if b"\0" in data:
        raise ValueError(
            "the file has null bytes, like UTF-16 without a byte order mark; save it as UTF-8"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8; save the file as UTF-8") from error


def parse_text(text: str, message: Any) -> Any:
    """`message`, parsed from protobuf's text format.

    Raises:
      ValueError: the text does not parse; the message has line and column.
    """
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ValueError(str(error).replace(f"{_PACKAGE}.", "")) from error


@cache
def _classes() -> dict[str, Any]:
    return declare(_PACKAGE, _MESSAGES)
