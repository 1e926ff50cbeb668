"""Embeddings of a trained folder and of a bundle, against the classifier that takes them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from components.evaluation.predict_variants import embed_bundle
from core.bundle import open_bundle
from trainers.evaluation.embeddings import EmbeddingError
from trainers.keras import keras
from trainers.training.evaluate import embed_trained, predict_trained

pytestmark = pytest.mark.onednn


@pytest.fixture(scope="module")
def embedded(trained, records):
    return embed_trained(trained, records[0], "test")


def test_the_classifier_makes_the_scores_from_them(embedded, trained, records):
    predicted = predict_trained(trained, records[0], "test")
    kernel, bias = trained.model.get_layer("logits").get_weights()
    scores = softmax(embedded.features @ kernel + bias, axis=1)
    np.testing.assert_allclose(scores, predicted.scores, atol=1e-5)
    assert embedded.ids.tolist() == predicted.ids.tolist()
    assert embedded.labels.tolist() == predicted.labels.tolist()


def test_a_bundle_makes_them_from_encoded_images(embedded, built, records, true_labels):
    found = embed_bundle(open_bundle(built[0]), records[0], "test")
    np.testing.assert_allclose(found.features, embedded.features, atol=1e-4)
    assert found.features.dtype == np.float32
    assert found.ids.tolist() == embedded.ids.tolist()
    assert found.labels.tolist() == true_labels["test"].tolist()


def test_a_bundle_of_an_earlier_version_is_named_with_the_remedy(built, records):
    bundle = open_bundle(built[0])
    earlier = replace(bundle, manifest=replace(bundle.manifest, embedding_size=0))
    with pytest.raises(EmbeddingError, match=r"bundle tiny has no signature .*export"):
        embed_bundle(earlier, records[0], "test")


def test_a_network_without_a_classifier_layer_is_named(trained, records):
    images = keras.Input((16, 16, 3))
    other = replace(trained, model=keras.Model(images, keras.layers.Flatten()(images)))
    with pytest.raises(EmbeddingError, match="tiny has no classifier layer named `logits`"):
        embed_trained(other, Path(records[0]), "test")
