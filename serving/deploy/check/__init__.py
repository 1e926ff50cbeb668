"""Reads deployment files and says what would not work, without a cluster, Docker or a network.

    findings = check(Path("serving/deploy"), bundles=Path("bundles"))

Read in this order: `kubernetes.py` and `compose.py` find the containers and what is mounted in
them, `server.py` follows their flags to the files and the models, `links.py` holds Kubernetes
objects against each other.
"""

from pathlib import Path

from serving.deploy.check.compose import check_compose
from serving.deploy.check.findings import CheckError, Finding, Findings
from serving.deploy.check.kubernetes import Kubernetes
from serving.deploy.check.schemas import KUBERNETES_VERSION
from serving.deploy.check.sources import Document, read_documents, yaml_files

__all__ = ["KUBERNETES_VERSION", "CheckError", "Finding", "Findings", "check"]


def check(
    folder: Path, bundles: Path | None = None, *, kubernetes_version: str | None = None
) -> Findings:
    """Every finding about the deployment files under a folder.

    Args:
      folder: holds Compose files, Kubernetes objects, kustomizations and what they refer to.
      bundles: the folder that is mounted where the models' base paths lie; None looks at what a
        Compose file mounts by default, and leaves the versions of the other models alone.
      kubernetes_version: whose schema is taken; None is `KUBERNETES_VERSION`.

    Raises:
      CheckError: no such folder, nothing to check in it, or no schemas.
    """
    if not folder.is_dir():
        raise CheckError(f"{folder} is not a folder; give one with deployment files")
    if bundles is not None and not bundles.is_dir():
        raise CheckError(f"{bundles} is not a folder; --bundles is the one that holds the models")
    findings = Findings()
    documents = [
        document
        for path in yaml_files(folder)
        for document in read_documents(path, folder, findings)
    ]
    if not findings.looked_at:
        raise CheckError(f"{folder} holds no .yaml or .yml file; nothing to check")
    objects = []
    for document in documents:
        if _is_compose(document):
            check_compose(document, bundles)
        elif "kind" in document.data and "apiVersion" in document.data:
            objects.append(document)
        else:
            document.place.warn(
                "neither a Kubernetes object nor a Compose file; not checked",
                "add apiVersion and kind, or services",
            )
    Kubernetes(objects, bundles, kubernetes_version or KUBERNETES_VERSION).check()
    return findings


def _is_compose(document: Document) -> bool:
    return "services" in document.data and "kind" not in document.data
