"""The embeddings of a model's predictions as a map, with the most similar training images."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainers.data.features import DatasetInfo
from trainers.evaluation.comparison import ModelPredictions
from trainers.evaluation.embeddings import (
    MOST_TSNE,
    PCA,
    EmbeddingError,
    EmbeddingMap,
    Embeddings,
    Neighbor,
    nearest,
    project,
)

#: More images make a page slow; a random sample of them is drawn.
MOST_POINTS = MOST_TSNE
#: With more training images, the most similar ones are not searched.
MOST_REFERENCES = 50_000
_NEIGHBORS = 3
_SEED = 0

TRAIN = "train"
#: Split -> embeddings of its images.
Embed = Callable[[str], Embeddings]


def embedder(folder: Path, data: Path) -> Embed:
    """A function that embeds the images of a split.

    Args:
      folder: a bundle, or a folder of `sightline train`.
      data: the records.

    Raises:
      EmbeddingError: on a call, the model has no embeddings.
    """
    if (folder / "trained.json").is_file():
        from trainers.training.evaluate import embed_trained
        from trainers.training.trained import load_trained

        trained = load_trained(folder)
        return lambda split: embed_trained(trained, data, split)
    from components.evaluation.predict_variants import embed_bundle
    from core.bundle import open_bundle

    bundle = open_bundle(folder)
    return lambda split: embed_bundle(bundle, data, split)


def embedding_map(
    model: ModelPredictions,
    embeddings: Embeddings,
    method: str = PCA,
    neighbors: dict[int, Sequence[Neighbor]] | None = None,
) -> EmbeddingMap:
    """The map of the predictions whose images have embeddings.

    PCA uses all of them, t-SNE those that are drawn.

    Args:
      model: the predictions.
      embeddings: of the images of their split.
      method: `pca` or `tsne`.
      neighbors: of `similar_training_images`.

    Raises:
      EmbeddingError: no prediction has an embedding, or see `project`.
    """
    rows = _rows(model, embeddings)
    if not rows:
        raise EmbeddingError(
            "none of the predicted images is in the records; give their own records with --data"
        )
    positions = np.array(list(rows))
    features = embeddings.features[list(rows.values())]
    drawn = np.sort(np.random.default_rng(_SEED).permutation(len(rows))[:MOST_POINTS])
    found = project(features if method == PCA else features[drawn], method)
    if method == PCA:
        found = replace(found, points=found.points[drawn])
    return EmbeddingMap(found, positions[drawn], neighbors or {})


def similar_training_images(
    model: ModelPredictions, embed: Embed, embeddings: Embeddings, wanted: Sequence[int]
) -> dict[int, Sequence[Neighbor]]:
    """Position of a prediction -> the training images with the most similar embeddings.

    Args:
      model: the predictions.
      embed: of the same model.
      embeddings: of the images of the predictions' split.
      wanted: positions in the predictions.
    """
    rows = _rows(model, embeddings)
    known = [position for position in wanted if position in rows]
    if not known:
        return {}
    training = embed(TRAIN)
    features = embeddings.features[[rows[position] for position in known]]
    best, cosines = nearest(features, training.features, _NEIGHBORS)
    return {
        position: [
            Neighbor(str(training.ids[row]), int(training.labels[row]), float(cosine))
            for row, cosine in zip(best[at], cosines[at], strict=True)
        ]
        for at, position in enumerate(known)
    }


def why_no_neighbors(info: DatasetInfo, split: str) -> str:
    """A sentence on why training images are not searched; empty if they are."""
    images = info.splits[TRAIN].examples if TRAIN in info.splits else 0
    if split == TRAIN:
        return "Similar training images are not shown: these are the training images."
    if not images:
        return "Similar training images are not shown: the records have no training split."
    if images > MOST_REFERENCES:
        return (
            f"Similar training images are not shown: they are searched among up to "
            f"{MOST_REFERENCES:,} training images, and there are {images:,}."
        )
    return ""


def _rows(model: ModelPredictions, embeddings: Embeddings) -> dict[int, int]:
    """Position of a prediction -> row of its embedding; an image that repeats has its first one."""
    first = {str(one): row for row, one in reversed(list(enumerate(embeddings.ids)))}
    ids = map(str, model.ids)
    return {position: first[one] for position, one in enumerate(ids) if one in first}
