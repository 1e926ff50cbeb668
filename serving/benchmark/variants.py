"""Size and speed of a bundle's variants, measured in one run for their ratios.

    figures = benchmark("bundles/digits_cnn", runs=100, warmup=10, threads=2)
    figures["ptq_int8"].latency_ms_p50          # engine alone
    figures["ptq_int8"].bytes_to_label_ms_p50   # decoding and top-k included
    figures["ptq_int8"].speedup                 # over the float file, with its interval

Variants and both latencies are measured alternately in short rounds, so that a machine that slows
down affects all of them.
"""

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import cycle
from pathlib import Path

import numpy as np

from core import bundle as bundles
from serving.benchmark.images import sample_of
from serving.benchmark.rounds import RatioOverRounds, ratio_over_rounds
from serving.engines.engine import BundleEngine, load_saved_model, open_engine
from serving.protocol.types import predictions_from_scores

#: The two latencies of a variant -> what a timed call does.
DEFINITIONS = {
    "engine alone": "the network on the pixels of one preprocessed image, to scores",
    "bytes to label": (
        "one encoded image to the labels of its top classes: decode, crop, resize, network, top-k; "
        "in this process, without a server"
    ),
}
#: Consecutive calls of a variant: enough to warm caches, few enough to be insensitive to drift.
_ROUND = 10
_LEAST_ROUNDS = 8
_FLOAT = "none_fp32"
_PACKAGES = ("tensorflow", "ai-edge-litert", "numpy")


@dataclass(frozen=True)
class VariantFigures:
    """The cost of one variant at batch size 1; `DEFINITIONS` defines both latencies.

    Attributes:
      size_bytes: of the file; of graph, variables and assets for the SavedModel.
      gzip_bytes: after gzip -9, file by file.
      latency_ms_p50: engine alone, median over the runs, likewise p90 and p99.
      images_per_second: engine alone, runs divided by their total time.
      bytes_to_label_ms_p50: median over the runs, likewise p90 and p99.
      bytes_to_label_images_per_second: runs divided by their total time.
      bytes_to_label_ratio: its time over that of the engine alone, over the rounds; None with one
        run.
      speedup: time of the float file, or of the first variant without one, over the time of this
        variant, engine alone; None with one run.
      runs: number of timed calls of each latency.
      threads: for the network, in each call.
    """

    size_bytes: int
    gzip_bytes: int
    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_p99: float
    images_per_second: float
    bytes_to_label_ms_p50: float
    bytes_to_label_ms_p90: float
    bytes_to_label_ms_p99: float
    bytes_to_label_images_per_second: float
    bytes_to_label_ratio: RatioOverRounds | None
    speedup: RatioOverRounds | None
    runs: int
    threads: int

    def to_dict(self) -> dict[str, object]:
        """Plain values for `manifest.json`."""
        return asdict(self)


def benchmark(
    bundle_path: bundles.Bundle | Path | str,
    variants: Iterable[str] | None = None,
    *,
    runs: int = 100,
    warmup: int = 10,
    threads: int = 1,
    images: Sequence[bytes] = (),
) -> dict[str, VariantFigures]:
    """Variant -> figures, in the given order.

    Args:
      bundle_path: a bundle or its folder.
      variants: names; None selects the SavedModel and every TFLite variant.
      runs: timed calls of each variant and latency, at least 1.
      warmup: untimed calls before them.
      threads: for the network in one call, at least 1.
      images: encoded, for bytes to label; without any, one JPEG is generated.

    Raises:
      BundleError: no such bundle or variant.
      EngineError: a variant cannot be loaded or run, or an image cannot be decoded.
      ValueError: `runs`, `warmup` or `threads` out of range.
    """
    if runs < 1 or warmup < 0 or threads < 1:
        raise ValueError(
            "runs and threads must be at least 1 and warmup at least 0, got "
            f"runs={runs}, warmup={warmup}, threads={threads}"
        )
    bundle = bundle_path
    if not isinstance(bundle, bundles.Bundle):
        bundle = bundles.open_bundle(bundle)
    if variants is None:
        variants = [bundles.SAVED_MODEL, *(v.name for v in bundle.manifest.variants)]
    engines: dict[str, BundleEngine] = {}
    with ExitStack() as stack:
        decoder = load_saved_model(bundle.path)
        stack.callback(decoder.close)
        for name in variants:
            shared = None if name == bundles.SAVED_MODEL else decoder
            engine = open_engine(bundle, name, threads=threads, size=1, decoder=shared)
            engines[name] = stack.enter_context(engine)
        encoded = list(images) or [sample_of(bundle)]
        calls = {name: _calls(engine, encoded) for name, engine in engines.items()}
        seconds = _time_in_rounds(calls, runs, warmup)
    base = seconds[_FLOAT if _FLOAT in seconds else next(iter(seconds))]
    return {name: _figures(bundle, name, seconds[name], base, threads) for name in engines}


def environment(*packages: str) -> dict[str, str]:
    """CPU model, cores, system, and versions of Python, basic packages and `packages`."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count() or 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in (*_PACKAGES, *packages)},
    }


def _calls(engine: BundleEngine, images: Sequence[bytes]) -> tuple[Callable[[], object], ...]:
    """A call per latency of `DEFINITIONS`, in its order."""
    noise = np.random.default_rng(0)
    pixels = noise.integers(0, 256, (1, *engine.image_size, 3), dtype=np.uint8)
    encoded, labels = cycle(images), engine.bundle.labels
    top_k = min(engine.bundle.manifest.top_k, len(labels))

    def network() -> object:
        return engine.predict_images(pixels)

    def graph() -> object:
        inputs = {bundles.INPUT_BYTES: np.array([next(encoded)], dtype=object)}
        return engine.saved_model.run(bundles.SIGNATURE_BYTES, inputs)

    def file() -> object:
        return predictions_from_scores(engine.predict_bytes([next(encoded)]), labels, top_k)

    return network, graph if engine.variant == bundles.SAVED_MODEL else file


def _time_in_rounds(
    calls: Mapping[str, Sequence[Callable[[], object]]], runs: int, warmup: int
) -> dict[str, np.ndarray]:
    """Variant -> (calls, rounds, runs of a round) seconds; NaN after the last run.

    There are at least eight rounds, for intervals, unless there are fewer runs.
    """
    length = max(1, min(_ROUND, runs // _LEAST_ROUNDS))
    rounds = -(-runs // length)
    found = {name: np.full((len(of), rounds, length), np.nan) for name, of in calls.items()}
    for of in calls.values():
        for call in of:
            for _ in range(warmup):
                call()
    for start in range(rounds):
        for name, of in calls.items():
            for index, call in enumerate(of):
                for run in range(min(length, runs - start * length)):
                    began = time.perf_counter()
                    call()
                    found[name][index, start, run] = time.perf_counter() - began
    return found


def _figures(
    bundle: bundles.Bundle, variant: str, seconds: np.ndarray, base: np.ndarray, threads: int
) -> VariantFigures:
    files = variant_files(bundle, variant)
    engine, label = (part[~np.isnan(part)] for part in seconds)
    means, of_base = np.nanmean(seconds, axis=2), np.nanmean(base, axis=2)
    has_rounds = means.shape[1] > 1
    alone, whole = (np.percentile(1000 * part, [50, 90, 99]).tolist() for part in (engine, label))
    return VariantFigures(
        size_bytes=sum(file.stat().st_size for file in files),
        gzip_bytes=sum(bundles.gzip_size(file) for file in files),
        latency_ms_p50=alone[0],
        latency_ms_p90=alone[1],
        latency_ms_p99=alone[2],
        images_per_second=float(len(engine) / engine.sum()),
        bytes_to_label_ms_p50=whole[0],
        bytes_to_label_ms_p90=whole[1],
        bytes_to_label_ms_p99=whole[2],
        bytes_to_label_images_per_second=float(len(label) / label.sum()),
        bytes_to_label_ratio=ratio_over_rounds(means[1], means[0]) if has_rounds else None,
        speedup=ratio_over_rounds(of_base[0], means[0]) if has_rounds else None,
        runs=len(engine),
        threads=threads,
    )


def variant_files(bundle: bundles.Bundle, variant: str) -> list[Path]:
    """The files of a variant.

    Raises:
      BundleError: the bundle has no such variant.
    """
    if variant != bundles.SAVED_MODEL:
        return [bundle.tflite_path(variant)]
    parts = [bundle.path / "variables", bundle.path / "assets"]
    files = [file for part in parts for file in sorted(part.rglob("*")) if file.is_file()]
    return [bundle.path / bundles.SAVED_MODEL_FILE, *files]


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
