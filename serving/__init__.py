"""Bundles and the ways to serve, call and time them; knows nothing of how they were made.

    from serving import Client, load_bundle

These two names are the public Python API, see `docs/api.md`; everything else may change. They are
loaded at their first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.client import Client
    from serving.engines.engine import open_engine as load_bundle

__all__ = ["Client", "load_bundle"]

# Public name -> module of this package, and the name there.
_PUBLIC = {"Client": ("client", "Client"), "load_bundle": ("engines.engine", "open_engine")}


def __getattr__(name: str) -> Any:
    """The public object of this name, imported now."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(f".{module}", __name__), attribute)
