"""Making a trained model smaller: pruning, quantisation-aware training, TFLite.

How to add a method in one file, `trainers/compression/mymethod.py`:

    def run(model, fine_tune, settings): ...
    compressors.register("mymethod")(Method("mymethod", start="float", dtypes=("int8",), run=run))

A method gets the trained model of its `start` and gives back a new one of the same input and
output; `trainers.compression.convert` turns that into TFLite files, one for each of `dtypes`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from trainers.config import CompressConfig
    from trainers.keras import keras

__all__ = ["FLOAT", "FineTune", "Method", "sparsity"]

#: The `start` of a method that begins at the trained float model.
FLOAT = "float"

#: A convolution that reads pixels has this many input channels.
_PIXEL_CHANNELS = 3


class FineTune(Protocol):
    """Short training of a model that compression changed, on the recipe's own data and augment."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that one epoch takes."""
        ...

    def __call__(
        self,
        model: "keras.Model",
        *,
        epochs: int,
        learning_rate: float,
        callbacks: Sequence[Any] = (),
    ) -> None:
        """Compiles `model` (cross-entropy from logits, cosine to 0) and trains it in place."""
        ...


@dataclass(frozen=True)
class Method:
    """One way to compress.

    Attributes:
      name: what the registry and a bundle's variants call it.
      start: `float`, the trained model, or the name of the method whose result it takes.
      dtypes: TFLite dtypes worth making of its result: `fp32`, `dynamic`, `int8`.
      run: (model, fine_tune, settings) -> a new model; `model` keeps its weights.
    """

    name: str
    start: str
    dtypes: tuple[str, ...]
    run: "Callable[[keras.Model, FineTune, CompressConfig], keras.Model]"


def is_prunable(kernel: Any) -> bool:
    """Whether pruning touches this variable: Conv2D and Dense kernels but those that read pixels.

    The first layer is small and sensitive, so it stays dense (Gale et al. 2019, section 5).
    """
    if kernel.name.split(":")[0].rpartition("/")[2] != "kernel":
        return False
    return len(kernel.shape) in (2, 4) and kernel.shape[-2] != _PIXEL_CHANNELS


def sparsity(model: "keras.Model") -> float:
    """Fraction of zero weights over all prunable kernels, in [0, 1]; 0 where there are none.

    Works on a float model and on what pruning or quantisation wrappers hold.
    """
    zeros = total = 0
    for weight in model.weights:
        if is_prunable(weight):
            values = weight.numpy()
            zeros += int((values == 0).sum())
            total += values.size
    return zeros / total if total else 0.0
