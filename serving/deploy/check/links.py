"""Checks of references between Kubernetes objects: services, scaling, policies, monitoring."""

from collections.abc import Callable, Sequence
from typing import Any

from serving.deploy.check.findings import listed, matches
from serving.deploy.check.sources import Document
from serving.deploy.check.workload import Workload

_Check = Callable[[Document, Sequence[Document], Sequence[Workload]], None]


def check_links(documents: Sequence[Document], workloads: Sequence[Workload]) -> None:
    """Checks every object that refers to another one.

    Args:
      documents: all objects; each matches its schema.
      workloads: the objects with pods.
    """
    for document in documents:
        check = _CHECKS.get(document.data["kind"])
        if check is not None:
            check(document, documents, workloads)
    for workload in workloads:
        _check_annotations(workload)


def _check_service(
    document: Document, documents: Sequence[Document], workloads: Sequence[Workload]
) -> None:
    del documents
    spec = document.data["spec"]
    if not spec.get("selector"):
        return
    selected = _selected(document, spec["selector"], workloads)
    for workload in selected:
        for port in spec.get("ports") or []:
            target = str(port.get("targetPort", port["port"]))
            if target not in workload.ports:
                document.location.error(
                    f"the port {port.get('name', port['port'])} goes to {target}, which "
                    f"{'/'.join(workload.kind_and_name)} does not declare",
                    f"it declares {listed(workload.ports)}",
                )


def _check_autoscaler(
    document: Document, documents: Sequence[Document], workloads: Sequence[Workload]
) -> None:
    del documents
    location, spec = document.location, document.data["spec"]
    low, high = spec.get("minReplicas", 1), spec["maxReplicas"]
    if low > high:
        location.error(f"minReplicas {low} is above maxReplicas {high}", "swap them")
    target = spec["scaleTargetRef"]
    found = [w for w in workloads if w.kind_and_name == (target["kind"], target["name"])]
    if not found:
        defined = listed("/".join(workload.kind_and_name) for workload in workloads)
        location.error(
            f"it scales {target['kind']}/{target['name']}, which is not defined", defined
        )
        return
    (workload, *_) = found
    replicas = workload.document.data["spec"].get("replicas")
    if replicas is not None and not low <= replicas <= high:
        location.error(
            f"{target['name']} has {replicas} replicas, outside {low} to {high}",
            "remove `replicas`, or choose a number in the range",
        )
    for metric in spec.get("metrics") or []:
        resource = (metric.get("resource") or {}).get("name")
        if resource and metric["resource"]["target"].get("type") == "Utilization":
            _check_request(document, workload, resource)


def _check_request(document: Document, workload: Workload, resource: str) -> None:
    for container in workload.spec["containers"]:
        if resource not in ((container.get("resources") or {}).get("requests") or {}):
            document.location.error(
                f"it scales by a share of requested {resource}, and the container "
                f"{container['name']} requests none",
                f"add resources.requests.{resource}",
            )


def _check_disruption(
    document: Document, documents: Sequence[Document], workloads: Sequence[Workload]
) -> None:
    location, spec = document.location, document.data["spec"]
    selector = (spec.get("selector") or {}).get("matchLabels")
    wanted = spec.get("minAvailable")
    for workload in _selected(document, selector, workloads):
        low = _least_replicas(workload, documents)
        blocks = wanted == "100%" or (isinstance(wanted, int) and wanted >= low)
        if blocks or spec.get("maxUnavailable") in (0, "0%"):
            location.error(
                f"no pod can be evicted, because there may be only {low}",
                "write maxUnavailable: 1, or increase the replicas",
            )


def _least_replicas(workload: Workload, documents: Sequence[Document]) -> int:
    for document in documents:
        if document.data["kind"] == "HorizontalPodAutoscaler":
            spec = document.data["spec"]
            target = spec["scaleTargetRef"]
            if (target["kind"], target["name"]) == workload.kind_and_name:
                return spec.get("minReplicas", 1)
    return workload.document.data["spec"].get("replicas", 1)


def _check_policy(
    document: Document, documents: Sequence[Document], workloads: Sequence[Workload]
) -> None:
    del documents
    spec = document.data["spec"]
    selector = (spec.get("podSelector") or {}).get("matchLabels")
    for workload in _selected(document, selector, workloads):
        for rule in spec.get("ingress") or []:
            for port in rule.get("ports") or []:
                if "port" in port and str(port["port"]) not in workload.ports:
                    document.location.error(
                        f"it allows port {port['port']}, which {'/'.join(workload.kind_and_name)} "
                        "does not declare",
                        f"it declares {listed(workload.ports)}",
                    )


def _check_monitor(
    document: Document, documents: Sequence[Document], workloads: Sequence[Workload]
) -> None:
    location, spec = document.location, document.data["spec"]
    selector = spec["selector"].get("matchLabels")
    services = [
        other
        for other in documents
        if other.data["kind"] == "Service"
        and matches(selector, other.data["metadata"].get("labels"))
    ]
    if not services:
        location.error(f"no Service has the labels {selector}", "add the labels to the Service")
    for service in services:
        names = [port.get("name") for port in service.data["spec"].get("ports") or []]
        selected = service.data["spec"].get("selector")
        paths = _metrics_paths([w for w in workloads if matches(selected, w.labels)])
        for endpoint in spec["endpoints"]:
            if "port" in endpoint and endpoint["port"] not in names:
                location.error(
                    f"the Service has no port named {endpoint['port']}", f"it has {listed(names)}"
                )
            path = endpoint.get("path", "/metrics")
            if paths and path not in paths:
                location.error(f"it requests {path}", f"the metrics are at {listed(paths)}")


def _check_annotations(workload: Workload) -> None:
    """The annotations of the common Prometheus scrape configuration."""
    location, annotations = workload.document.location, workload.annotations
    if annotations.get("prometheus.io/scrape") != "true":
        return
    port = annotations.get("prometheus.io/port")
    if port is not None and port not in workload.ports:
        location.error(f"prometheus.io/port is {port}", f"declared: {listed(workload.ports)}")
    path = annotations.get("prometheus.io/path", "/metrics")
    paths = _metrics_paths([workload])
    if workload.servers and path not in paths:
        location.error(f"prometheus.io/path is {path}", f"the metrics are at {listed(paths)}")


def _metrics_paths(workloads: Sequence[Workload]) -> list[str]:
    servers = [server for workload in workloads for server in workload.servers]
    return [server.metrics_path for server in servers if server.metrics_path]


def _selected(
    document: Document, selector: dict[str, Any] | None, workloads: Sequence[Workload]
) -> list[Workload]:
    """The workloads that a selector matches; an empty result is reported."""
    found = [workload for workload in workloads if matches(selector, workload.labels)]
    if not found:
        labels = listed(workload.labels for workload in workloads)
        document.location.error(f"the selector {selector} matches no pods", f"labels: {labels}")
    return found


_CHECKS: dict[str, _Check] = {
    "Service": _check_service,
    "HorizontalPodAutoscaler": _check_autoscaler,
    "PodDisruptionBudget": _check_disruption,
    "NetworkPolicy": _check_policy,
    "ServiceMonitor": _check_monitor,
}
