"""Palettes: few distinct values per int8 kernel, so that a download compresses better.

Each kernel of a finished int8 file keeps its shape and scales; its nonzero weights are replaced by
the nearest of k values found by k-means (Han et al. 2016, arXiv 1510.00149, section 3, without its
training). Zeros stay zero, so pruning is kept. Only the file after gzip shrinks: LiteRT stores and
multiplies the same number of int8 weights, as it does for zeros, scattered or in 2:4 blocks.
"""

import gzip
from functools import partial

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from trainers.compression.rewrites import Conversion, Facts, Rewrite
from trainers.compression.tflite_graph import constant, kernel_operators, pack, store, unpack
from trainers.registry import rewrites

# Weights per value below which a palette would not shrink the file.
_LEAST_WEIGHTS_PER_VALUE = 64
_ITERATIONS = 100
_ENDS = (0.01, 0.99)


def with_palette(content: bytes, conversion: Conversion, *, values: int) -> tuple[bytes, Facts]:
    """The int8 file with at most `values` distinct nonzero weights in each kernel.

    Small kernels stay as they are. The same bytes give the same result.

    Returns:
      The bytes, and as facts the number of changed `kernels` and `gzip_bytes` before and after.
    """
    del conversion
    model = unpack(content)
    graph = model.subgraphs[0]
    kernels = dict.fromkeys(int(layer.inputs[1]) for layer in kernel_operators(model))
    changed = 0
    for tensor in kernels:
        is_int8 = graph.tensors[tensor].type == schema.TensorType.INT8
        weights = constant(model, tensor) if is_int8 else np.zeros(0, np.int8)
        if weights.size >= values * _LEAST_WEIGHTS_PER_VALUE:
            store(model, tensor, on_palette(weights, values))
            changed += 1
    if not changed:
        return content, {"why": f"no int8 kernel has enough weights for {values} values"}
    result = pack(model)
    sizes = [len(gzip.compress(one, 9, mtime=0)) for one in (content, result)]
    return result, {"kernels": changed, "gzip_bytes": sizes}


def on_palette(weights: NDArray[np.int8], values: int) -> NDArray[np.int8]:
    """`weights` with each nonzero one replaced by the nearest of at most `values` of them.

    One-dimensional k-means on the histogram of the 256 possible weights, from values at equal
    distances between the first and the last percentile.
    """
    levels, counts = np.unique(weights[weights != 0], return_counts=True)
    if len(levels) <= values:
        return weights
    shares = np.cumsum(counts) / counts.sum()
    low, high = levels[np.searchsorted(shares, _ENDS)].astype(np.float64)
    centers = np.linspace(low, high, values)
    for _ in range(_ITERATIONS):
        nearest = _nearest(levels, centers)
        sums = np.bincount(nearest, levels * counts, len(centers))
        sizes = np.bincount(nearest, counts, len(centers))
        centers = np.divide(sums, sizes, out=centers.copy(), where=sizes > 0)
    table = np.zeros(256, np.int8)
    table[levels.astype(np.int64) + 128] = np.rint(centers)[_nearest(levels, centers)]
    return table[weights.astype(np.int64) + 128]


def _nearest(levels: NDArray[np.int8], centers: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the nearest of the ascending `centers` for each level."""
    return np.searchsorted((centers[1:] + centers[:-1]) / 2, levels)


for _values in (8, 16):
    rewrites.register(f"palette{_values}")(
        Rewrite(
            f"palette{_values}",
            partial(with_palette, values=_values),
            stage="values",
            dtypes=("int8",),
            title=f"{_values} values per kernel",
        )
    )
