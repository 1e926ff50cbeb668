"""One container that runs TF Serving: its flags, the files they name, and the models in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from serving.deploy.check.findings import Place, known
from serving.deploy.check.flags import FILE_FLAGS, is_on, ports, read_flags
from serving.deploy.check.models import check_model_folder, check_models
from serving.deploy.check.protos import parse

# TF Serving's own, where the file names none.
_MAX_BATCH_SIZE = 1000
DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"


@dataclass(frozen=True)
class Mount:
    """What lies at a path of the container.

    Attributes:
      target: the path.
      files: name -> text, of a ConfigMap.
      folder: a folder of this machine; None with `files`, and for what is not known here.
      about: what is mounted, in words.
    """

    target: str
    files: Mapping[str, str] | None = None
    folder: Path | None = None
    about: str = ""

    def rest_of(self, path: str) -> str | None:
        """The path within the mount, or None where it is not under it."""
        try:
            return PurePosixPath(path).relative_to(self.target).as_posix()
        except ValueError:
            return None


@dataclass(frozen=True)
class Container:
    """A container that runs TF Serving.

    Attributes:
      place: where to report about it.
      arguments: after the program's name.
      mounts: what lies in it.
      bundles: the folder that stands for what is mounted where the models lie.
    """

    place: Place
    arguments: Sequence[str]
    mounts: Sequence[Mount]
    bundles: Path | None = None


@dataclass(frozen=True)
class Server:
    """What a checked container serves.

    Attributes:
      ports: `grpc` and `rest` -> number.
      health: whether it answers gRPC's health service.
      models: the names.
      metrics_path: of Prometheus; None without metrics.
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
    """TF Serving's arguments, with those that the image's own script adds where it is run.

    Args:
      command: what replaces the image's entry point; empty leaves it.
      arguments: what follows it.
      environment: of the container; the script reads MODEL_NAME and MODEL_BASE_PATH.
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


def check_image(image: str, place: Place) -> None:
    """Reports an image without a fixed tag: the next pull may be another server."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not digest and tag in ("", "latest", "latest-gpu", "nightly"):
        place.warn(f"the image {image} is not pinned", "name a version, e.g. :2.16.1")


def check_container(container: Container) -> Server:
    """Checks flags, files and models of a container; findings go to its place."""
    place = container.place
    flags = read_flags(container.arguments, place)
    open_ports = ports(flags)
    if open_ports.get("grpc") == open_ports.get("rest"):
        place.error(
            "--port and --rest_api_port are the same; TF Serving goes on without REST",
            "give each its own",
        )
    configs = {
        name: _read_config(container, name, flags[name]) for name in FILE_FLAGS if name in flags
    }
    _check_batching(flags, configs.get("batching_parameters_file"), place)
    _check_ssl(container, configs.get("ssl_config_file"))
    return Server(
        ports=open_ports,
        health=is_on(flags, "enable_grpc_healthcheck_service"),
        models=_check_models(container, flags, configs.get("model_config_file")),
        metrics_path=_metrics_path(configs.get("monitoring_config_file")),
    )


def find_mount(container: Container, path: str) -> tuple[Mount, str] | None:
    """The mount that a path lies under, the deepest one, and the path within it."""
    found = [(mount, mount.rest_of(path)) for mount in container.mounts]
    inside = [(mount, rest) for mount, rest in found if rest is not None]
    return max(inside, key=lambda pair: len(pair[0].target), default=None)


def _read_text(container: Container, path: str, what: str) -> str | None:
    """The text of a file of the container; its absence is reported. None: absent or not known."""
    place = container.place
    found = find_mount(container, path)
    if found is None:
        targets = known(mount.target for mount in container.mounts)
        place.error(f"{what} names {path}, which no mount holds", f"mounts are at: {targets}")
        return None
    mount, rest = found
    if mount.files is not None:
        if rest not in mount.files:
            keys = known(mount.files)
            place.error(f"{what} names {path}, but {mount.about} has no {rest}", f"it has: {keys}")
        return mount.files.get(rest)
    if mount.folder is None:
        place.warn(f"{what} names {path}; what {mount.about} holds is not known here", "look there")
        return None
    file = mount.folder / rest
    if not file.is_file():
        place.error(f"{what} names {path}, but {file.name} is not in {mount.about}", "add the file")
        return None
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        text = f"\ufeff{error}"
    if text.startswith("\ufeff"):
        # TensorFlow Serving reads plain UTF-8 only.
        place.error(f"{path} is not plain UTF-8", "save it as UTF-8 without a byte order mark")
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
        container.place.error(f"{path} is not a {message}: {error}", "mend the line named")
        return None


def _metrics_path(config: Any) -> str | None:
    if config is None or not config.prometheus_config.enable:
        return None
    return config.prometheus_config.path or DEFAULT_METRICS_PATH


def _check_batching(flags: dict[str, str], config: Any, place: Place) -> None:
    if "batching_parameters_file" in flags and not is_on(flags, "enable_batching"):
        place.error(
            "--batching_parameters_file without --enable_batching; TF Serving does not start",
            "add --enable_batching=true",
        )
    if config is None:
        return
    sizes = list(config.allowed_batch_sizes)
    if sizes != sorted(set(sizes)) or any(size < 1 for size in sizes):
        place.error(f"allowed_batch_sizes {sizes} do not rise", "list them from small to large")
    limit = config.max_batch_size.value if config.HasField("max_batch_size") else _MAX_BATCH_SIZE
    if sizes and sizes[-1] != limit:
        place.error(
            f"allowed_batch_sizes end in {sizes[-1]}, max_batch_size is {limit}",
            "make the last size max_batch_size; TF Serving does not load the model otherwise",
        )
    for name in ("max_batch_size", "num_batch_threads", "max_enqueued_batches"):
        if config.HasField(name) and getattr(config, name).value < 1:
            value = getattr(config, name).value
            place.error(f"{name} is {value}", "write 1 or more")
    if config.HasField("batch_timeout_micros") and config.batch_timeout_micros.value < 0:
        place.error("batch_timeout_micros is negative", "write 0 or more")


def _check_ssl(container: Container, config: Any) -> None:
    """The key, a secret, may be inline PEM text; in TF Serving it must be."""
    if config is None:
        return
    for name in ("server_key", "server_cert"):
        value = getattr(config, name)
        if "-----BEGIN" not in value:
            container.place.error(
                f"{name} of --ssl_config_file is not PEM text",
                "write the text itself between quotes, \\n for a new line; a path is not taken",
            )
    if config.client_verify and not config.custom_ca:
        container.place.error("client_verify without custom_ca", "add the CA that signed them")


def _check_models(container: Container, flags: dict[str, str], config: Any) -> tuple[str, ...]:
    place = container.place
    if "model_config_file" in flags:
        if "model_base_path" in flags:
            place.warn("--model_base_path is not used beside --model_config_file", "leave it out")
        if config is None:
            return ()
        return check_models(config, container.place, lambda path: _model_folder(container, path))
    if "model_base_path" not in flags:
        place.error("no flag says what to serve", "give --model_config_file, or --model_base_path")
        return ()
    name = flags.get("model_name", "default")
    folder = _model_folder(container, flags["model_base_path"])
    if folder is not None:
        check_model_folder(name, folder, place)
    return (name,)


def _model_folder(container: Container, path: str) -> Path | None:
    """The folder here that a base path of the container is; None where that is not known."""
    place = container.place
    found = find_mount(container, path)
    if found is None:
        targets = known(mount.target for mount in container.mounts)
        place.error(f"the base path {path} lies in no mount", f"mounts are at: {targets}")
        return None
    mount, rest = found
    if mount.files is not None:
        place.error(f"the base path {path} lies in {mount.about}", "mount the bundles there")
        return None
    root = container.bundles or mount.folder
    if root is None:
        place.warn(
            f"the versions under {path} were not looked at",
            "give --bundles DIR, the folder that is mounted there",
        )
        return None
    return root / rest
