"""Checks of a kustomization: its files, and the ConfigMaps that it generates."""

from pathlib import Path
from typing import Any

from serving.deploy.check.findings import Location
from serving.deploy.check.sources import Document


def check_kustomization(document: Document) -> dict[str, dict[str, str]]:
    """Checks the files that a kustomization names.

    Returns:
      ConfigMap -> key -> text, as generated, without the hash that kustomize appends to names.
    """
    location, folder = document.location, document.path.parent
    for name in [*(document.data.get("resources") or []), *(document.data.get("components") or [])]:
        if "://" not in name and not (folder / name).exists():
            location.error(
                f"the resource {name} does not exist", "add the file, or remove it from the list"
            )
    generators = document.data.get("configMapGenerator") or []
    return {generator["name"]: _generated(generator, folder, location) for generator in generators}


def _generated(generator: dict[str, Any], folder: Path, location: Location) -> dict[str, str]:
    files: dict[str, str] = {}
    for entry in generator.get("files") or []:
        key, _, name = entry.rpartition("=")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            location.error(
                f"the file {name} is outside the kustomization's folder, which kustomize rejects",
                "move kustomization.yaml to a common parent folder, or move the file",
            )
        if not path.is_file():
            location.error(f"the file {name} of {generator['name']} does not exist", "add it")
            continue
        files[key or path.name] = path.read_text(encoding="utf-8")
    for literal in generator.get("literals") or []:
        key, _, value = literal.partition("=")
        files[key] = value
    return files
