"""Versions of what makes a model, read from package metadata: nothing is imported."""

import platform
from importlib import metadata

_PACKAGES = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "ai-edge-litert", "tfx")


def stack() -> dict[str, str]:
    """Distribution name -> version, with Python's own."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
