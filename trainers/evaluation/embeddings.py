"""Embeddings, the features before the classifier: maps in two dimensions, and similar images.

PCA is exact and the same on every machine: distances in the map are those between embeddings, seen
from one side, and the share of the variance states how much of them the map shows. t-SNE (van der
Maaten and Hinton 2008, JMLR 9:2579-2605) separates groups that PCA draws over each other, but the
size of its groups and the distances between them mean nothing. UMAP has the same limits and needs
`umap-learn` and Numba, which the locked stacks do not have.

NumPy only; t-SNE imports scikit-learn.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

PCA, TSNE = "pca", "tsne"
#: t-SNE takes more than a minute for more images than this.
MOST_TSNE = 3_000
# van der Maaten and Hinton reduce to 30 dimensions, scikit-learn's documentation to 50.
_TSNE_INPUT = 50
_PERPLEXITY = 30.0
# Rows of similarities that are in memory at once.
_CHUNK = 1_024


class EmbeddingError(ValueError):
    """A model without embeddings, or images without a map; the message states the remedy."""


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of M images; parallel arrays in the order of the records.

    Attributes:
      ids: (M,) str, as in `Predictions`.
      labels: (M,) int in [0, N) of the model's classes.
      features: (M, D) float32.
    """

    ids: Array
    labels: Array
    features: Array


@dataclass(frozen=True)
class Projection:
    """A map of M images.

    Attributes:
      points: (M, 2) float64.
      method: `pca` or `tsne`.
      shares: of the total variance, along each axis of PCA; empty for t-SNE.
    """

    points: Array
    method: str
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class Neighbor:
    """An image with a similar embedding; `similarity` is the cosine, in [-1, 1]."""

    id: str
    label: int
    similarity: float


@dataclass(frozen=True)
class EmbeddingMap:
    """The map of the images of some predictions.

    Attributes:
      projection: of K of the images.
      positions: (K,) int: of these images in the predictions.
      neighbors: position in the predictions -> the most similar training images, the nearest first.
    """

    projection: Projection
    positions: Array
    neighbors: Mapping[int, Sequence[Neighbor]] = field(default_factory=dict)


def project(features: ArrayLike, method: str = PCA) -> Projection:
    """The map of images by `pca` or `tsne`.

    Raises:
      EmbeddingError: another method, or see `pca` and `tsne`.
    """
    if method not in (PCA, TSNE):
        raise EmbeddingError(f"no map {method!r}; use {PCA} or {TSNE}")
    return pca(features) if method == PCA else tsne(features)


def pca(features: ArrayLike, dimensions: int = 2) -> Projection:
    """The principal components with the greatest variance.

    The signs are those that make the largest loading of each axis positive, because the
    decomposition leaves them open.

    Args:
      features: (M, D) float, finite.
      dimensions: K, at least 1; components beyond min(M, D) are 0.

    Returns:
      (M, K) coordinates with mean 0, and the share of the variance along each.

    Raises:
      EmbeddingError: no images, or values that are not finite.
    """
    values = _checked(features)
    centered = values - values.mean(axis=0)
    if len(centered) > centered.shape[1]:  # The same axes, from a smaller matrix.
        _, variances, axes = np.linalg.svd(centered.T @ centered)
    else:
        _, singular, axes = np.linalg.svd(centered, full_matrices=False)
        variances = singular**2
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    axes = axes * np.where(largest < 0, -1.0, 1.0)[:, None]
    points = np.zeros((len(values), dimensions))
    points[:, : len(axes)] = centered @ axes[:dimensions].T
    kept = np.zeros(dimensions)
    kept[: len(variances)] = variances[:dimensions]
    shares = kept / (float(variances.sum()) or 1.0)
    return Projection(points, PCA, tuple(map(float, shares)))


def tsne(features: ArrayLike, *, seed: int = 0) -> Projection:
    """A map of neighborhoods that starts from PCA; the same on every run of one machine.

    A start from PCA keeps more of the arrangement of the groups than a random one (Kobak and
    Berens 2019, Nature Communications 10:5416).

    Args:
      features: (M, D) float, finite, with 4 to `MOST_TSNE` images.
      seed: of the estimator.

    Raises:
      EmbeddingError: too few or too many images, or values that are not finite.
    """
    values = _checked(features)
    if not 4 <= len(values) <= MOST_TSNE:
        raise EmbeddingError(
            f"a t-SNE map takes 4 to {MOST_TSNE:,} images, got {len(values):,}; use {PCA}"
        )
    from sklearn.manifold import TSNE as Estimator

    reduced = pca(values, min(_TSNE_INPUT, values.shape[1])).points
    perplexity = min(_PERPLEXITY, (len(values) - 1) / 3)
    start = pca(values).points
    start *= 1e-4 / (start[:, 0].std() or 1.0)
    estimator = Estimator(2, perplexity=perplexity, init=start, random_state=seed)
    with warnings.catch_warnings():
        # In some containers, joblib cannot count the physical cores and uses the logical ones.
        warnings.filterwarnings("ignore", "Could not find the number of physical cores")
        points = estimator.fit_transform(reduced)
    return Projection(points.astype(np.float64), TSNE)


def nearest(features: ArrayLike, references: ArrayLike, count: int) -> tuple[Array, Array]:
    """The most similar references of each image, by the cosine of their embeddings.

    Args:
      features: (M, D) float.
      references: (R, D) float.
      count: at least 1; no more than R are found.

    Returns:
      (M, k) int positions of references and (M, k) float cosines, the most similar first; of
      equals, the first reference. An embedding of zeros has the cosine 0.

    Raises:
      EmbeddingError: no images, other numbers of features, or values that are not finite.
    """
    ours, theirs = _unit(_checked(features)), _unit(_checked(references))
    if ours.shape[1] != theirs.shape[1]:
        raise EmbeddingError(f"embeddings of {ours.shape[1]} and {theirs.shape[1]} features")
    count = min(count, len(theirs))
    positions = np.empty((len(ours), count), np.int64)
    cosines = np.empty((len(ours), count))
    for at in range(0, len(ours), _CHUNK):
        similar: Array = ours[at : at + _CHUNK] @ theirs.T
        best = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        positions[at : at + _CHUNK] = best
        cosines[at : at + _CHUNK] = np.take_along_axis(similar, best, axis=1)
    return positions, cosines


def _unit(values: Array) -> Array:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1.0)


def _checked(features: ArrayLike) -> Array:
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or not len(values):
        raise EmbeddingError(f"embeddings must be (M, D) with M of at least 1, got {values.shape}")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise EmbeddingError(f"the embeddings of {bad:,} images are not finite")
    return values
