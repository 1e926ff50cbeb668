"""Models, data input, training, compression and export: TensorFlow and tf_keras, nothing of TFX.

    from trainers import compress, evaluate, export, fit, load_recipe

These five names are the public Python API, see `docs/api.md`; everything else may change. They are
loaded at their first use, so that `import trainers` does not load TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.bundles.build import build_bundle as compress
    from trainers.bundles.push import export
    from trainers.loop import fit
    from trainers.recipes import load_recipe
    from trainers.training.evaluate import evaluate

__all__ = ["compress", "evaluate", "export", "fit", "load_recipe"]

# Public name -> module of this package, and the name there.
_PUBLIC = {
    "compress": ("bundles.build", "build_bundle"),
    "evaluate": ("training.evaluate", "evaluate"),
    "export": ("bundles.push", "export"),
    "fit": ("loop", "fit"),
    "load_recipe": ("recipes", "load_recipe"),
}


def __getattr__(name: str) -> Any:
    """The public object of this name, imported now."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(f".{module}", __name__), attribute)
