"""Compression methods: pruning, quantization-aware training, post-training quantization.

A method is one file, `trainers/compression/mymethod.py` or a plugin:

    def run(model, fine_tune, settings): ...
    compressors.register("mymethod")(Method("mymethod", dtypes=("int8",), run=run))

A method takes the model of its `start` and returns a new one with the same input and output;
`trainers.compression.convert` makes a TFLite file of it for each of `dtypes`, which rewrites
(`trainers.compression.rewrites`) then improve without training. Building and gates
use the attributes of `Method` only, never a list of names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from trainers.registry import compressors

if TYPE_CHECKING:
    from trainers.config import CompressConfig
    from trainers.keras import keras

__all__ = ["DTYPES", "FLOAT", "FineTune", "Method", "keeps_weights", "sparsity"]

#: The `start` of a method that begins with the trained float model.
FLOAT = "float"
#: The kinds of TFLite files.
DTYPES = ("fp32", "dynamic", "int8")

#: A convolution that reads pixels has this many input channels.
_PIXEL_CHANNELS = 3


class FineTune(Protocol):
    """Short training of a compressed model, on the data and augmentation of the recipe."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
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


def _unchanged(
    model: "keras.Model", fine_tune: FineTune, settings: "CompressConfig"
) -> "keras.Model":
    """`model` itself."""
    del fine_tune, settings
    return model


@dataclass(frozen=True)
class Method:
    """One way to compress.

    Attributes:
      name: the registered name; variants are called `<name>_<dtype>`.
      start: `float`, the trained model, or the name of the method whose result it takes.
      dtypes: TFLite files that are made of its result: `fp32`, `dynamic`, `int8`.
      run: (model, fine_tune, settings) -> a new model; `model` keeps its weights. By default
        the model itself.
      changes_weights: whether the result has other weights than the `start`. Its variants are then
        compared with its own float forward pass, otherwise with that of the `start`.
      needs_calibration: whether the ranges of an `int8` file come from calibration images, as for
        every float model, rather than from the model, as after quantization-aware training.
      rewrites: registered rewrites of its files, besides those of `compress.rewrites`.
      title: a few words for the model card; the name if empty.

    Raises:
      ValueError: an unknown dtype, a method that starts from itself or has the name of the trained
        model, or one that returns its model although it changes weights.
    """

    name: str
    start: str = FLOAT
    dtypes: tuple[str, ...] = ("int8",)
    run: "Callable[[keras.Model, FineTune, CompressConfig], keras.Model]" = _unchanged
    changes_weights: bool = True
    needs_calibration: bool = False
    rewrites: tuple[str, ...] = ()
    title: str = ""

    def __post_init__(self) -> None:
        """Checks the attributes against each other."""
        unknown = [dtype for dtype in self.dtypes if dtype not in DTYPES]
        if unknown or not self.dtypes:
            raise ValueError(
                f"compression method {self.name!r}: `dtypes` takes some of {', '.join(DTYPES)}, "
                f"got {self.dtypes!r}"
            )
        if self.name == FLOAT or self.start == self.name:
            raise ValueError(
                f"compression method {self.name!r} starts from {self.start!r}: {FLOAT!r} is the "
                "trained model, and a method cannot start from itself; give another name or start"
            )
        if self.changes_weights and self.run is _unchanged:
            raise ValueError(
                f"compression method {self.name!r} has no `run`; give one, or set "
                "changes_weights=False"
            )

    @property
    def has_trained_weights(self) -> bool:
        """Whether the result has the weights of the trained model."""
        if self.changes_weights:
            return False
        return self.start == FLOAT or compressors.get(self.start).has_trained_weights


def keeps_weights(variant: str) -> bool:
    """Whether a variant, e.g. `ptq_int8`, has the weights of the trained model.

    False for a variant of a method that is not registered here.
    """
    name = variant.rpartition("_")[0]
    return name in compressors.names() and compressors.get(name).has_trained_weights


def is_prunable(kernel: Any) -> bool:
    """Whether pruning applies: to Conv2D and Dense kernels, except those that read pixels.

    The first layer is small and sensitive, so it stays dense (Gale et al. 2019, section 5).
    """
    if kernel.name.split(":")[0].rpartition("/")[2] != "kernel":
        return False
    return len(kernel.shape) in (2, 4) and kernel.shape[-2] != _PIXEL_CHANNELS


def sparsity(model: "keras.Model") -> float:
    """Fraction of zero weights over all prunable kernels, in [0, 1]; 0 without any.

    Works on a float model and on models with pruning or quantization wrappers.
    """
    zeros = total = 0
    for weight in model.weights:
        if is_prunable(weight):
            values = weight.numpy()
            zeros += int((values == 0).sum())
            total += values.size
    return zeros / total if total else 0.0
