"""Predictions without a server."""

from collections.abc import Sequence
from pathlib import Path

from core import bundle as bundles
from serving.client.images import ImageLoader
from serving.client.retry import Deadline
from serving.protocol.images import Image
from serving.protocol.types import Prediction, predictions_from_scores

_DOWNLOAD_TIMEOUT_S = 60.0


def predict_local(
    bundle_path: Path | str,
    images: Sequence[Image],
    *,
    variant: str = bundles.SAVED_MODEL,
    top_k: int | None = None,
) -> list[Prediction]:
    """Predictions without a server, from one variant of a bundle.

    Args:
      bundle_path: the folder of a model or of one version.
      images: paths, http(s) and data URLs, encoded bytes, or (H, W, 3) uint8 arrays.
      variant: `saved_model` or the name of a TFLite variant.
      top_k: number of classes; None is the bundle's own.

    Raises:
      BundleError: no such bundle or variant.
      ClientError: a URL does not return an image.
      EngineError: an image cannot be decoded.
      FileNotFoundError: a path does not exist.
    """
    from serving.engines.engine import open_engine

    loader = ImageLoader()
    encoded = loader.load(images, Deadline(_DOWNLOAD_TIMEOUT_S))
    loader.close()
    with open_engine(bundle_path, variant) as engine:
        scores = engine.predict_bytes(encoded)
        bundle = engine.bundle
    return predictions_from_scores(scores, bundle.labels, top_k or bundle.manifest.top_k)
