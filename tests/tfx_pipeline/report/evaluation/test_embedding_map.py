"""Maps and similar training images of predictions, by id."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from tfx_pipeline.report.evaluation import embedding_map as maps
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.evaluation.embeddings import EmbeddingError, Embeddings


def embeddings(ids, seed=0):
    features = np.random.default_rng(seed).normal(size=(len(ids), 6)).astype(np.float32)
    return Embeddings(np.array(ids, object), np.arange(len(ids)) % 2, features)


@pytest.fixture
def model(predictions):
    return predictions(("cat", "dog"), 40, [f"image {i}" for i in range(40)])


def test_predictions_are_paired_with_embeddings_by_id(model):
    order = np.random.default_rng(1).permutation(40)
    straight = embeddings(model.ids)
    shuffled = Embeddings(*(part[order] for part in vars(straight).values()))
    expected, found = (maps.embedding_map(model, one) for one in (straight, shuffled))
    assert found.positions.tolist() == list(range(40))
    np.testing.assert_allclose(found.projection.points, expected.projection.points, atol=1e-6)


def test_images_without_an_embedding_are_not_in_the_map(model):
    found = maps.embedding_map(model, embeddings(["other", *model.ids[10:]]))
    assert found.positions.tolist() == list(range(10, 40))
    with pytest.raises(EmbeddingError, match="none of the predicted images is in the records"):
        maps.embedding_map(model, embeddings(["other"]))


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_sample_of_many_images_is_drawn(model, method, monkeypatch):
    monkeypatch.setattr(maps, "MOST_POINTS", 15)
    found = maps.embedding_map(model, embeddings(model.ids), method)
    assert len(found.positions) == len(found.projection.points) == 15
    assert len(set(found.positions.tolist())) == 15
    again = maps.embedding_map(model, embeddings(model.ids), method)
    np.testing.assert_array_equal(again.positions, found.positions)


def test_similar_training_images_are_scikit_learn_s(model):
    ours, training = embeddings(model.ids), embeddings([f"train {i}" for i in range(25)], seed=2)
    asked = []

    def embed(split):
        asked.append(split)
        return training

    found = maps.similar_training_images(model, embed, ours, [7, 3])
    assert asked == ["train"]
    oracle = NearestNeighbors(n_neighbors=3, metric="cosine").fit(training.features)
    distances, rows = oracle.kneighbors(ours.features[[7, 3]])
    for at, position in enumerate((7, 3)):
        assert [one.id for one in found[position]] == [f"train {row}" for row in rows[at]]
        assert [one.label for one in found[position]] == [row % 2 for row in rows[at]]
        cosines = [one.similarity for one in found[position]]
        assert cosines == pytest.approx((1 - distances[at]).tolist(), abs=1e-5)
    assert maps.similar_training_images(model, embed, embeddings(["other"]), [7]) == {}


@pytest.mark.parametrize(
    ("train", "split", "words"),
    [
        (100, "test", ""),
        (100, "train", "these are the training images"),
        (0, "test", "no training split"),
        (50_001, "test", "up to 50,000 training images, and there are 50,001"),
    ],
)
def test_why_training_images_are_not_searched(train, split, words):
    splits = {"test": SplitInfo(5, 1, {})} | ({"train": SplitInfo(train, 1, {})} if train else {})
    info = DatasetInfo("d", "classification", ("a", "b"), 0, splits, "")
    found = maps.why_no_neighbors(info, split)
    assert words in found
    assert bool(found) == bool(words)
