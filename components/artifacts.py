"""Sightline's artifact types; all others are TFX's standard types."""

from tfx import v1 as tfx

Artifact = tfx.dsl.Artifact


class Selection(Artifact):
    """`selection.json`: architectures ranked by validation, the best first."""

    TYPE_NAME = "SightlineSelection"


class Benchmark(Artifact):
    """`benchmark.json`: variant -> size, latency and throughput."""

    TYPE_NAME = "SightlineBenchmark"


class Card(Artifact):
    """A bundle's final `manifest.json`, and the model card in three forms."""

    TYPE_NAME = "SightlineCard"


class ImageReport(Artifact):
    """`anomalies.json`: the problems of the images, and `thumbnails/` of some of them."""

    TYPE_NAME = "SightlineImageReport"


class LiveModel(Artifact):
    """`live.json`: the versions of the bundle store, and copies for comparisons."""

    TYPE_NAME = "SightlineLiveModel"
