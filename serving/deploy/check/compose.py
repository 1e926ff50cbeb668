"""A Compose file: its schema, and the TF Serving in it."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.deploy.check.findings import Place, known
from serving.deploy.check.schemas import compose_errors
from serving.deploy.check.server import (
    Container,
    Mount,
    Server,
    check_container,
    check_image,
    is_tf_serving,
    server_arguments,
)
from serving.deploy.check.sources import Document

_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:?[-?+])([^}]*))?\}|(\w+))")
#: A service's own key -> where the same is within `deploy`; compose-go since 2.0.1.
_TWICE = {
    "pids_limit": ("resources", "limits", "pids"),
    "mem_limit": ("resources", "limits", "memory"),
    "cpus": ("resources", "limits", "cpus"),
    "mem_reservation": ("resources", "reservations", "memory"),
    "scale": ("replicas",),
}
_LOOPBACK = ("127.", "[::1]", "::1", "localhost")


def check_compose(document: Document, bundles: Path | None) -> None:
    """Checks a Compose file; variables take their defaults, whatever the environment says.

    Args:
      document: the file.
      bundles: stands for the folder that is mounted where the models lie.
    """
    place = document.place
    data = _interpolate(document.data, place)
    errors = compose_errors(data)
    for error in errors:
        place.error(error, "see the Compose specification")
    if errors:
        return
    for name, service in (data.get("services") or {}).items():
        where = place.findings.at(place.file, f"service/{name}")
        _check_limits(service, where)
        image = str(service.get("image", ""))
        if image:
            check_image(image, where)
        if is_tf_serving(image, _words(service.get("entrypoint"))):
            _check_service(service, document, where, bundles)


def _check_limits(service: dict[str, Any], place: Place) -> None:
    """Compose refuses a limit in two places with two values, and one missing is a value (0)."""
    deploy = service.get("deploy") or {}
    for name, path in _TWICE.items():
        *parents, last = path
        within: Any = deploy
        for parent in parents:
            within = (within or {}).get(parent)
        if name in service and within and str(service[name]) != str(within.get(last)):
            other = ".".join(("deploy", *path))
            place.error(
                f"{name} is {service[name]} and {other} is {within.get(last, 'not set')}: Compose "
                "refuses distinct values",
                f"write {other} alone",
            )


def _check_service(
    service: dict[str, Any], document: Document, place: Place, bundles: Path | None
) -> None:
    arguments = server_arguments(
        _words(service.get("entrypoint")),
        _words(service.get("command")),
        _environment(service.get("environment")),
    )
    mounts = [_mount(volume, document.path.parent) for volume in service.get("volumes") or []]
    server = check_container(Container(place, arguments, mounts, bundles))
    for port in service.get("ports") or []:
        _check_port(port, server, place)
    health = " ".join(_words((service.get("healthcheck") or {}).get("test")))
    _check_health(health, server, place)


def _check_port(port: Any, server: Server, place: Place) -> None:
    host, target = _host_and_target(port)
    if target not in server.ports.values():
        place.error(
            f"port {target} is published, but TF Serving does not listen there",
            f"its flags open {known(server.ports.values())}",
        )
    if not host.startswith(_LOOPBACK):
        place.warn(
            f"port {target} is published on {host or 'every interface'}; TF Serving has no "
            "authentication",
            f"write 127.0.0.1:{target}:{target}, and a proxy in front",
        )


def _host_and_target(port: Any) -> tuple[str, int]:
    if isinstance(port, dict):
        return str(port.get("host_ip", "")), int(port["target"])
    text = str(port).partition("/")[0]
    published, _, target = text.rpartition(":")
    return published.rpartition(":")[0], int(target) if target.isdigit() else 0


def _check_health(command: str, server: Server, place: Place) -> None:
    if not command:
        place.warn("no health check", "see serving/deploy/docker-compose.yml")
    for port in re.findall(r"(?:127\.0\.0\.1|localhost)[:/](\d+)", command):
        if int(port) not in server.ports.values():
            place.error(
                f"the health check asks port {port}, where TF Serving does not listen",
                f"its flags open {known(server.ports.values())}",
            )
    for model in re.findall(r"/v1/models/([\w.-]+)", command):
        if server.models and model not in server.models:
            place.error(
                f"the health check asks for the model {model}, which is not configured",
                f"configured: {known(server.models)}",
            )


def _mount(volume: Any, base: Path) -> Mount:
    if isinstance(volume, str):
        source, _, rest = volume.partition(":")
        target = rest.partition(":")[0] or source
        bind = source.startswith((".", "/", "~"))
    else:
        source, target = str(volume.get("source", "")), str(volume.get("target", ""))
        bind = volume.get("type") == "bind"
    folder = (base / Path(source).expanduser()).resolve() if bind else None
    return Mount(target=target, folder=folder, about=f"the mount of {source}")


def _words(command: Any) -> list[str]:
    """A command's words, from either of its forms."""
    if command is None:
        return []
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command]


def _environment(given: Any) -> dict[str, str]:
    if isinstance(given, Mapping):
        return {str(key): str(value) for key, value in given.items()}
    parts = [str(entry).partition("=") for entry in given or []]
    return {name: value for name, _, value in parts}


def _interpolate(value: Any, place: Place) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(inner, place) for key, inner in value.items()}
    if isinstance(value, list):
        return [_interpolate(inner, place) for inner in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda match: _variable(match, place), value)


def _variable(match: re.Match[str], place: Place) -> str:
    dollar, braced, operator, word, bare = match.groups()
    if dollar:
        return "$"
    if operator in ("-", ":-"):
        return word
    if operator in ("+", ":+"):
        return ""
    if operator is None:
        place.warn(f"the variable {braced or bare} has no default", "write ${NAME:-default}")
    return ""
