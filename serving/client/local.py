"""Predictions without a server."""

from collections.abc import Sequence
from pathlib import Path

from core import bundle as bundles
from serving.client.images import Pictures
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
      top_k: None is what the bundle's server answers with.

    Raises:
      BundleError: no such bundle or variant.
      ClientError: a URL that gives no image.
      EngineError: an image that cannot be decoded.
      FileNotFoundError: a path to nothing.
    """
    from serving.engines.engine import open_engine

    pictures = Pictures()
    coded = pictures.load(images, Deadline(_DOWNLOAD_TIMEOUT_S))
    pictures.close()
    with open_engine(bundle_path, variant) as engine:
        scores = engine.predict_bytes(coded)
        bundle = engine.bundle
    return predictions_from_scores(scores, bundle.labels, top_k or bundle.manifest.top_k)
