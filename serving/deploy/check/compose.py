"""Checks of Compose files: the schema, and the TF Serving containers."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.deploy.check.findings import Location, listed
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
#: A key of a service -> the same limit within `deploy`; compose-go since 2.0.1.
_LIMITS = {
    "pids_limit": ("resources", "limits", "pids"),
    "mem_limit": ("resources", "limits", "memory"),
    "cpus": ("resources", "limits", "cpus"),
    "mem_reservation": ("resources", "reservations", "memory"),
    "scale": ("replicas",),
}
_LOOPBACK = ("127.", "[::1]", "::1", "localhost")


def check_compose(document: Document, bundles: Path | None) -> None:
    """Checks a Compose file; variables have their defaults, regardless of the environment.

    Args:
      document: the file.
      bundles: replaces the folder that is mounted at the models' base paths.
    """
    location = document.location
    data = _interpolate(document.data, location)
    errors = compose_errors(data)
    for error in errors:
        location.error(error, "see the Compose specification")
    if errors:
        return
    for name, service in (data.get("services") or {}).items():
        where = location.findings.at(location.file, f"service/{name}")
        _check_limits(service, where)
        image = str(service.get("image", ""))
        if image:
            check_image(image, where)
        if is_tf_serving(image, _arguments(service.get("entrypoint"))):
            _check_service(service, document, where, bundles)


def _check_limits(service: dict[str, Any], location: Location) -> None:
    """Compose rejects a limit with two values; a missing one counts as 0."""
    deploy = service.get("deploy") or {}
    for name, path in _LIMITS.items():
        *parents, last = path
        within: Any = deploy
        for parent in parents:
            within = (within or {}).get(parent)
        if name in service and within and str(service[name]) != str(within.get(last)):
            other = ".".join(("deploy", *path))
            location.error(
                f"{name} is {service[name]} and {other} is {within.get(last, 'not set')}: Compose "
                "rejects distinct values",
                f"set only {other}",
            )


def _check_service(
    service: dict[str, Any], document: Document, location: Location, bundles: Path | None
) -> None:
    arguments = server_arguments(
        _arguments(service.get("entrypoint")),
        _arguments(service.get("command")),
        _environment(service.get("environment")),
    )
    mounts = [_mount(volume, document.path.parent) for volume in service.get("volumes") or []]
    server = check_container(Container(location, arguments, mounts, bundles))
    for port in service.get("ports") or []:
        _check_port(port, server, location)
    health = " ".join(_arguments((service.get("healthcheck") or {}).get("test")))
    _check_health(health, server, location)


def _check_port(port: Any, server: Server, location: Location) -> None:
    host, target = _host_and_target(port)
    if target not in server.ports.values():
        location.error(
            f"port {target} is published, but TF Serving does not listen on it",
            f"its flags open {listed(server.ports.values())}",
        )
    if not host.startswith(_LOOPBACK):
        location.warn(
            f"port {target} is published on {host or 'every interface'}; TF Serving has no "
            "authentication",
            f"write 127.0.0.1:{target}:{target}, and use a proxy for other hosts",
        )


def _host_and_target(port: Any) -> tuple[str, int]:
    if isinstance(port, dict):
        return str(port.get("host_ip", "")), int(port["target"])
    text = str(port).partition("/")[0]
    published, _, target = text.rpartition(":")
    return published.rpartition(":")[0], int(target) if target.isdigit() else 0


def _check_health(command: str, server: Server, location: Location) -> None:
    if not command:
        location.warn("no health check", "see serving/deploy/docker-compose.yml")
    for port in re.findall(r"(?:127\.0\.0\.1|localhost)[:/](\d+)", command):
        if int(port) not in server.ports.values():
            location.error(
                f"the health check uses port {port}, on which TF Serving does not listen",
                f"its flags open {listed(server.ports.values())}",
            )
    for model in re.findall(r"/v1/models/([\w.-]+)", command):
        if server.models and model not in server.models:
            location.error(
                f"the health check requests the model {model}, which is not configured",
                f"configured: {listed(server.models)}",
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
    return Mount(target=target, folder=folder, description=f"the mount of {source}")


def _arguments(command: Any) -> list[str]:
    """The arguments of a command, given as text or as a list."""
    if command is None:
        return []
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command]


def _environment(given: Any) -> dict[str, str]:
    if isinstance(given, Mapping):
        return {str(key): str(value) for key, value in given.items()}
    parts = [str(entry).partition("=") for entry in given or []]
    return {name: value for name, _, value in parts}


def _interpolate(value: Any, location: Location) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(inner, location) for key, inner in value.items()}
    if isinstance(value, list):
        return [_interpolate(inner, location) for inner in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda match: _variable(match, location), value)


def _variable(match: re.Match[str], location: Location) -> str:
    dollar, braced, operator, word, bare = match.groups()
    if dollar:
        return "$"
    if operator in ("-", ":-"):
        return word
    if operator in ("+", ":+"):
        return ""
    if operator is None:
        location.warn(f"the variable {braced or bare} has no default", "write ${NAME:-default}")
    return ""
