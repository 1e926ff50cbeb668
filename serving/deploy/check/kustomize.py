"""A kustomization: that its files are there, and the ConfigMaps that it generates."""

from pathlib import Path
from typing import Any

from serving.deploy.check.findings import Place
from serving.deploy.check.sources import Document


def check_kustomization(document: Document) -> dict[str, dict[str, str]]:
    """Checks the files that a kustomization names.

    Returns:
      ConfigMap -> key -> text, as generated; without the hash that kustomize appends and also
      writes into every reference.
    """
    place, folder = document.place, document.path.parent
    for name in [*(document.data.get("resources") or []), *(document.data.get("components") or [])]:
        if "://" not in name and not (folder / name).exists():
            place.error(
                f"the resource {name} is not there", "add the file, or take it off the list"
            )
    generators = document.data.get("configMapGenerator") or []
    return {generator["name"]: _generated(generator, folder, place) for generator in generators}


def _generated(generator: dict[str, Any], folder: Path, place: Place) -> dict[str, str]:
    files: dict[str, str] = {}
    for entry in generator.get("files") or []:
        key, _, name = entry.rpartition("=")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            place.error(
                f"the file {name} lies outside the kustomization's folder; kustomize refuses it",
                "move kustomization.yaml up, or the file down",
            )
        if not path.is_file():
            place.error(f"the file {name} of {generator['name']} is not there", "add it")
            continue
        files[key or path.name] = path.read_text(encoding="utf-8")
    for literal in generator.get("literals") or []:
        key, _, value = literal.partition("=")
        files[key] = value
    return files
