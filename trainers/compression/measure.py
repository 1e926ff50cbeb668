"""Measures .tflite files on images: signal-to-noise ratio against the float network, CPU time."""

import math
import time
from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from trainers.compression.tflite_graph import builtin, pack, unpack

#: Number of images to measure on.
SAMPLES = 32

# Equal outputs have no noise; JSON has no infinity.
_LARGEST_DB = 200.0
# A repetition takes at least this long, so that the clock's resolution does not count.
_SHORTEST_S = 2e-3
_ROUNDS = 15


def snr_db(content: bytes, images: NDArray[np.uint8], reference: NDArray[np.float32]) -> float:
    """Signal-to-noise ratio of a file's raw outputs in dB, in [-200, 200]; higher is better.

    Args:
      content: a .tflite file with one uint8 input (1, H, W, 3).
      images: (M, H, W, 3), at least one.
      reference: (M, ...) the outputs of the float network for `images`, before a softmax.

    Returns:
      Ten times the logarithm of the power of `reference` over that of the difference.
    """
    found = raw_outputs(content, images).astype(np.float64)
    power = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(found - reference).sum())
    if not math.isfinite(noise) or power == 0:
        return -_LARGEST_DB
    if noise == 0:
        return _LARGEST_DB
    return float(np.clip(10 * math.log10(power / noise), -_LARGEST_DB, _LARGEST_DB))


def raw_outputs(content: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(M, ...) float32: the file's only output for each image, before a softmax that ends it."""
    model = unpack(content)
    graph = model.subgraphs[0]
    (output,) = graph.outputs
    for operator in graph.operators:
        is_softmax = builtin(model, operator) == schema.BuiltinOperator.SOFTMAX
        if is_softmax and output in operator.outputs:
            graph.outputs = [operator.inputs[0]]
    run = _Run(pack(model))
    return np.concatenate([run(image[None]) for image in images])


def cpu_ms(contents: Sequence[bytes], image: NDArray[np.uint8]) -> list[float]:
    """Milliseconds of processor time that each file takes for an image with one thread.

    The files are timed alternately, and the fastest round counts: other programs only add time.
    """
    runs = [_Run(content) for content in contents]
    counts = [max(1, math.ceil(_SHORTEST_S / max(_seconds(run, image, 3), 1e-9))) for run in runs]
    best = [math.inf] * len(runs)
    for _ in range(_ROUNDS):
        for at, (run, count) in enumerate(zip(runs, counts, strict=True)):
            best[at] = min(best[at], _seconds(run, image, count))
    return [1e3 * seconds for seconds in best]


def _seconds(run: "_Run", image: NDArray[np.uint8], count: int) -> float:
    # With one thread, LiteRT computes in the thread of the caller.
    started = time.thread_time()
    for _ in range(count):
        run(image[None])
    return (time.thread_time() - started) / count


class _Run:
    """Runs a file with one input and one output."""

    def __init__(self, content: bytes) -> None:
        self._interpreter = Interpreter(model_content=content, num_threads=1)
        self._interpreter.allocate_tensors()
        (self._input,) = (slot["index"] for slot in self._interpreter.get_input_details())
        (self._output,) = (slot["index"] for slot in self._interpreter.get_output_details())

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The output for one (1, H, W, 3) image."""
        self._interpreter.set_tensor(self._input, image)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)
