"""The gates a model must pass before it ships, as plain functions; nothing here knows TFX.

settings   requirements of a pipeline
verdicts   outcome of one gate: held, failed or not decided
columns    the predictions table: the kinds of columns, and the float pass of each variant
change     against the live model and the best one ever pushed: not worse by more than a margin
fairness   gaps of rates between groups, against a margin
agreement  a variant against its own float pass, counted in images
collapse   constant predictions, and variants far less accurate than their float pass
probe      not worse than a linear probe on the features that training started from
recommend  which variant to ship
decide     the verdict on one model

Settings and verdicts need the standard library only, so that the command line can read them. The
rest is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from components.gates.settings import GateSettings
from components.gates.verdicts import Gate, Verdict

if TYPE_CHECKING:
    from components.evaluation.columns import compare
    from components.gates.decide import judge

__all__ = ["Gate", "GateSettings", "Verdict", "compare", "judge"]

_LAZY = {"compare": "columns", "judge": "decide"}


def __getattr__(name: str) -> Any:
    """`compare` and `judge`, which load TensorFlow."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
