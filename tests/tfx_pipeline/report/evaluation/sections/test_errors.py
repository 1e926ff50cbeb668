"""The sections on errors and embeddings: what they show, escape and leave out."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from components.data_validation.anomaly import Anomaly, Location
from tfx_pipeline.report.evaluation.page import render
from tfx_pipeline.report.evaluation.sections.embeddings import COLORS
from tfx_pipeline.report.thumbnails import ImageIndex, Thumbnails
from trainers.evaluation.analysis import analyze
from trainers.evaluation.embeddings import TSNE, EmbeddingMap, Neighbor, Projection, pca

ALL = ("errors", "confused-pairs", "suspect-labels", "near-duplicates", "embeddings")
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Reader(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def mapped(make_evaluation):
    """An evaluation with a map of its 300 images, neighbors of its first errors, and a pair."""

    def make(*, classes=("cat", "dog"), method="pca"):
        evaluation = make_evaluation()
        model = replace(evaluation.model, classes=classes)
        points = pca(np.random.default_rng(0).normal(size=(300, 8)))
        if method == TSNE:
            points = Projection(points.points, TSNE)
        first = analyze(model).errors[:3].tolist()
        neighbors = {one: [Neighbor("a" * 64, 1, 0.98)] for one in first}
        where = Location("test", "data_tfrecord-00000-of-00001", 0, 0, "0.jpg", classes[0])
        other = replace(where, split="train", filename=HOSTILE)
        records = dict(evaluation.thumbnails.images.records)
        shard = next(iter(records.values()))
        return replace(
            evaluation,
            model=model,
            analysis=analyze(model),
            embeddings=EmbeddingMap(points, np.arange(300), neighbors),
            duplicates=[Anomaly("near_leakage", "difference 0.020", where, other)],
            others=Thumbnails(ImageIndex(records={str(where): shard, "a" * 64: shard})),
        )

    return make


def section(page, anchor):
    return page.split(f'<section id="{anchor}"')[1].split("</section>")[0]


def test_sections_are_in_the_given_order(mapped):
    anchors = ["suspect-labels", "embeddings", "errors"]
    assert re.findall(r'<section id="([\w-]+)"', render(mapped(), anchors)) == anchors


def test_errors_come_with_their_share_and_most_confident_first(mapped):
    evaluation = mapped()
    model = evaluation.model
    wrong = np.flatnonzero(model.scores.argmax(1) != model.labels)
    shown = Reader(section(render(evaluation, ALL), "errors"))
    assert f"{len(wrong)} of 300 images are wrong: {len(wrong) / 3:.1f} %" in shown.text
    scores = [float(one) for one in re.findall(r"score (\d\.\d+)", shown.text)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(model.scores[wrong].max(), abs=1e-3)
    assert shown.tags.count("img") == min(36, len(wrong))


def test_pairs_have_counts_and_shares_of_the_class(mapped):
    evaluation = mapped()
    labels, guess = evaluation.model.labels, evaluation.model.scores.argmax(1)
    text = Reader(section(render(evaluation, ALL), "confused-pairs")).text
    count, total = int(((labels == 0) & (guess == 1)).sum()), int((labels == 0).sum())
    assert f"cat → dog {count} of {total} images, {100 * count / total:.1f} %" in text


def test_every_image_is_a_point_and_every_error_a_ring(mapped):
    evaluation = mapped()
    page = section(render(evaluation, ALL), "embeddings")
    wrong = len(evaluation.analysis.errors)
    assert len(re.findall(r'class="pt ', page)) == 300
    assert len(re.findall(r'class="ring ', page)) == wrong
    assert len(re.findall(r'tabindex="0" role="img"', page)) == min(40, wrong)
    shares = evaluation.embeddings.projection.shares
    assert f"the two axes show {100 * sum(shares):.1f} % of the variance" in page
    coordinates = [float(one) for one in re.findall(r'c[xy]="([\d.-]+)"', page)]
    assert min(coordinates) >= 0
    assert page.split('class="similar"')[1].count("<li>") == 3


def test_both_axes_have_one_scale(mapped):
    evaluation = mapped()
    page = section(render(evaluation, ALL), "embeddings")
    found = re.findall(r'<circle class="pt[^>]+cx="([\d.]+)" cy="([\d.]+)"', page)
    drawn = np.array(found, float)
    correct = evaluation.model.correct
    points = evaluation.embeddings.projection.points[correct]
    for axis in (0, 1):
        spread = np.ptp(drawn[:, axis]) / np.ptp(points[:, axis])
        assert spread == pytest.approx(np.ptp(drawn[:, 0]) / np.ptp(points[:, 0]), rel=0.01)


def test_a_map_by_tsne_states_its_limits(mapped):
    page = section(render(mapped(method=TSNE), ALL), "embeddings")
    assert "distances between them mean nothing" in page
    assert "of the variance" not in page


def test_of_many_classes_those_with_most_errors_have_a_color(make_evaluation, predictions):
    model = predictions(tuple(f"class {i}" for i in range(30)), 300)
    evaluation = make_evaluation()
    points = pca(np.random.default_rng(0).normal(size=(300, 8)))
    many = replace(
        evaluation,
        model=model,
        analysis=analyze(model),
        embeddings=EmbeddingMap(points, np.arange(300)),
    )
    page = section(render(many, ALL), "embeddings")
    assert "18 other classes" in page
    wrong = np.bincount(model.labels[~model.correct], minlength=30)
    colored = {int(one) for one in re.findall(r'value="k\d+".*?class (\d+)<', page)}
    assert len(colored) == COLORS
    assert wrong[sorted(colored)].min() >= np.delete(wrong, sorted(colored)).max()


def test_names_of_classes_and_files_are_text(mapped):
    page = render(mapped(classes=(HOSTILE, "dog")), ALL)
    reader = Reader(page)
    assert reader.tags.count("script") == 1
    assert not [name for name, _ in reader.attributes if name.startswith("on")]


def test_what_was_not_searched_is_left_out_or_explained(make_evaluation):
    page = render(make_evaluation(), ALL)
    assert re.findall(r'<section id="([\w-]+)"', page) == list(ALL[:3])
    notes = {"near-duplicates": "Only one split.", "embeddings": "No signature."}
    page = render(replace(make_evaluation(), notes=notes), ALL)
    assert "Only one split." in section(page, "near-duplicates")
    assert "No signature." in section(page, "embeddings")


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_map_in_a_browser(mapped, browser, screenshots, tmp_path, scheme, width):
    path = tmp_path / "index.html"
    path.write_text(render(mapped(), ALL), encoding="utf-8")
    browser.use(width=width, scheme=scheme)
    browser.open(path)
    browser.screenshot(screenshots / f"errors-{scheme}-{width}.png")
    assert browser.messages == []
    assert browser.run("document.documentElement.scrollWidth") == width
    tips = """[...document.querySelectorAll('.tip')].filter(
      (one) => getComputedStyle(one).display !== 'none')"""
    text = f"{tips}.map(t => t.textContent).join()"
    at_first = browser.run(text)
    assert "predicted" in at_first, "the most confident error is shown until another is chosen"
    browser.run("document.querySelector('.points [tabindex]').focus()")
    assert browser.run(f"{tips}.length") == 1
    assert browser.run(text) != at_first
    visible = """[...document.querySelectorAll('.points .pt')].filter(
      (one) => getComputedStyle(one).opacity === '1').length"""
    assert browser.run(visible) == 300
    browser.run("document.querySelector('input[value=wrong]').click()")
    assert browser.run(visible) == len(mapped().analysis.errors)
