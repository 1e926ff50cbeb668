"""A container's probes against its ports and what its server answers."""

import re
from typing import Any

from serving.deploy.check.findings import Place, known
from serving.deploy.check.server import Server

_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
#: The names that TF Serving's health service knows; the empty one is the whole server.
_HEALTH_SERVICES = ("", "ModelService", "PredictionService")


def check_probes(
    container: dict[str, Any], ports: dict[str, int], server: Server | None, place: Place
) -> None:
    """Checks the probes of a container.

    Args:
      container: as in the manifest.
      ports: name, or number as text, -> number, as the container declares them.
      server: what it serves; None for anything but TF Serving.
      place: where to report.
    """
    for name in _PROBES:
        probe = container.get(name)
        if probe is not None:
            _check_probe(name, probe, ports, server, place)
        elif server is not None:
            place.warn(
                f"{container['name']} has no {name}",
                "see serving/deploy/kubernetes/deployment.yaml",
            )


def _check_probe(
    name: str, probe: dict[str, Any], ports: dict[str, int], server: Server | None, place: Place
) -> None:
    kinds = [kind for kind in ("grpc", "httpGet", "tcpSocket") if probe.get(kind)]
    for kind in kinds:
        port = str(probe[kind]["port"])
        if port not in ports:
            place.error(
                f"the {name} asks port {port}, which the container does not declare",
                f"it declares {known(ports)}",
            )
            continue
        if server is not None:
            _check_against_server(f"the {name}", kind, probe[kind], (ports[port], server), place)


def _check_against_server(
    about: str, kind: str, probe: dict[str, Any], target: tuple[int, Server], place: Place
) -> None:
    port, server = target
    wanted = {"grpc": "grpc", "httpGet": "rest"}.get(kind)
    if wanted and server.ports.get(wanted) != port:
        place.error(
            f"{about} speaks {wanted} to port {port}",
            f"{wanted} is on {server.ports.get(wanted, 'no port')}",
        )
    if kind == "grpc":
        _check_grpc(about, probe, server, place)
    if kind == "httpGet":
        _check_path(about, str(probe.get("path", "/")), server, place)


def _check_grpc(about: str, probe: dict[str, Any], server: Server, place: Place) -> None:
    if not server.health:
        place.error(
            f"{about} asks gRPC's health service, which is off",
            "add --enable_grpc_healthcheck_service=true",
        )
    service = probe.get("service") or ""
    if service not in _HEALTH_SERVICES:
        place.error(
            f"{about} asks for the health of {service!r}, which TF Serving does not know",
            "leave `service` out, or write ModelService or PredictionService",
        )


def _check_path(about: str, path: str, server: Server, place: Place) -> None:
    model = re.match(r"/v1/models/([^/:]+)(/.*)?$", path)
    if path == server.metrics_path:
        return
    if model is None:
        place.error(
            f"{about} asks for {path}, which TF Serving answers with an error",
            "ask for /v1/models/NAME/metadata: 200 while a version of it is served",
        )
    elif server.models and model[1] not in server.models:
        place.error(
            f"{about} asks for the model {model[1]}, which is not configured",
            f"configured: {known(server.models)}",
        )
    elif not model[2]:
        place.warn(
            f"{about} asks for a status, which is 200 also for a model that failed to load",
            f"ask for {path}/metadata, or use a grpc probe",
        )
