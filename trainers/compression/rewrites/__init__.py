"""Rewrites: a converted .tflite file in, a better one out, without training.

A rewrite is one file, `trainers/compression/rewrites/myrewrite.py` or a plugin:

    def run(content, conversion): ...  # -> (new bytes, facts for the manifest)
    rewrites.register("myrewrite")(Rewrite("myrewrite", run, stage="graph"))

`compress.rewrites` lists the rewrites of every file, and `Method.rewrites` those of the files of
one method. They run by stage, within a stage in the listed order, in the converter's process
(`trainers.compression.convert_worker`). Nothing here depends on the task: a rewrite sees operators,
tensors, images and the outputs of the float network.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.compression import DTYPES
from trainers.registry import rewrites

__all__ = ["STAGES", "Conversion", "Facts", "Rewrite", "in_order"]

#: Stages in the order that they run: operators and types; weights and biases; descriptions.
STAGES = ("graph", "values", "contents")

#: Facts about one rewrite of one file, for the manifest: JSON values.
Facts = dict[str, Any]


@dataclass(frozen=True)
class Conversion:
    """What a rewrite may use besides the file.

    Attributes:
      name: of the variant, e.g. `ptq_int8`.
      dtype: `fp32`, `dynamic` or `int8`.
      floats: returns the network before quantization as a .tflite file, up to its raw outputs.
      reference: returns the raw outputs of the float network for `samples`, (M, ...) float32.
      labels: class names in label order; may be empty.
      calibration: (M, H, W, 3) uint8 images that set the ranges of the file; None if its ranges
        come from training, or it has none.
      samples: (M, H, W, 3) uint8 images to measure on; None without any.
      cache: name of a rewrite -> its results that do not depend on the file, for the other file of
        a trial.
    """

    name: str
    dtype: str
    floats: Callable[[], bytes]
    reference: Callable[[], NDArray[np.float32]]
    labels: tuple[str, ...] = ()
    calibration: NDArray[np.uint8] | None = None
    samples: NDArray[np.uint8] | None = None
    cache: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rewrite:
    """One rewrite of a .tflite file.

    Attributes:
      name: the registered name.
      run: (file, conversion) -> (the new file or the same bytes, facts). With `why`, the facts
        explain why the file is unchanged.
      stage: one of `STAGES`.
      dtypes: of the files that it applies to.
      needs_calibration: whether it applies only to files whose ranges come from images.
      trial: whether the file is finished with and without it, both are measured, and it is kept
        only if the result is neither less accurate nor slower.
      title: a few words for tables; the name if empty.

    Raises:
      ValueError: an unknown stage or dtype.
    """

    name: str
    run: Callable[[bytes, Conversion], tuple[bytes, Facts]]
    stage: str
    dtypes: tuple[str, ...] = DTYPES
    needs_calibration: bool = False
    trial: bool = False
    title: str = ""

    def __post_init__(self) -> None:
        """Checks stage and dtypes."""
        if self.stage not in STAGES:
            raise ValueError(
                f"rewrite {self.name!r}: `stage` must be one of {', '.join(STAGES)}, "
                f"got {self.stage!r}"
            )
        if not self.dtypes or not set(self.dtypes) <= set(DTYPES):
            raise ValueError(
                f"rewrite {self.name!r}: `dtypes` takes some of {', '.join(DTYPES)}, "
                f"got {self.dtypes!r}"
            )

    def applies_to(self, conversion: Conversion) -> bool:
        """Whether files of this conversion are rewritten."""
        calibrated = conversion.calibration is not None
        return conversion.dtype in self.dtypes and (calibrated or not self.needs_calibration)


def in_order(names: Iterable[str]) -> list[Rewrite]:
    """The rewrites with these names in the order that they run; a repeated name counts once.

    Raises:
      UnknownNameError: no such rewrite; has the nearest names.
      ValueError: a rewrite is registered under another name than its own.
    """
    found = []
    for name in dict.fromkeys(names):
        one = rewrites.get(name)
        if one.name != name:
            raise ValueError(
                f"the rewrite registered as {name!r} ({rewrites.origin(name)}) calls itself "
                f"{one.name!r}; give both the same name"
            )
        found.append(one)
    return sorted(found, key=lambda one: STAGES.index(one.stage))
