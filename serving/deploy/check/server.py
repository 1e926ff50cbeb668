"""Checks of a TF Serving container: flags, configuration files and models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from serving.deploy.check.findings import Location, listed
from serving.deploy.check.flags import FILE_FLAGS, is_on, ports, read_flags
from serving.deploy.check.models import check_model_folder, check_models
from serving.deploy.check.protos import parse

# Defaults of TF Serving.
_MAX_BATCH_SIZE = 1000
DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"


@dataclass(frozen=True)
class Mount:
    """A mount of the container.

    Attributes:
      target: the path.
      files: name -> text, of a ConfigMap.
      folder: local folder; None with `files`, and if the content is unknown.
      description: for messages, e.g. `the volume bundles`.
    """

    target: str
    files: Mapping[str, str] | None = None
    folder: Path | None = None
    description: str = ""

    def relative(self, path: str) -> str | None:
        """The path relative to the mount, or None if it is not under it."""
        try:
            return PurePosixPath(path).relative_to(self.target).as_posix()
        except ValueError:
            return None


@dataclass(frozen=True)
class Container:
    """A container that runs TF Serving.

    Attributes:
      location: where to report.
      arguments: without the name of the program.
      mounts: of the container.
      bundles: replaces the mount at the models' base paths.
    """

    location: Location
    arguments: Sequence[str]
    mounts: Sequence[Mount]
    bundles: Path | None = None


@dataclass(frozen=True)
class Server:
    """The server of a checked container.

    Attributes:
      ports: `grpc` and `rest` -> number.
      health: whether the gRPC health service is on.
      models: model names.
      metrics_path: for Prometheus; None without metrics.
    """

    ports: dict[str, int] = field(default_factory=dict)
    health: bool = False
    models: tuple[str, ...] = ()
    metrics_path: str | None = None


def is_tf_serving(image: str, command: Sequence[str]) -> bool:
    """Whether a container runs TF Serving, by its image or its command."""
    return "tensorflow/serving" in image or any(
        word.endswith("tensorflow_model_server") for word in command[:1]
    )


def server_arguments(
    command: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """TF Serving's arguments, including those that the image's entry point adds.

    Args:
      command: replaces the entry point unless empty.
      arguments: after the command.
      environment: of the container; the entry point reads MODEL_NAME and MODEL_BASE_PATH.
    """
    if command:
        return [*command[1:], *arguments]
    given = {argument.partition("=")[0] for argument in arguments}
    model = environment.get("MODEL_NAME", "model")
    own = {"--port": "8500", "--rest_api_port": "8501", "--model_name": model}
    if "--model_config_file" not in given:
        own["--model_base_path"] = f"{environment.get('MODEL_BASE_PATH', '/models')}/{model}"
    missing = [f"{name}={value}" for name, value in own.items() if name not in given]
    return [*missing, *arguments]


def check_image(image: str, location: Location) -> None:
    """Reports an image without a fixed tag, whose next pull may be another version."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not digest and tag in ("", "latest", "latest-gpu", "nightly"):
        location.warn(f"the image {image} is not pinned", "add a version, e.g. :2.16.1")


def check_container(container: Container) -> Server:
    """The server of a container, whose flags, files and models are checked."""
    location = container.location
    flags = read_flags(container.arguments, location)
    open_ports = ports(flags)
    if open_ports.get("grpc") == open_ports.get("rest"):
        location.error(
            "--port and --rest_api_port are equal, so TF Serving starts without REST",
            "use different ports",
        )
    configs = {
        name: _read_config(container, name, flags[name]) for name in FILE_FLAGS if name in flags
    }
    _check_batching(flags, configs.get("batching_parameters_file"), location)
    _check_ssl(container, configs.get("ssl_config_file"))
    return Server(
        ports=open_ports,
        health=is_on(flags, "enable_grpc_healthcheck_service"),
        models=_check_models(container, flags, configs.get("model_config_file")),
        metrics_path=_metrics_path(configs.get("monitoring_config_file")),
    )


def find_mount(container: Container, path: str) -> tuple[Mount, str] | None:
    """The innermost mount of a path, and the path relative to it; None if there is none."""
    found = [(mount, mount.relative(path)) for mount in container.mounts]
    inside = [(mount, rest) for mount, rest in found if rest is not None]
    return max(inside, key=lambda pair: len(pair[0].target), default=None)


def _read_text(container: Container, path: str, what: str) -> str | None:
    """The text of a file in the container; None, with a finding, if it cannot be read."""
    location = container.location
    found = find_mount(container, path)
    if found is None:
        targets = listed(mount.target for mount in container.mounts)
        location.error(f"{what} is {path}, which is in no mount", f"mounts: {targets}")
        return None
    mount, rest = found
    if mount.files is not None:
        if rest not in mount.files:
            keys = listed(mount.files)
            location.error(
                f"{what} is {path}, but {mount.description} has no {rest}", f"it has {keys}"
            )
        return mount.files.get(rest)
    if mount.folder is None:
        location.warn(
            f"{what} is {path}, and the content of {mount.description} is unknown",
            "check it by hand",
        )
        return None
    file = mount.folder / rest
    if not file.is_file():
        location.error(
            f"{what} is {path}, but {file.name} is not in {mount.description}", "add the file"
        )
        return None
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        text = f"\ufeff{error}"
    if text.startswith("\ufeff"):
        # TF Serving accepts only plain UTF-8.
        location.error(f"{path} is not plain UTF-8", "save it as UTF-8 without a byte order mark")
        return None
    return text


def _read_config(container: Container, flag: str, path: str) -> Any:
    text = _read_text(container, path, f"--{flag}")
    message = FILE_FLAGS[flag]
    if text is None or message is None:
        return None
    try:
        return parse(message, text)
    except ValueError as error:
        container.location.error(f"{path} is not a {message}: {error}", "fix that line")
        return None


def _metrics_path(config: Any) -> str | None:
    if config is None or not config.prometheus_config.enable:
        return None
    return config.prometheus_config.path or DEFAULT_METRICS_PATH


def _check_batching(flags: dict[str, str], config: Any, location: Location) -> None:
    if "batching_parameters_file" in flags and not is_on(flags, "enable_batching"):
        location.error(
            "--batching_parameters_file without --enable_batching; TF Serving does not start",
            "add --enable_batching=true",
        )
    if config is None:
        return
    sizes = list(config.allowed_batch_sizes)
    if sizes != sorted(set(sizes)) or any(size < 1 for size in sizes):
        location.error(f"allowed_batch_sizes {sizes} do not increase", "sort them")
    limit = config.max_batch_size.value if config.HasField("max_batch_size") else _MAX_BATCH_SIZE
    if sizes and sizes[-1] != limit:
        location.error(
            f"allowed_batch_sizes end in {sizes[-1]}, max_batch_size is {limit}",
            "make them equal; otherwise TF Serving does not load the model",
        )
    for name in ("max_batch_size", "num_batch_threads", "max_enqueued_batches"):
        if config.HasField(name) and getattr(config, name).value < 1:
            value = getattr(config, name).value
            location.error(f"{name} is {value}", "write 1 or more")
    if config.HasField("batch_timeout_micros") and config.batch_timeout_micros.value < 0:
        location.error("batch_timeout_micros is negative", "write 0 or more")


def _check_ssl(container: Container, config: Any) -> None:
    """TF Serving needs inline PEM text, not paths."""
    if config is None:
        return
    for name in ("server_key", "server_cert"):
        value = getattr(config, name)
        if "-----BEGIN" not in value:
            container.location.error(
                f"{name} of --ssl_config_file is not PEM text",
                "write the text in quotes, with \\n for line breaks; paths are not supported",
            )
    if config.client_verify and not config.custom_ca:
        container.location.error(
            "client_verify without custom_ca", "add the CA of the client certificates"
        )


def _check_models(container: Container, flags: dict[str, str], config: Any) -> tuple[str, ...]:
    location = container.location
    if "model_config_file" in flags:
        if "model_base_path" in flags:
            location.warn("--model_base_path has no effect with --model_config_file", "remove it")
        if config is None:
            return ()
        return check_models(config, container.location, lambda path: _model_folder(container, path))
    if "model_base_path" not in flags:
        location.error("no flag specifies a model", "add --model_config_file or --model_base_path")
        return ()
    name = flags.get("model_name", "default")
    folder = _model_folder(container, flags["model_base_path"])
    if folder is not None:
        check_model_folder(name, folder, location)
    return (name,)


def _model_folder(container: Container, path: str) -> Path | None:
    """The local folder of a base path in the container; None if it is unknown."""
    location = container.location
    found = find_mount(container, path)
    if found is None:
        targets = listed(mount.target for mount in container.mounts)
        location.error(f"the base path {path} is in no mount", f"mounts: {targets}")
        return None
    mount, rest = found
    if mount.files is not None:
        location.error(f"the base path {path} is in {mount.description}", "mount the bundles there")
        return None
    root = container.bundles or mount.folder
    if root is None:
        location.warn(
            f"the versions under {path} were not checked",
            "specify --bundles DIR, the folder that is mounted there",
        )
        return None
    return root / rest
