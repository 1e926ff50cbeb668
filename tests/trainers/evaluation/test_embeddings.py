"""Maps and neighbors of embeddings, against scikit-learn."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from trainers.evaluation.embeddings import EmbeddingError, nearest, pca, project, tsne


@pytest.mark.parametrize("shape", [(200, 12), (12, 200), (5, 1)])
def test_pca_is_scikit_learn_s_up_to_the_sign(shape):
    features = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1)
    found = pca(features)
    kept = min(2, *shape)
    oracle = PCA(kept, svd_solver="full")
    points = oracle.fit_transform(features)
    np.testing.assert_allclose(found.shares[:kept], oracle.explained_variance_ratio_, atol=1e-12)
    for axis in range(kept):
        loading = oracle.components_[axis]
        sign = np.sign(loading[np.abs(loading).argmax()])
        np.testing.assert_allclose(found.points[:, axis], sign * points[:, axis], atol=1e-9)
    assert found.points.shape == (shape[0], 2)
    assert (found.points[:, kept:] == 0).all()


def test_pca_does_not_depend_on_the_order_of_images():
    features = np.random.default_rng(1).normal(size=(60, 8))
    order = np.random.default_rng(2).permutation(60)
    np.testing.assert_allclose(pca(features[order]).points, pca(features).points[order], atol=1e-9)


def test_equal_embeddings_are_one_point():
    for features in (np.ones((40, 6)), np.ones((1, 6))):
        found = pca(features)
        assert np.abs(found.points).max() == 0
        assert found.shares == (0.0, 0.0)
    assert np.isfinite(tsne(np.ones((40, 6))).points).all()


def test_tsne_separates_classes_better_than_pca_and_repeats():
    digits = load_digits()
    features, labels = digits.data[:300], digits.target[:300]
    found = tsne(features)
    assert found.shares == ()
    by_pca = silhouette_score(pca(features).points, labels)
    assert silhouette_score(found.points, labels) > by_pca + 0.1
    np.testing.assert_array_equal(found.points, tsne(features).points)


def test_neighbors_are_scikit_learn_s():
    random = np.random.default_rng(3)
    features, references = random.normal(size=(1500, 7)), random.normal(size=(90, 7))
    positions, cosines = nearest(features, references, 3)
    oracle = NearestNeighbors(n_neighbors=3, metric="cosine").fit(references)
    distances, expected = oracle.kneighbors(features)
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(cosines, 1 - distances, atol=1e-12)
    assert nearest(features, references[:2], 3)[0].shape == (1500, 2)
    assert nearest(np.zeros((1, 7)), references, 1)[1].tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("features", "method", "words"),
    [
        (np.ones((5, 2)), "umap", "no map 'umap'; use pca or tsne"),
        (np.ones((0, 2)), "pca", r"\(M, D\) with M of at least 1, got \(0, 2\)"),
        (np.ones(4), "pca", r"got \(4,\)"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "pca", "embeddings of 1 images are not finite"),
        (np.ones((3, 2)), "tsne", "takes 4 to 3,000 images, got 3; use pca"),
        (np.ones((3001, 2)), "tsne", "got 3,001"),
    ],
)
def test_what_cannot_be_mapped_is_named(features, method, words):
    with pytest.raises(EmbeddingError, match=words):
        project(features, method)


def test_other_numbers_of_features_have_no_neighbors():
    with pytest.raises(EmbeddingError, match="embeddings of 2 and 3 features"):
        nearest(np.ones((1, 2)), np.ones((1, 3)), 1)
