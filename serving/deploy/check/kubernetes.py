"""Kubernetes objects: their schemas, and the containers in them with what is mounted."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from serving.deploy.check.findings import Place, known, matches
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
        """Looks at nothing yet.

        Args:
          documents: with `apiVersion` and `kind`.
          bundles: the folder that stands for the volume that the models lie in.
          version: of Kubernetes.
        """
        self._bundles = bundles
        self._documents = documents
        self._version = version
        self._config_maps: dict[str, dict[str, str]] = {}

    def check(self) -> None:
        """Checks each object, then, if none breaks its schema, all against each other."""
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
            document.place.error(
                f"the selector {selector} does not choose its own pods, {workload.labels}",
                "give the template the selector's labels",
            )
        volumes = {volume["name"]: volume for volume in workload.spec.get("volumes") or []}
        for container in workload.spec.get("initContainers") or []:
            check_image(container.get("image", ""), document.place)
            self._mounts(container, volumes, document.place)
        for container in workload.spec["containers"]:
            self._check_container(container, volumes, workload)
        return workload

    def _check_container(
        self, container: dict[str, Any], volumes: dict[str, Any], workload: Workload
    ) -> None:
        place = workload.document.place
        image = container.get("image", "")
        command = container.get("command") or []
        check_image(image, place)
        mounts = self._mounts(container, volumes, place)
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
            server = check_container(Container(place, arguments, mounts, self._bundles))
            workload.servers.append(server)
            for number in sorted(set(declared.values()) - set(server.ports.values())):
                place.error(
                    f"the container's port {number} is not one that its flags open",
                    f"they open {known(server.ports.values())}",
                )
        check_probes(container, declared, server, place)

    def _mounts(
        self, container: dict[str, Any], volumes: dict[str, Any], place: Place
    ) -> list[Mount]:
        mounts = []
        for mount in container.get("volumeMounts") or []:
            volume = volumes.get(mount["name"])
            if volume is None:
                place.error(
                    f"{container['name']} mounts the volume {mount['name']}, which is not there",
                    f"volumes: {known(volumes)}",
                )
                continue
            mounts.append(self._mount(mount, volume, place))
        return mounts

    def _mount(self, mount: dict[str, Any], volume: dict[str, Any], place: Place) -> Mount:
        target, about = mount["mountPath"], f"the volume {volume['name']}"
        sources = [volume]
        if "projected" in volume:
            sources = volume["projected"].get("sources") or []
        if not any("configMap" in source for source in sources):
            self._check_claim(volume, place)
            return Mount(target=target, about=about)
        files: dict[str, str] = {}
        for source in sources:
            if "configMap" in source:
                files.update(self._files(source["configMap"], place))
        if "subPath" in mount:
            path = PurePosixPath(target)
            files = {path.name: files[mount["subPath"]]} if mount["subPath"] in files else {}
            target = path.parent.as_posix()
            place.warn(
                f"{path} is mounted by subPath, so a changed ConfigMap does not reach it",
                "mount the folder",
            )
        return Mount(target=target, files=files, about=about)

    def _files(self, source: dict[str, Any], place: Place) -> dict[str, str]:
        """The files that a ConfigMap is mounted as."""
        data = self._config_maps.get(source.get("name", ""))
        if data is None:
            if not source.get("optional"):
                place.error(
                    f"the ConfigMap {source.get('name')} is not there",
                    f"ConfigMaps: {known(self._config_maps)}",
                )
            return {}
        items = source.get("items")
        if not items:
            return data
        for item in items:
            if item["key"] not in data:
                place.error(
                    f"the ConfigMap {source['name']} has no key {item['key']}",
                    f"keys: {known(data)}",
                )
        return {item["path"]: data[item["key"]] for item in items if item["key"] in data}

    def _check_claim(self, volume: dict[str, Any], place: Place) -> None:
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        claims = [
            document.data["metadata"].get("name") for document in self._of("PersistentVolumeClaim")
        ]
        if claim and claim not in claims:
            place.warn(
                f"the PersistentVolumeClaim {claim} is not among the files",
                "see that the cluster has it",
            )


def _fits_schema(document: Document, version: str) -> bool | None:
    """Whether an object is as its schema says; None for a custom kind, which has none here."""
    errors = kubernetes_errors(document.data, version)
    if errors is None:
        kind = f"{document.data['apiVersion']} {document.data['kind']}"
        # Kubernetes' own groups have short names, or end in k8s.io as some custom ones do as well.
        if "." not in str(document.data["apiVersion"]):
            document.place.error(
                f"Kubernetes {version} has no {kind}", "mend apiVersion or kind, then check again"
            )
            return False
        document.place.warn(
            f"no schema of {kind}; not checked", "see that kind and version are right"
        )
        return None
    for error in errors:
        document.place.error(
            error, f"mend it by the schema of Kubernetes {version}, then check again"
        )
    return not errors
