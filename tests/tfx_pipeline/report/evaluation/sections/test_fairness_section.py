"""Groups and gaps in the page, against scikit-learn and SciPy, and what it states."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.page import render
from tfx_pipeline.report.evaluation.sections.fairness import fairness
from trainers.evaluation.analysis import AnalysisOptions, analyze
from trainers.evaluation.fairness import LIMITS


@pytest.fixture
def model(predictions):
    """600 images; group `two` has two of them."""
    found = predictions(("cat", "dog"), 600)
    race = np.array(["<b>A", "B"] * 299 + ["two"] * 2, object)
    return replace(found, slices=found.slices | {"slice/race": race})


def evaluated(model, *groups, **options):
    chosen = AnalysisOptions(groups=groups, **options)
    return Evaluation(analyze(model, chosen), model, "test", options=chosen)


def percent(value):
    return f"{100 * value:.1f}"


def test_rates_and_gaps_have_intervals(model, tables_of):
    section = fairness(evaluated(model, "race"))
    (header, *rows), (_, *gap_rows) = tables_of(section.body)
    assert header[:4] == ["group", "images", "accuracy", "true positive rate"]
    shares = {}
    for name, row in zip(("<b>A", "B"), rows, strict=False):
        inside = model.slices["slice/race"] == name
        labels, guess = model.labels[inside], model.predicted[inside]
        recall = metrics.recall_score(labels, guess)
        right, count = int((labels == guess).sum()), len(labels)
        shares[name] = (right, count)
        ends = stats.binomtest(right, count).proportion_ci(method="exact")
        assert row[:2] == [name, "299"]
        assert row[2] == f"{percent(right / count)} % {percent(ends.low)} to {percent(ends.high)}"
        assert row[3].startswith(f"{percent(recall)} % ")
    assert rows[2][0].startswith("two fewer than 30 images: shown, not compared; with 2 images")
    both = [stats.binomtest(*one).proportion_ci(0.975, method="exact") for one in shares.values()]
    low = max(0.0, max(one.low for one in both) - min(one.high for one in both))
    high = max(one.high for one in both) - min(one.low for one in both)
    value = abs(np.subtract(*(k / n for k, n in shares.values())))
    assert gap_rows[0][:2] == ["accuracy", f"{percent(value)} {percent(low)} to {percent(high)}"]
    assert gap_rows[0][5] == "2 of 3"
    assert {row[0].partition(":")[0] for row in gap_rows} >= {
        "true positive rate",
        "overconfidence",
    }


def test_the_section_states_what_figures_cannot_show(model):
    section = fairness(evaluated(model, "race*age"))
    text = re.sub("<[^>]+>", "", section.body)
    for words in LIMITS:
        assert words in text
    assert "Groups with fewer than 30 images are shown, not compared" in section.lead
    assert "race*age, positive class dog" in text
    assert "<b>A" not in section.body


def test_without_groups_there_is_no_section(model):
    assert fairness(evaluated(model)) is None


def test_one_group_and_groups_of_two_images_have_no_gap(model):
    one = replace(model, slices={"slice/race": np.array(["A"] * 600, object)})
    assert "All images are of one group, A" in fairness(evaluated(one, "race")).body
    pairs = replace(
        model, slices={"slice/race": np.array([str(i // 2) for i in range(600)], object)}
    )
    body = fairness(evaluated(pairs, "race")).body
    assert "300 groups with too few images to be compared" in body
    assert "Fewer than two groups have enough images" in body
    assert "<table" not in body


def test_many_classes_are_folded_below_the_rates_that_need_none(predictions, tables_of):
    found = predictions(tuple("abcdefgh"), 400)
    body = fairness(evaluated(found, "age")).body
    assert body.count("<details><summary>age, positive class") == 8
    assert body.index("<h3>age</h3>") < body.index("<details>")
    assert tables_of(body)[0][0] == ["group", "images", "accuracy", "overconfidence"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_section_fits_the_window(model, browser, screenshots, tmp_path, width):
    path = tmp_path / "index.html"
    path.write_text(render(evaluated(model, "race", "race*age")), encoding="utf-8")
    browser.use(width=width)
    browser.open(path)
    browser.screenshot(screenshots / f"fairness-{width}.png")
    assert browser.messages == []
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("document.querySelectorAll('#fairness .whisker').length") > 20
