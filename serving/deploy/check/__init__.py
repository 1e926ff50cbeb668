"""Checks deployment files offline, without a cluster, Docker or a network.

    findings = check(Path("serving/deploy"), bundles=Path("bundles"))

`kubernetes.py` and `compose.py` find the containers and their mounts, `server.py` resolves their
flags to files and models, `links.py` checks references between Kubernetes objects.
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
    """All findings in the deployment files under a folder.

    Args:
      folder: Compose files, Kubernetes objects, kustomizations and the files that they refer to.
      bundles: the folder that is mounted at the models' base paths; None uses the default mounts of
        a Compose file, and does not check the versions of other models.
      kubernetes_version: version of the schema; None is `KUBERNETES_VERSION`.

    Raises:
      CheckError: the folder does not exist or has no files to check, or a schema is missing.
    """
    if not folder.is_dir():
        raise CheckError(f"{folder} is not a folder; specify the folder of the deployment files")
    if bundles is not None and not bundles.is_dir():
        raise CheckError(f"--bundles: {bundles} is not a folder; specify the folder of the models")
    findings = Findings()
    documents = [
        document
        for path in yaml_files(folder)
        for document in read_documents(path, folder, findings)
    ]
    if not findings.looked_at:
        raise CheckError(f"{folder} has no .yaml or .yml file to check")
    objects = []
    for document in documents:
        if _is_compose(document):
            check_compose(document, bundles)
        elif "kind" in document.data and "apiVersion" in document.data:
            objects.append(document)
        else:
            document.location.warn(
                "neither a Kubernetes object nor a Compose file; not checked",
                "add apiVersion and kind, or services",
            )
    Kubernetes(objects, bundles, kubernetes_version or KUBERNETES_VERSION).check()
    return findings


def _is_compose(document: Document) -> bool:
    return "services" in document.data and "kind" not in document.data
