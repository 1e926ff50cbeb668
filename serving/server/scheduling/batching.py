"""TF Serving's batching rules as functions of arrays: what may share a run, merging, splitting."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serving.server.errors import ServerError, ServingError, invalid
from serving.server.scheduling.calls import Outputs

#: Under `--enable_per_model_batching_parameters`, in a version's folder.
PER_MODEL_FILE = "batching_params.pbtxt"
_MAX_PADDED_RANK = 6


@dataclass(frozen=True)
class BatchingOptions:
    """A `BatchingParameters`, with TF Serving's defaults, and our own `adaptive`.

    Attributes:
      max_batch_size: rows of one request, and of one run unless large batches are split.
      batch_timeout_micros: that the first request of a batch waits for others.
      max_enqueued_batches: that wait for a thread, of one signature; more is UNAVAILABLE.
      num_batch_threads: runs at a time, over all models; 0 is one a core.
      thread_pool_name: label of the queuing metric.
      allowed_batch_sizes: ascending; a batch is padded to the next of them.
      pad_variable_length_inputs: pad all dimensions but the first to the batch's largest.
      enable_large_batch_splitting: a request may be spread over several runs.
      max_execution_batch_size: rows of one run when splitting; 0 is `max_batch_size`.
      adaptive: a request runs at once, in its own thread, while a batch thread is free; requests
        that cannot share a batch run alone.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 0
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0
    adaptive: bool = False

    def __post_init__(self) -> None:
        """Refuses what TF Serving refuses.

        Raises:
          ServerError: names the parameter.
        """
        for name in ("max_batch_size", "max_enqueued_batches"):
            if getattr(self, name) < 1:
                raise ServerError(f"{name} must be positive; was {getattr(self, name)}")
        for name in ("batch_timeout_micros", "num_batch_threads", "max_execution_batch_size"):
            if getattr(self, name) < 0:
                raise ServerError(f"{name} must be non-negative; was {getattr(self, name)}")
        if self.run_limit > self.max_batch_size:
            raise ServerError(
                "When enable_large_batch_splitting is true, max_batch_size must be greater than or "
                f"equal to max_execution_batch_size; {self.max_batch_size} is less than "
                f"{self.run_limit}"
            )
        self._check_allowed_sizes()

    def _check_allowed_sizes(self) -> None:
        sizes = self.allowed_batch_sizes
        if not sizes:
            return
        if list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise ServerError(
                "allowed_batch_sizes entries must be monotonically increasing; were "
                + ", ".join(map(str, sizes))
            )
        name = "max_execution_batch_size" if self.splits else "max_batch_size"
        if sizes[-1] != self.run_limit:
            raise ServerError(
                f"Last entry in allowed_batch_sizes must match {name}; last entry was "
                f"{sizes[-1]}; expected {self.run_limit}"
            )

    @property
    def splits(self) -> bool:
        """Whether a request may be spread over several runs."""
        return self.enable_large_batch_splitting

    @property
    def run_limit(self) -> int:
        """Rows of one run at most."""
        return (self.splits and self.max_execution_batch_size) or self.max_batch_size

    def padded(self, rows: int) -> int:
        """The smallest allowed batch size of at least `rows`."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)


def batch_rows(feeds: Mapping[str, np.ndarray]) -> int:
    """The size that all inputs have in dimension 0.

    Raises:
      ServingError: no input, one without dimensions, or different sizes; in TF Serving's words.
    """
    if not feeds:
        raise invalid("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in feeds.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {array.shape[0] for array in feeds.values()}
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def share_key(feeds: Mapping[str, np.ndarray], *, any_length: bool) -> tuple[object, ...]:
    """Requests with equal keys can be merged.

    Args:
      feeds: tensor name -> array with at least one dimension.
      any_length: whether other dimensions than the first may differ, to be padded.
    """
    return tuple(
        (name, array.dtype.str, array.ndim if any_length else array.shape[1:])
        for name, array in sorted(feeds.items())
    )


def merge(parts: Sequence[Mapping[str, np.ndarray]], options: BatchingOptions) -> Outputs:
    """The inputs of several requests, one after the other, with padding rows at the end.

    Args:
      parts: of equal `share_key`; at least one, each of at least one row.
      options: say what is padded. Padding rows repeat the last request's first row, which is known
        to be a valid input; other dimensions are filled with each array's first element.

    Raises:
      ServingError: an array that cannot be padded.
    """
    merged = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if options.pad_variable_length_inputs:
            arrays = _to_common_shape(arrays)
        rows = sum(len(array) for array in arrays)
        padding = options.padded(rows) - rows
        if padding:
            arrays.append(np.repeat(arrays[-1][:1], padding, axis=0))
        merged[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return merged


def _to_common_shape(arrays: list[np.ndarray]) -> list[np.ndarray]:
    largest = tuple(max(sizes) for sizes in zip(*(a.shape[1:] for a in arrays), strict=True))
    return [_pad(array, largest) for array in arrays]


def _pad(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape[1:] == shape or math.prod(shape) * len(array) == array.size:
        return array.reshape(len(array), *shape)
    if array.size == 0:
        raise invalid("Got empty tensor in batch of non-empty tensors.")
    if array.ndim > _MAX_PADDED_RANK:
        raise invalid("Only tensors with rank from 1 to 6 can be padded.")
    padded = np.full((len(array), *shape), array.flat[0], array.dtype)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def split(outputs: Outputs, rows: Sequence[int], total: int) -> list[Outputs]:
    """Each request's own rows of every output.

    Args:
      outputs: of the merged run.
      rows: of each request.
      total: rows of the run, padding included.

    Raises:
      ServingError: an output that is not `total` long, in TF Serving's words.
    """
    for array in outputs.values():
        if array.ndim == 0:
            raise ServingError("FAILED_PRECONDITION", "Batched output tensor has 0 dimensions")
        if array.shape[0] != total:
            raise ServingError(
                "FAILED_PRECONDITION",
                "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                "dimension sizes of the input tensors",
            )
    answers = []
    start = 0
    for size in rows:
        answers.append({name: array[start : start + size] for name, array in outputs.items()})
        start += size
    return answers
