"""Checks of a container's probes against its ports and its server."""

import re
from typing import Any

from serving.deploy.check.findings import Location, listed
from serving.deploy.check.server import Server

_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
#: Services of TF Serving's health service; the empty name is the whole server.
_HEALTH_SERVICES = ("", "ModelService", "PredictionService")


def check_probes(
    container: dict[str, Any], ports: dict[str, int], server: Server | None, location: Location
) -> None:
    """Checks the probes of a container.

    Args:
      container: as in the manifest.
      ports: name, or number as text -> number, as declared.
      server: None for anything but TF Serving.
      location: where to report.
    """
    for name in _PROBES:
        probe = container.get(name)
        if probe is not None:
            _check_probe(name, probe, ports, server, location)
        elif server is not None:
            location.warn(
                f"{container['name']} has no {name}",
                "see serving/deploy/kubernetes/deployment.yaml",
            )


def _check_probe(
    name: str,
    probe: dict[str, Any],
    ports: dict[str, int],
    server: Server | None,
    location: Location,
) -> None:
    kinds = [kind for kind in ("grpc", "httpGet", "tcpSocket") if probe.get(kind)]
    for kind in kinds:
        port = str(probe[kind]["port"])
        if port not in ports:
            location.error(
                f"the {name} uses port {port}, which the container does not declare",
                f"it declares {listed(ports)}",
            )
            continue
        if server is not None:
            _check_against_server(f"the {name}", kind, probe[kind], (ports[port], server), location)


def _check_against_server(
    about: str, kind: str, probe: dict[str, Any], target: tuple[int, Server], location: Location
) -> None:
    port, server = target
    wanted = {"grpc": "grpc", "httpGet": "rest"}.get(kind)
    if wanted and server.ports.get(wanted) != port:
        location.error(
            f"{about} uses {wanted} on port {port}",
            f"{wanted} is on {server.ports.get(wanted, 'no port')}",
        )
    if kind == "grpc":
        _check_grpc(about, probe, server, location)
    if kind == "httpGet":
        _check_path(about, str(probe.get("path", "/")), server, location)


def _check_grpc(about: str, probe: dict[str, Any], server: Server, location: Location) -> None:
    if not server.health:
        location.error(
            f"{about} needs the gRPC health service, which is off",
            "add --enable_grpc_healthcheck_service=true",
        )
    service = probe.get("service") or ""
    if service not in _HEALTH_SERVICES:
        location.error(
            f"{about} requests the health of {service!r}, which is not a service of TF Serving",
            "remove `service`, or write ModelService or PredictionService",
        )


def _check_path(about: str, path: str, server: Server, location: Location) -> None:
    model = re.match(r"/v1/models/([^/:]+)(/.*)?$", path)
    if path == server.metrics_path:
        return
    if model is None:
        location.error(
            f"{about} requests {path}, for which TF Serving returns an error",
            "use /v1/models/NAME/metadata, which is 200 while a version is served",
        )
    elif server.models and model[1] not in server.models:
        location.error(
            f"{about} requests the model {model[1]}, which is not configured",
            f"configured: {listed(server.models)}",
        )
    elif not model[2]:
        location.warn(
            f"{about} requests the status, which is 200 even if the model failed to load",
            f"use {path}/metadata or a grpc probe",
        )
