"""Size and speed of a bundle's variants, measured in one run for their ratios.

    figures = benchmark("bundles/digits_cnn", runs=100, warmup=10, threads=2)
    figures["saved_model"].latency_ms_p50 / figures["ptq_int8"].latency_ms_p50

Variants are measured alternately in short rounds, so that a machine that slows down affects all of
them. A timed call takes one image from pixels to scores: decoding a JPEG costs the same with every
variant.
"""

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from core import bundle as bundles
from serving.engines.engine import BundleEngine, open_engine

#: Consecutive calls of a variant: enough to warm caches, few enough to be insensitive to drift.
_ROUND = 10
_PACKAGES = ("tensorflow", "ai-edge-litert", "numpy")


@dataclass(frozen=True)
class VariantFigures:
    """The cost of one variant at batch size 1.

    Attributes:
      size_bytes: of the file; of graph, variables and assets for the SavedModel.
      gzip_bytes: after gzip -9, file by file.
      latency_ms_p50: median over the runs, likewise p90 and p99.
      images_per_second: runs divided by their total time.
      runs: number of timed calls.
      threads: available to each call.
    """

    size_bytes: int
    gzip_bytes: int
    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_p99: float
    images_per_second: float
    runs: int
    threads: int

    def to_dict(self) -> dict[str, float]:
        """Plain values for `manifest.json`."""
        return asdict(self)


def benchmark(
    bundle_path: bundles.Bundle | Path | str,
    variants: Iterable[str] | None = None,
    *,
    runs: int = 100,
    warmup: int = 10,
    threads: int = 1,
) -> dict[str, VariantFigures]:
    """Variant -> figures, in the given order.

    Args:
      bundle_path: a bundle or its folder.
      variants: names; None selects the SavedModel and every TFLite variant.
      runs: timed calls of each variant, at least 1.
      warmup: untimed calls before them.
      threads: for one call, at least 1.

    Raises:
      BundleError: no such bundle or variant.
      EngineError: a variant cannot be loaded or run.
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
    try:
        for name in variants:
            engines[name] = open_engine(bundle, name, threads=threads, size=1)
        seconds = _time_in_rounds(engines, runs, warmup)
    finally:
        for engine in engines.values():
            engine.close()
    return {name: _figures(bundle, name, seconds[name], threads) for name in engines}


def environment(*packages: str) -> dict[str, str]:
    """CPU model, cores, system, and versions of Python, basic packages and `packages`."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count() or 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in (*_PACKAGES, *packages)},
    }


def _time_in_rounds(
    engines: dict[str, BundleEngine], runs: int, warmup: int
) -> dict[str, np.ndarray]:
    """Variant -> (runs,) float64 seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    noise = np.random.default_rng(0)
    images = {
        name: noise.integers(0, 256, (1, *engine.image_size, 3), dtype=np.uint8)
        for name, engine in engines.items()
    }
    for name, engine in engines.items():
        for _ in range(warmup):
            engine.predict_images(images[name])
    for start in range(0, runs, _ROUND):
        for name, engine in engines.items():
            for _ in range(min(_ROUND, runs - start)):
                began = time.perf_counter()
                engine.predict_images(images[name])
                seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def _figures(
    bundle: bundles.Bundle, variant: str, seconds: np.ndarray, threads: int
) -> VariantFigures:
    files = variant_files(bundle, variant)
    p50, p90, p99 = (float(p) for p in np.percentile(seconds * 1000, [50, 90, 99]))
    return VariantFigures(
        size_bytes=sum(file.stat().st_size for file in files),
        gzip_bytes=sum(bundles.gzip_size(file) for file in files),
        latency_ms_p50=p50,
        latency_ms_p90=p90,
        latency_ms_p99=p99,
        images_per_second=float(len(seconds) / seconds.sum()),
        runs=len(seconds),
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
