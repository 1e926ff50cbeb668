"""Checks of Kubernetes objects: schemas, containers and mounts."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from serving.deploy.check.findings import Location, listed, matches
from serving.deploy.check.kserve import check_inference_service
from serving.deploy.check.kustomize import check_kustomization
from serving.deploy.check.links import check_links
from serving.deploy.check.probes import check_probes
from serving.deploy.check.schemas import kubernetes_errors
from serving.deploy.check.server import (
    Container,
    Mount,
    check_container,
    check_image,
    is_tf_serving,
    server_arguments,
)
from serving.deploy.check.sources import Document
from serving.deploy.check.workload import Workload

_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod")


class Kubernetes:
    """The objects of a folder, checked together."""

    def __init__(self, documents: list[Document], bundles: Path | None, version: str) -> None:
        """Does not check anything yet.

        Args:
          documents: with `apiVersion` and `kind`.
          bundles: replaces the volume of the models.
          version: of Kubernetes.
        """
        self._bundles = bundles
        self._documents = documents
        self._version = version
        self._config_maps: dict[str, dict[str, str]] = {}

    def check(self) -> None:
        """Checks each object, and if all match their schemas, the references between them."""
        fits = {id(document): _fits_schema(document, self._version) for document in self._documents}
        self._documents = [document for document in self._documents if fits[id(document)]]
        if False in fits.values():
            return
        for document in self._of("ConfigMap"):
            data = {**(document.data.get("data") or {})}
            self._config_maps[document.data["metadata"]["name"]] = data
        for document in self._of("Kustomization"):
            self._config_maps.update(check_kustomization(document))
        workloads = [self._workload(document) for document in self._of(*_WORKLOADS)]
        for document in self._of("InferenceService"):
            check_inference_service(document, self._bundles)
        check_links(self._documents, workloads)

    def _of(self, *kinds: str) -> Iterator[Document]:
        return (document for document in self._documents if document.data["kind"] in kinds)

    def _workload(self, document: Document) -> Workload:
        spec = document.data["spec"]
        template = document.data if document.data["kind"] == "Pod" else spec["template"]
        metadata = template.get("metadata") or {}
        workload = Workload(
            document=document,
            labels=metadata.get("labels") or {},
            annotations=metadata.get("annotations") or {},
            spec=template["spec"],
        )
        selector = (spec.get("selector") or {}).get("matchLabels")
        if not matches(selector, workload.labels):
            document.location.error(
                f"the selector {selector} does not match its own pods, {workload.labels}",
                "add the selector's labels to the template",
            )
        volumes = {volume["name"]: volume for volume in workload.spec.get("volumes") or []}
        for container in workload.spec.get("initContainers") or []:
            check_image(container.get("image", ""), document.location)
            self._mounts(container, volumes, document.location)
        for container in workload.spec["containers"]:
            self._check_container(container, volumes, workload)
        return workload

    def _check_container(
        self, container: dict[str, Any], volumes: dict[str, Any], workload: Workload
    ) -> None:
        location = workload.document.location
        image = container.get("image", "")
        command = container.get("command") or []
        check_image(image, location)
        mounts = self._mounts(container, volumes, location)
        declared: dict[str, int] = {}
        for port in container.get("ports") or []:
            declared[str(port["containerPort"])] = port["containerPort"]
            declared[port.get("name", str(port["containerPort"]))] = port["containerPort"]
        workload.ports.update(declared)
        server = None
        if is_tf_serving(image, command):
            environment = {
                entry["name"]: entry.get("value", "") for entry in container.get("env") or []
            }
            arguments = server_arguments(command, container.get("args") or [], environment)
            server = check_container(Container(location, arguments, mounts, self._bundles))
            workload.servers.append(server)
            for number in sorted(set(declared.values()) - set(server.ports.values())):
                location.error(
                    f"the flags of the container do not open its port {number}",
                    f"they open {listed(server.ports.values())}",
                )
        check_probes(container, declared, server, location)

    def _mounts(
        self, container: dict[str, Any], volumes: dict[str, Any], location: Location
    ) -> list[Mount]:
        mounts = []
        for mount in container.get("volumeMounts") or []:
            volume = volumes.get(mount["name"])
            if volume is None:
                location.error(
                    f"{container['name']} mounts the volume {mount['name']}, which is not defined",
                    f"volumes: {listed(volumes)}",
                )
                continue
            mounts.append(self._mount(mount, volume, location))
        return mounts

    def _mount(self, mount: dict[str, Any], volume: dict[str, Any], location: Location) -> Mount:
        target, description = mount["mountPath"], f"the volume {volume['name']}"
        sources = [volume]
        if "projected" in volume:
            sources = volume["projected"].get("sources") or []
        if not any("configMap" in source for source in sources):
            self._check_claim(volume, location)
            return Mount(target=target, description=description)
        files: dict[str, str] = {}
        for source in sources:
            if "configMap" in source:
                files.update(self._files(source["configMap"], location))
        if "subPath" in mount:
            path = PurePosixPath(target)
            files = {path.name: files[mount["subPath"]]} if mount["subPath"] in files else {}
            target = path.parent.as_posix()
            location.warn(
                f"{path} is mounted by subPath, so it is not updated with the ConfigMap",
                "mount the folder",
            )
        return Mount(target=target, files=files, description=description)

    def _files(self, source: dict[str, Any], location: Location) -> dict[str, str]:
        """The files that a ConfigMap is mounted as."""
        data = self._config_maps.get(source.get("name", ""))
        if data is None:
            if not source.get("optional"):
                location.error(
                    f"the ConfigMap {source.get('name')} is not defined",
                    f"ConfigMaps: {listed(self._config_maps)}",
                )
            return {}
        items = source.get("items")
        if not items:
            return data
        for item in items:
            if item["key"] not in data:
                location.error(
                    f"the ConfigMap {source['name']} has no key {item['key']}",
                    f"keys: {listed(data)}",
                )
        return {item["path"]: data[item["key"]] for item in items if item["key"] in data}

    def _check_claim(self, volume: dict[str, Any], location: Location) -> None:
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        claims = [
            document.data["metadata"].get("name") for document in self._of("PersistentVolumeClaim")
        ]
        if claim and claim not in claims:
            location.warn(
                f"the PersistentVolumeClaim {claim} is not defined in these files",
                "make sure that the cluster has it",
            )


def _fits_schema(document: Document, version: str) -> bool | None:
    """Whether an object matches its schema; None for a custom kind without a schema here."""
    errors = kubernetes_errors(document.data, version)
    if errors is None:
        kind = f"{document.data['apiVersion']} {document.data['kind']}"
        # Kubernetes' own groups have short names, or end in k8s.io, as do some custom ones.
        if "." not in str(document.data["apiVersion"]):
            document.location.error(
                f"Kubernetes {version} has no {kind}", "fix apiVersion or kind, then check again"
            )
            return False
        document.location.warn(f"no schema of {kind}; not checked", "verify kind and version")
        return None
    for error in errors:
        document.location.error(error, f"see the schema of Kubernetes {version}, then check again")
    return not errors
