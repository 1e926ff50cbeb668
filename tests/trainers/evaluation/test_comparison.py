"""Comparisons of models on the same images, against brute force and simulation."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from trainers.evaluation.common_images import on_common_images
from trainers.evaluation.comparison import (
    LEAST_IMAGES,
    ComparisonError,
    ModelPredictions,
    aligned,
    compare,
    holm,
    images_to_detect,
)
from trainers.evaluation.noninferiority import Paired, score_interval

CLASSES = ("cat", "dog", "eel")


def predicted(name, right, *, slices=None, classes=CLASSES, order=None):
    """A model that gets the images right where `right` is true."""
    right = np.asarray(right, bool)
    labels = np.arange(len(right)) % 3
    predicted = np.where(right, labels, (labels + 1) % 3)
    scores = np.full((len(right), 3), 0.1, np.float32)
    scores[np.arange(len(right)), predicted] = 0.8
    ids = np.array([f"image{i:04d}" for i in range(len(right))], dtype=object)
    order = np.arange(len(right)) if order is None else order
    slices = {
        key: np.asarray(values, dtype=object)[order] for key, values in (slices or {}).items()
    }
    return ModelPredictions(
        ids[order], labels[order], scores[order], slices, name=name, classes=classes
    )


def closed_testing(p_values):
    """Adjusted p-values of the closure of Bonferroni tests, by enumerating every subset."""
    found = []
    for index in range(len(p_values)):
        rest = [i for i in range(len(p_values)) if i != index]
        subsets = [(index, *s) for size in range(len(rest) + 1) for s in combinations(rest, size)]
        found.append(max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in subsets))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_the_closure_of_bonferroni(seed):
    random = np.random.default_rng(seed)
    p_values = random.choice([0.0, 0.01, 0.01, 0.2, 1.0, *random.random(3)], random.integers(1, 7))
    np.testing.assert_allclose(holm(p_values), closed_testing(p_values), rtol=1e-12)


def test_holm_of_nothing_and_of_what_is_no_p_value():
    assert holm([]).shape == (0,)
    for bad in ([1.1], [-0.1], [float("nan")], [[0.1]]):
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            holm(bad)


def test_a_false_claim_among_ten_equal_models_is_rare():
    random = np.random.default_rng(7)
    claims = 0
    for _ in range(400):
        gained = random.binomial(60, 0.5, size=10)
        p_values = [stats.binomtest(int(g), 60).pvalue for g in gained]
        claims += bool((holm(p_values) < 0.05).any())
    assert claims / 400 <= 0.07


@pytest.mark.parametrize(("gained", "lost", "total"), [(40, 20, 1000), (5, 3, 400), (150, 90, 900)])
def test_as_many_images_as_promised_detect_one_point(gained, lost, total):
    needed = images_to_detect(Paired(gained, lost, total))
    churn = (gained + lost + 1) / (total + 1)
    random = np.random.default_rng(3)
    cells = [(churn + 0.01) / 2, (churn - 0.01) / 2, 1 - churn]
    drawn = random.multinomial(needed, cells, size=2000)
    low, _ = score_interval(drawn[:, 0], drawn[:, 1], needed)
    assert 0.77 <= (low > 0).mean() <= 0.84


def test_settings_of_a_power_out_of_range():
    for settings in ({"difference": 0}, {"level": 1}, {"power": 95}):
        with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
            images_to_detect(Paired(1, 1, 10), **settings)


def test_counts_intervals_and_tests_are_scipys():
    random = np.random.default_rng(0)
    first, second = random.random(600) < 0.8, random.random(600) < 0.7
    (found,) = compare([predicted("a", first), predicted("b", second)])
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    assert (found.paired.gained, found.paired.lost, found.paired.total) == (gained, lost, 600)
    assert found.top1.value == pytest.approx(second.mean() - first.mean())
    assert found.p_value == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert found.p_adjusted == found.p_value
    assert found.decided
    assert found.sentence.startswith("b is worse than a by ")
    # Where exactly one is right the loss differs by log 8; elsewhere by nothing.
    assert found.cross_entropy.value == pytest.approx((lost - gained) * np.log(8) / 600, abs=1e-6)
    assert set(found.changed[:lost]) == set(np.flatnonzero(first & ~second))
    assert set(found.changed[lost:]) == set(np.flatnonzero(second & ~first))


def test_several_candidates_share_a_family():
    random = np.random.default_rng(1)
    models = [predicted(name, random.random(300) < 0.8) for name in "abcd"]
    found = compare(models)
    assert [one.candidate for one in found] == ["b", "c", "d"]
    np.testing.assert_allclose(
        [one.p_adjusted for one in found], closed_testing([one.p_value for one in found])
    )


def test_an_undecided_comparison_names_the_images_that_it_needs():
    first = np.arange(100) % 10 > 0
    second = np.roll(first, 1)
    (found,) = compare([predicted("a", first), predicted("b", second)])
    assert not found.decided
    assert found.top1.value == 0
    assert (
        "100 images are not enough to detect a difference of 1 point; about 16," in found.sentence
    )
    assert f"{found.needed:,} are needed" in found.sentence


def test_slices_by_loss_with_small_ones_apart():
    right = np.ones(200, bool)
    worse = right.copy()
    worse[:20] = False  # All of them dark.
    light = ["dark"] * 60 + ["bright"] * 120 + ["red"] * (LEAST_IMAGES - 10)
    slices = {"slice/light": light, "slice/same": ["all"] * 200}
    (found,) = compare([predicted("a", right, slices=slices), predicted("b", worse, slices=slices)])
    assert [(one.value, one.paired.lost) for one in found.slices] == [("dark", 20), ("bright", 0)]
    assert found.slices[0].interval.value == pytest.approx(-1 / 3)
    assert found.slices[0].p_adjusted == pytest.approx(2 * stats.binomtest(0, 20).pvalue)
    assert found.small_slices == (("slice/light", "red", 20),)


def test_images_and_classes_in_another_order_are_paired():
    random = np.random.default_rng(5)
    first, second = random.random(90) < 0.8, random.random(90) < 0.6
    straight = compare([predicted("a", first), predicted("b", second)])[0]
    other = predicted("b", second, order=random.permutation(90))
    turned = ModelPredictions(
        other.ids,
        np.array([2, 0, 1])[other.labels],
        other.scores[:, [1, 2, 0]],
        other.slices,
        name="b",
        classes=("dog", "eel", "cat"),
    )
    found = compare([predicted("a", first), turned])[0]
    assert found.paired == straight.paired
    np.testing.assert_array_equal(found.changed, straight.changed)


def test_copies_of_an_image_are_each_counted():
    first = predicted("a", [True, True, False, True] * 20)
    ids = np.array([f"{i // 2}" for i in range(80)], dtype=object)
    labels = np.zeros(80, int)
    ours = ModelPredictions(ids, labels, first.scores, {}, name="a", classes=CLASSES)
    (found,) = compare(
        [
            ours,
            ModelPredictions(ids[::-1], labels, first.scores[::-1], {}, name="b", classes=CLASSES),
        ]
    )
    assert found.paired.total == 80


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (predicted("b", [True] * 99), "on 99 images and a on 100, of which 99 are the same"),
        (
            ModelPredictions(
                np.arange(100).astype(str), np.zeros(100, int), np.ones((100, 3)), {}, name="b"
            ),
            "of which 0 are the same; a paired comparison needs the same images",
        ),
        (
            predicted("b", [True] * 100, classes=("cat", "dog", "owl")),
            "they differ in: eel, owl. Compare models of the same classes",
        ),
        (
            ModelPredictions(
                predicted("a", [True] * 100).ids,
                np.zeros(100, int),
                np.ones((100, 3)),
                {},
                name="b",
            ),
            "have other labels for 66 images, first image0001: 0 and dog",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(other, words):
    with pytest.raises(ComparisonError, match=words):
        compare([predicted("a", [True] * 100), other])


def test_names_that_are_known_in_part_are_compared_where_they_are():
    first = predicted("a", [True] * 60)
    part = predicted("b", [True] * 60, classes=("cat", "", "eel"))
    assert compare([first, part])[0].differing == 0
    wrong = predicted("b", [True] * 60, classes=("cat", "", "dog"))
    with pytest.raises(ComparisonError, match="they differ in: eel"):
        compare([first, wrong])


def test_one_model_is_no_comparison():
    with pytest.raises(ComparisonError, match="at least two models, got 1"):
        compare([predicted("a", [True])])


def test_models_that_are_aligned_are_not_aligned_again():
    reference = predicted("a", [True, False] * 50)
    turned = predicted("b", [True] * 100)
    order = np.random.default_rng(0).permutation(100)
    turned = replace(
        turned, ids=turned.ids[order], labels=turned.labels[order], scores=turned.scores[order]
    )
    once = aligned(turned, reference)
    assert once.ids.tolist() == reference.ids.tolist()
    assert aligned(once, reference) is once
    (found,) = compare([reference, once])
    assert (found.paired.gained, found.paired.lost) == (50, 0)


def test_images_in_common_count_copies_and_name_what_is_left_out():
    first = predicted("a", [True] * 100)
    ids = first.ids.copy()
    ids[1] = ids[0]  # Two copies of one image; the other model has one of them.
    second = replace(predicted("b", [True] * 100), ids=first.ids)
    found = on_common_images([replace(first, ids=ids), second])
    assert found.left_out == {"a": 2, "b": 2}
    assert [len(model.ids) for model in found.models] == [98, 98]
    same = on_common_images([first, second])
    assert same.models[0] is first
    assert same.sentence == ""


def test_few_images_in_common_are_refused():
    first = predicted("a", [True] * 100)
    second = predicted("b", [True] * 100)
    ids = np.array([f"x{i}" if i < 20 else one for i, one in enumerate(first.ids)], dtype=object)
    other = replace(second, ids=ids)
    with pytest.raises(ComparisonError, match=r"of which 80 are the same \(80%\)"):
        on_common_images([first, other])
