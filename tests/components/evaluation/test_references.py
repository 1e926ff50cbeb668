"""Predictions of reference models, matched with a candidate's by example and class name."""

import dataclasses

import numpy as np
import pytest

from components.evaluation.predict_variants import BASELINE, BEST, predict_variant
from components.evaluation.references import (
    UNKNOWN,
    align,
    fingerprint,
    known,
    paired,
    predict_references,
)
from components.live import Live, find_live, write_live
from core import bundle as bundles
from core.lineage import Lineage, write_lineage
from trainers.data.features import DatasetError
from trainers.evaluation.predictions import Predictions, write_table

RGB = ("red", "green", "blue")


def predictions(labels, scores, ids=None):
    ids = [str(i) for i in range(len(labels))] if ids is None else ids
    return Predictions(
        np.array(ids, object), np.array(labels, np.int32), np.array(scores, np.float32), {}
    )


def test_classes_in_another_order_match_by_name():
    candidate = predictions([0, 1, 2], np.eye(3))
    other = predictions([0, 0, 0], [[0.1, 0.7, 0.2], [0.2, 0.1, 0.7], [0.7, 0.2, 0.1]])
    found = align(other, ("blue", "red", "green"), candidate, RGB)
    # Red is its column 1, green column 2, blue column 0.
    expected = [[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]]
    np.testing.assert_array_equal(found.scores, np.array(expected, np.float32))
    assert found.labels.tolist() == [0, 1, 2]
    one, two = paired(candidate, found)
    np.testing.assert_array_equal(one.scores, candidate.scores)
    np.testing.assert_array_equal(two.scores, found.scores)


def test_models_are_compared_on_their_common_classes():
    # The candidate: red, green, blue. The other: green, black, red.
    candidate = predictions(
        [0, 1, 2, 0], [[0.5, 0.1, 0.4], [0.2, 0.3, 0.5], [0, 0, 1], [0.1, 0.2, 0.7]]
    )
    other = predictions([0] * 4, [[0.1, 0.6, 0.3], [0.8, 0.1, 0.1], [1, 0, 0], [0.5, 0.2, 0.3]])
    found = align(other, ("green", "black", "red"), candidate, RGB)
    assert (found.scores[:, 2] == UNKNOWN).all()
    ours, theirs = paired(candidate, found)
    # Without the blue image, and with the scores of red and green alone.
    assert ours.ids.tolist() == theirs.ids.tolist() == ["0", "1", "3"]
    assert ours.labels.tolist() == theirs.labels.tolist() == [0, 1, 0]
    assert (ours.scores.argmax(1) == ours.labels).tolist() == [True, True, False]
    assert (theirs.scores.argmax(1) == theirs.labels).tolist() == [True, True, False]
    # The reverse comparison is the same.
    again = paired(found, candidate)
    np.testing.assert_array_equal(again[0].scores, theirs.scores)
    # Its own metrics are over its classes.
    assert known(found, found).scores.shape == (3, 2)


def test_without_an_image_of_a_common_class_there_is_nothing_to_compare():
    candidate = predictions([0, 0], np.eye(3)[[0, 1]])
    other = predictions([0, 0], np.eye(2))
    assert align(other, ("black", "white"), candidate, RGB) is None
    assert align(other, ("black", "green"), candidate, RGB) is None


def test_a_fingerprint_is_of_the_examples_in_any_order_of_images_and_classes():
    one = predictions([0, 1], np.eye(3)[:2], ["x", "y"])
    moved = predictions([0, 2], np.eye(3)[[0, 2]], ["y", "x"])
    assert fingerprint(one, RGB) == fingerprint(moved, ("green", "blue", "red"))
    assert fingerprint(one, RGB) != fingerprint(one, ("green", "red", "blue"))
    assert fingerprint(one, RGB) != fingerprint(dataclasses.replace(one, ids=moved.ids), RGB)


@pytest.fixture
def model(tmp_path):
    """The model's folder in the store."""
    return tmp_path / "bundles" / "colors"


@pytest.fixture
def live(tmp_path, model):
    """`live(classes)`: the artifact of the current store."""

    def look(classes=RGB):
        out = tmp_path / f"live{len(bundles.versions(model))}"
        write_live(find_live(model, classes), model, out)
        return Live.load(str(out))

    return look


@pytest.fixture
def store(tmp_path, model, color_bundle):
    """`store(labels, kept=table)` pushes a bundle with a real model."""

    def push(*labels, kept=None, top1=None):
        number = len(bundles.versions(model)) + 1
        draft = color_bundle(tmp_path / f"draft{number}", labels)
        (draft / "assets.extra").mkdir()
        (draft / "assets.extra" / "note").write_text(str(number))
        bundles.seal(draft, bundles.open_bundle(draft).manifest)
        folder = None
        if kept is not None:
            folder = tmp_path / f"kept{number}"
            folder.mkdir()
            write_table(folder / "predictions.tfrecord", {"none_fp32": kept}, labels)
            digest = bundles.content_digest(draft)
            metrics = {} if top1 is None else {"top1": [top1, 0, 1]}
            write_lineage(folder, Lineage(digest, "none_fp32", labels, 0, metrics, "f", 1))
        bundles.push(draft, model, lineage=folder)

    return push


def test_stored_predictions_are_used_if_they_are_of_these_images(store, live, color_records):
    data = color_records(RGB, ("red", "green", "blue", "red"))
    candidate = predictions([0, 1, 2, 0], np.eye(3)[[0, 1, 2, 0]], ["w", "x", "y", "z"])
    order = [2, 0, 3, 1]
    scores = [[0.1, 0.2, 0.7], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.3, 0.4, 0.3]]
    shuffled = predictions(candidate.labels[order], scores, candidate.ids[order])
    store(*RGB, kept=shuffled)
    found = predict_references(live(), candidate, RGB, data, "test")
    assert found.how == {BASELINE: "predictions of its push"}
    assert found.columns.keys() == {BASELINE}
    # Each image's own scores, in the candidate's order.
    assert found.columns[BASELINE].scores.argmax(1).tolist() == [1, 1, 2, 0]
    assert found.columns[BASELINE].ids.tolist() == ["w", "x", "y", "z"]


@pytest.mark.parametrize("kept", [False, True])
def test_a_bundle_predicts_again_without_predictions_of_these_images(
    store, live, color_records, kept
):
    data = color_records(RGB, ("red", "green", "blue", "red"))
    ids = ["other", "images"]
    store("blue", "red", "green", kept=predictions([0, 1], np.eye(3)[:2], ids) if kept else None)
    looked = live()
    labels = predict_variant(looked.bundle(1), "none_fp32", data, "test").labels
    candidate = predictions(labels, np.eye(3)[labels], [str(i) for i in range(4)])
    found = predict_references(looked, candidate, RGB, data, "test")
    why = "it was pushed with another test split" if kept else "no lineage was kept"
    assert f"predicted again: {why}" in found.how[BASELINE]
    # The bundle's classes are blue, red, green; it is nevertheless correct for every image.
    assert found.columns[BASELINE].scores.argmax(1).tolist() == [0, 1, 2, 0]


def test_a_live_model_without_a_class_predicts_again(store, live, color_records):
    data = color_records(RGB, ("red", "green", "blue", "red"))
    store("green", "red", "not blue")
    candidate = predictions([0, 1, 2, 0], np.eye(3)[[0, 1, 2, 0]], [str(i) for i in range(4)])
    looked = live(("green", "red", "not blue"))
    (column,) = predict_references(looked, candidate, RGB, data, "test").columns.values()
    assert column.scores.argmax(1)[[0, 1, 3]].tolist() == [0, 1, 0]
    np.testing.assert_array_equal(column.scores[:, 2], -1)
    with pytest.raises(DatasetError, match=r"lacks 1 of the 3 classes .*'blue'"):
        predict_variant(looked.bundle(1), "none_fp32", data, "test")


def test_the_best_ever_is_left_out_if_it_is_not_better(store, live, color_records):
    data = color_records(RGB, ("red", "green", "blue", "red"))
    store(*RGB)  # always correct
    store("red", "green", "not blue")
    looked = live(("red", "green", "not blue"))
    assert (looked.baseline, looked.contenders) == (
        2,
        (),
    )  # versions of other classes do not contend
    store("green", "red", "blue")
    looked = live()
    assert (looked.baseline, looked.contenders) == (3, (1,))
    candidate = predictions([0, 1, 2, 0], np.eye(3)[[0, 1, 2, 0]])
    assert predict_references(looked, candidate, RGB, data, "test").columns.keys() == {BASELINE}


def test_the_best_ever_was_better_on_these_images(store, live, color_records):
    data = color_records(RGB, ("red", "green", "blue", "red"))
    candidate = predictions([0, 1, 2, 0], np.eye(3)[[0, 1, 2, 0]], list("wxyz"))
    wrong = dataclasses.replace(candidate, scores=np.eye(3, dtype=np.float32)[[0, 1, 2, 1]])
    store(*RGB, kept=candidate, top1=1.0)
    store(*RGB, kept=wrong, top1=0.75)
    found = predict_references(live(), candidate, RGB, data, "test")
    assert found.versions == {BASELINE: 2, BEST: 1}
    assert found.columns[BASELINE].scores.argmax(1).tolist() == [0, 1, 2, 1]
    assert found.columns[BEST].scores.argmax(1).tolist() == [0, 1, 2, 0]


def test_without_a_live_model_there_are_no_references(tmp_path, color_records):
    found = predict_references(Live("m", {}), predictions([0], [[1.0]]), RGB, tmp_path, "test")
    assert not found.columns
    assert not found.versions
