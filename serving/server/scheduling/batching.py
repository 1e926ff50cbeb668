"""TF Serving's batching rules: options, which requests may share a run, merging and splitting."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.protocol import config_messages
from serving.server.errors import ServerError, ServingError, invalid
from serving.server.scheduling.calls import Outputs

#: Name in a version's folder, for `--enable_per_model_batching_parameters`.
PER_MODEL_FILE = "batching_params.pbtxt"
_MAX_PADDED_RANK = 6


@dataclass(frozen=True)
class BatchingOptions:
    """A `BatchingParameters` with TF Serving's defaults, and `adaptive`.

    Attributes:
      max_batch_size: rows of one request, and of one run unless large batches are split.
      batch_timeout_micros: longest time that the first request of a batch waits for others.
      max_enqueued_batches: batches of one signature that may wait; further ones are UNAVAILABLE.
      num_batch_threads: runs at a time, over all models; 0 is one per core.
      thread_pool_name: label of the queuing metric.
      allowed_batch_sizes: ascending; a batch is padded to the next of them.
      pad_variable_length_inputs: pad all dimensions but the first to the batch's largest.
      enable_large_batch_splitting: a request may be split into several runs.
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
        """Validates the options as TF Serving does.

        Raises:
          ServerError: an invalid parameter.
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
        """Whether a request may be split into several runs."""
        return self.enable_large_batch_splitting

    @property
    def run_limit(self) -> int:
        """The maximum number of rows of one run."""
        return (self.splits and self.max_execution_batch_size) or self.max_batch_size

    def padded(self, rows: int) -> int:
        """The smallest allowed batch size of at least `rows`."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)


def batch_rows(feeds: Mapping[str, np.ndarray]) -> int:
    """The size of dimension 0, which is equal for all inputs.

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
    """A key that is equal for requests that can be merged.

    Args:
      feeds: tensor name -> array with at least one dimension.
      any_length: whether dimensions other than the first may differ and are padded.
    """
    return tuple(
        (name, array.dtype.str, array.ndim if any_length else array.shape[1:])
        for name, array in sorted(feeds.items())
    )


def merge(parts: Sequence[Mapping[str, np.ndarray]], options: BatchingOptions) -> Outputs:
    """The concatenated inputs of several requests, with padding rows at the end.

    Args:
      parts: of equal `share_key`; at least one, each of at least one row.
      options: control the padding. Padding rows repeat the first row of the last request, a valid
        input; other dimensions are filled with the first element of each array.

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
    """The rows of each request in every output.

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
    results = []
    start = 0
    for size in rows:
        results.append({name: array[start : start + size] for name, array in outputs.items()})
        start += size
    return results


#: Rows of one run with `--adaptive_batching`, unless a parameters file says otherwise.
_ADAPTIVE_BATCH_SIZE = 32


def read_batching_options(file: Path) -> BatchingOptions:
    """The options in a text `BatchingParameters`, with TF Serving's defaults for missing fields.

    Raises:
      ServerError: no such file, not a BatchingParameters, or inconsistent values.
    """
    try:
        text = config_messages.decode(file.read_bytes())
        parameters = config_messages.parse("BatchingParameters", text)
    except (OSError, ValueError) as error:  # undecodable bytes are a ValueError
        raise ServerError(f"{file} is not a BatchingParameters: {error}") from error
    given: dict[str, Any] = {}
    for field in parameters.DESCRIPTOR.fields:
        value = getattr(parameters, field.name)
        if field.name == "allowed_batch_sizes":
            given[field.name] = tuple(value)
        elif field.message_type is None:
            given[field.name] = value
        elif parameters.HasField(field.name):
            # `{ value: ... }`; a missing field keeps the default.
            given[field.name] = value.value
    try:
        return BatchingOptions(**given)
    except ServerError as error:
        raise ServerError(f"{file}: {error}") from error


def adaptive_options(options: BatchingOptions | None) -> BatchingOptions:
    """Adaptive batching, with the sizes and threads of a parameters file if given."""
    if options is None:
        return BatchingOptions(max_batch_size=_ADAPTIVE_BATCH_SIZE, adaptive=True)
    # Adaptive batches have no timeout, and --max_queue bounds the queue.
    return replace(options, adaptive=True, batch_timeout_micros=0)


def version_batching(
    version_dir: Path, *, shared: BatchingOptions | None, per_model: bool
) -> BatchingOptions | None:
    """The options of one version; None where its requests are not batched.

    Args:
      version_dir: folder of the version.
      shared: options of the server.
      per_model: whether the version's own file replaces `shared`, as in TF Serving. A version
        without the file is not batched. The batch threads stay those of `shared`.

    Raises:
      ServerError: the version's file is not a BatchingParameters.
    """
    if shared is None or not per_model:
        return shared
    file = version_dir / PER_MODEL_FILE
    if not file.is_file():
        return None
    own = read_batching_options(file)
    return adaptive_options(own) if shared.adaptive else own
