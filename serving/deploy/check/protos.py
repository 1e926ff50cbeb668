"""Parser of TF Serving's text configuration files.

`ModelServerConfig` comes from `tensorflow-serving-api`, whose configuration part does not need
TensorFlow; the others are in `serving.protocol.config_messages`.
"""

from typing import Any

from serving.deploy.check.findings import CheckError
from serving.protocol import config_messages


def parse(name: str, text: str) -> Any:
    """The parsed message.

    Args:
      name: `ModelServerConfig`, `BatchingParameters`, `MonitoringConfig` or `SSLConfig`.
      text: in protobuf's text format.

    Raises:
      ValueError: the text does not parse; the message has line and column.
      CheckError: the API package is not installed.
    """
    if name != "ModelServerConfig":
        return config_messages.parse(name, text)
    try:
        from tensorflow_serving.config import model_server_config_pb2
    except ModuleNotFoundError as error:
        raise CheckError(
            f"cannot read a ModelServerConfig: {error}; install `sightline[deploy]`"
        ) from error
    return config_messages.parse_text(text, model_server_config_pb2.ModelServerConfig())
