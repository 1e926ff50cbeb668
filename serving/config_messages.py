"""TF Serving's text configuration messages that no package has.

config = parse("SSLConfig", Path("ssl.config").read_text())

The server reads its flags' files with them, and `sightline deploy check` those of a deployment.
"""

from functools import cache
from typing import Any

from google.protobuf import text_format

from serving.declare import Table, declare

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
    """The message `name` that the text holds.

    Args:
      name: `BatchingParameters`, `MonitoringConfig` or `SSLConfig`.
      text: in protobuf's text format.

    Raises:
      ValueError: the text is no such message; says the line and the column.
    """
    return parse_text(text, _classes()[name]())


def parse_text(text: str, message: Any) -> Any:
    """`message`, filled from protobuf's text format.

    Raises:
      ValueError: the text is no such message; says the line and the column.
    """
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ValueError(str(error).replace(f"{_PACKAGE}.", "")) from error


@cache
def _classes() -> dict[str, Any]:
    return declare(_PACKAGE, _MESSAGES)
