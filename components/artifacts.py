"""The artifact types of our own; everything else is one of TFX's standard types."""

from tfx import v1 as tfx

Artifact = tfx.dsl.Artifact


class Selection(Artifact):
    """`selection.json`: architectures ranked by validation, the best first."""

    TYPE_NAME = "SightlineSelection"


class Benchmark(Artifact):
    """`benchmark.json`: variant -> size, latency and throughput."""

    TYPE_NAME = "SightlineBenchmark"


class Card(Artifact):
    """A bundle's final `manifest.json` and `card.html`."""

    TYPE_NAME = "SightlineCard"


class ImageReport(Artifact):
    """`anomalies.json`: what is wrong with the images, and `thumbnails/` of some of them."""

    TYPE_NAME = "SightlineImageReport"


class LiveModel(Artifact):
    """`live.json`: what the bundle store serves, and copies of what a model is compared with."""

    TYPE_NAME = "SightlineLiveModel"
