"""Size, latency and throughput of every variant of a draft bundle, interleaved in one run."""

from dataclasses import asdict
from pathlib import Path

from tfx.types.standard_artifacts import Model
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import files
from components.artifacts import Benchmark
from serving.benchmark.variants import benchmark, environment


@component
def Benchmarker(
    bundle: InputArtifact[Model],
    benchmark_result: OutputArtifact[Benchmark],
    runs: Parameter[int],
    code_digest: Parameter[str],
) -> None:
    """Writes `benchmark.json`: `machine`, and `variants` with their figures at batch 1.

    Args:
      bundle: a draft of the Compressor.
      benchmark_result: the figures.
      runs: number of timed calls of each variant.
      code_digest: part of the cache key.
    """
    figures = benchmark(Path(bundle.uri) / files.SERVING_MODEL, runs=runs)
    found = {name: asdict(figure) for name, figure in figures.items()}
    target = Path(benchmark_result.uri) / files.BENCHMARK
    files.write_json(target, {"machine": environment(), "variants": found})
