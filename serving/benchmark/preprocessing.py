"""Whether image decoding and resizing run in parallel: the rate of two callers over that of one.

Both are measured alternately in short rounds, so that a machine that slows down affects both.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from core import bundle as bundles
from serving.benchmark.closed_loop import closed_loop
from serving.benchmark.images import sample_of
from serving.benchmark.rounds import RatioOverRounds, ratio_over_rounds
from serving.engines.engine import open_engine

#: Lowest ratio on a machine with at least two idle cores.
TARGET = 1.8


@dataclass(frozen=True)
class PreprocessingFigures:
    """Rates of preprocessing one encoded image per call.

    Attributes:
      variant: whose engine preprocessed.
      one_caller: images per second, one value per round.
      two_callers: of both together, likewise.
      ratio: of two callers to one.
    """

    variant: str
    one_caller: list[float]
    two_callers: list[float]
    ratio: RatioOverRounds

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def benchmark_preprocessing(
    bundle_path: Path | str,
    images: Sequence[bytes] = (),
    *,
    threads: int = 1,
    seconds: float = 0.2,
    rounds: int = 7,
) -> PreprocessingFigures:
    """The rates with the engine of the recommended variant.

    Args:
      bundle_path: folder of a bundle.
      images: encoded; without any, one JPEG is generated. Each caller sends the first.
      threads: of the engine's network, which must not limit preprocessing.
      seconds: length of a measurement.
      rounds: measurements of each rate, at least 2.

    Raises:
      BundleError: no such bundle.
      EngineError: the engine cannot be loaded, or the image cannot be decoded.
    """
    bundle = bundles.open_bundle(bundle_path)
    data = list(images[:1]) or [sample_of(bundle)]
    variant = bundle.manifest.recommended or bundles.SAVED_MODEL
    rates: dict[int, list[float]] = {1: [], 2: []}
    with open_engine(bundle, variant, threads=threads, size=1) as engine:
        for round_ in range(rounds):
            for callers in (1, 2) if round_ % 2 else (2, 1):
                calls = [lambda: engine.preprocess(data)] * callers
                rates[callers].append(closed_loop(calls, seconds).images_per_second)
    ratio = ratio_over_rounds(rates[2], rates[1])
    return PreprocessingFigures(variant, rates[1], rates[2], ratio)
