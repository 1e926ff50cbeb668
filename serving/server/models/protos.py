"""Conversion from and to TF Serving's protos: model configs and statuses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.protocol import config_messages
from serving.protocol.types import STATUS_CODES
from serving.server.errors import ServerError, ServingError, invalid
from serving.server.models.config import ServedModel, VersionPolicy
from serving.server.models.servable import VersionStatus


def status_response(
    statuses: Sequence[VersionStatus],
) -> get_model_status_pb2.GetModelStatusResponse:
    """The response of `GetModelStatus`."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in statuses:
        entry = response.model_version_status.add(version=status.version, state=int(status.state))
        # Without this, JSON would omit an empty status.
        entry.status.SetInParent()
        entry.status.error_code = STATUS_CODES.index(status.error_code)
        entry.status.error_message = status.error_message
    return response


def model_configs(config: model_server_config_pb2.ModelServerConfig) -> list[ServedModel]:
    """The models of a `ModelServerConfig`.

    Raises:
      ServingError: a model without name or path, a platform other than `tensorflow`, or an empty
        config.
    """
    if config.WhichOneof("config") is None:
        raise invalid(
            "the config is empty; `model_config_list {}` with no models unloads everything"
        )
    if config.WhichOneof("config") == "custom_model_config":
        raise ServingError("UNIMPLEMENTED", "custom_model_config is not supported")
    return [_model_config(entry) for entry in config.model_config_list.config]


def _model_config(entry: Any) -> ServedModel:
    if not entry.name or not entry.base_path:
        raise invalid(
            f"a model needs a name and a base_path, got {entry.name!r}, {entry.base_path!r}"
        )
    if entry.model_platform not in ("", "tensorflow"):
        raise invalid(f"model {entry.name}: model_platform must be tensorflow")
    return ServedModel(
        name=entry.name,
        base_path=Path(entry.base_path),
        policy=_policy(entry.model_version_policy),
        labels=dict(entry.version_labels),
    )


def _policy(policy: Any) -> VersionPolicy:
    kind = policy.WhichOneof("policy_choice") or "latest"
    if kind == "specific":
        return VersionPolicy(kind, versions=tuple(policy.specific.versions))
    if kind == "latest":
        return VersionPolicy(kind, num_versions=policy.latest.num_versions or 1)
    return VersionPolicy(kind)


def read_model_config_file(path: Path, content: bytes | None = None) -> list[ServedModel]:
    """The models of the text `ModelServerConfig` of `--model_config_file`; see `read_config`.

    Raises:
      ServerError: no such file, or it is not a valid ModelServerConfig.
    """
    try:
        return model_configs(read_config(path, content))
    except ServingError as error:
        raise ServerError(f"{path} is not a ModelServerConfig: {error}") from error


def read_config(
    path: Path, content: bytes | None = None
) -> model_server_config_pb2.ModelServerConfig:
    """The text `ModelServerConfig` of a file.

    Args:
      path: of the file.
      content: its bytes, if they have been read already.

    Raises:
      ServerError: no such file, or it is not a ModelServerConfig.
    """
    try:
        text = config_messages.decode(path.read_bytes() if content is None else content)
        return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (OSError, ValueError, text_format.ParseError) as error:
        raise ServerError(f"{path} is not a ModelServerConfig: {error}") from error
