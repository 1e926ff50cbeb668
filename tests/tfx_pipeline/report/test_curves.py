"""The training section: each value of a history is drawn where the axes' ticks put it."""

import re

import pytest

from core import charts
from tfx_pipeline import report
from tfx_pipeline.report import curves, view

HISTORY = [
    {
        "epoch": 1.0,
        "loss": 2.0,
        "val_loss": 1.8,
        "top1": 0.2,
        "val_top1": 0.3,
        "learning_rate": 0.1,
    },
    {
        "epoch": 2.0,
        "loss": 1.0,
        "val_loss": 1.1,
        "top1": 0.6,
        "val_top1": 0.7,
        "learning_rate": 0.05,
    },
    {
        "epoch": 3.0,
        "loss": 0.5,
        "val_loss": 1.2,
        "top1": 0.9,
        "val_top1": 0.6,
        "learning_rate": 0.0,
    },
]
TRIALS = [
    {"trial_id": "0", "score": 0.61, "optim.learning_rate": 0.0123456, "model.options.width": 4},
    {"trial_id": "1", "score": 0.72, "optim.learning_rate": 0.5, "model.options.width": 8},
]


def model(**facts):
    (found,) = view.models({"models": [{"name": "net", "history": HISTORY, **facts}]})
    return found


def lines(chart):
    """Each polyline's points in pixels."""
    found = re.findall(r'<polyline class="([^"]*)" points="([^"]*)"', str(chart))
    return {
        kind: [tuple(map(float, point.split(","))) for point in points.split()]
        for kind, points in found
    }


def ticks(chart, anchor):
    """Value -> pixel of the axis' ticks: `end` is y, `mid` is x."""
    pattern = rf'<text class="tick {anchor}" x="([\d.]+)" y="([\d.]+)">([^<]*)</text>'
    at = 1 if anchor == "end" else 0
    return {
        float(found[2].rstrip(" %")): float(found[at])
        for found in re.findall(pattern, str(chart))
        if re.match(r"[\d.]", found[2])
    }


def test_points_are_drawn_where_the_ticks_put_them():
    chart = curves.training(model(), 2).loss
    found = lines(chart)
    assert set(found) == {"line s2 dashed", "line s2"}
    x, y = ticks(chart, "mid"), ticks(chart, "end")
    for kind, key in (("line s2 dashed", "loss"), ("line s2", "val_loss")):
        assert [px for px, _ in found[kind]] == pytest.approx([x[1], x[2], x[3]], abs=0.1)
        low, high = min(y), max(y)
        slope = (y[high] - y[low]) / (high - low)
        wanted = [y[low] + slope * (row[key] - low) - 3.5 for row in HISTORY]
        assert [py for _, py in found[kind]] == pytest.approx(wanted, abs=0.2)


def test_the_learning_rate_has_a_separate_chart():
    found = curves.training(model(), 0)
    assert len(lines(found.learning_rate)["line s0"]) == 3
    assert "net: learning rate by epoch" in found.learning_rate


@pytest.mark.parametrize(("low", "high"), [(0.0, 3e-4), (1e-7, 2e-6)])
def test_small_rates_have_ticks_that_differ_and_fit(low, high):
    every = charts.ticks(low, high)
    texts = [text for _, text in charts.tick_texts(every)]
    assert [float(text) for text in texts] == pytest.approx(every)
    assert max(map(len, texts)) <= 7


def test_the_kept_epoch_is_marked_and_named():
    found = curves.training(model(best_epoch=2), 0)
    assert found.kept == "epoch 2 of 3 was kept: validation top-1 70.0 %"
    for chart in (found.loss, found.top1, found.learning_rate):
        (mark,) = re.findall(r'class="kept" x1="([\d.]+)"', str(chart))
        assert float(mark) == pytest.approx(ticks(chart, "mid")[2], abs=0.1)
    for absent in (None, 7, "x"):
        found = curves.training(model(best_epoch=absent), 0)
        assert found.kept == ""
        assert 'class="kept"' not in found.loss


def test_a_model_without_a_history_has_no_curve():
    found = curves.training(model(history=[]), 0)
    assert not any((found.loss, found.top1, found.learning_rate, found.kept, found.trials))


def test_several_models_are_compared_in_one_chart(smoke_summary):
    models = view.models(smoke_summary)
    colors = {found["name"]: i for i, found in enumerate(models)}
    assert len(lines(curves.comparison(models, colors))) == 3
    assert not curves.comparison(models[:1], colors)


def test_trials_are_listed_with_their_values():
    found = curves.training(model(trials=TRIALS), 0)
    assert found.keys == ["optim.learning_rate", "model.options.width"]
    assert found.trials == [("72.0 %", ["0.5", "8"]), ("61.0 %", ["0.0123", "4"])]
    page = report.render_report(
        {
            "pipeline": "p",
            "run": "1",
            "status": "pushed",
            "models": [{"name": "net", "history": HISTORY, "trials": TRIALS}],
        }
    )
    assert "2 trials of the search before it" in page
    assert "0.0123" in page
