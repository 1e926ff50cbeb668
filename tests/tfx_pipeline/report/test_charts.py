"""The report's charts and its table of confusions stand where their values are."""

import re

import numpy as np
import pytest

from core.figures import Estimate
from tfx_pipeline.report import charts, page


def test_confusion_lists_the_worst_pairs_first():
    found = page.confusion({"matrix": [[5, 1, 0], [0, 4, 2], [3, 0, 9]]}, ["cat", "dog"])

    assert found is not None
    assert [pair[:3] for pair in found["pairs"]] == [
        ("2", "cat", "3"),
        ("dog", "2", "2"),
        ("cat", "dog", "1"),
    ]
    assert (found["errors"], found["examples"]) == ("6", "24")
    name, cells = found["rows"][0]
    assert name == "cat"
    assert [cell["kind"] for cell in cells] == ["hit", "miss", "miss"]
    assert cells[1]["tip"] == "cat taken for dog: 1 (16.7 %)"


def test_a_thousand_classes_get_pairs_instead_of_a_blur():
    matrix = np.eye(1000, dtype=int)
    matrix[3, 7] = 2

    found = page.confusion({"matrix": matrix.tolist()}, [])

    assert found is not None
    assert found["rows"] == []
    assert found["pairs"] == [("3", "7", "2", "66.7 %")]


@pytest.mark.parametrize("matrix", [None, [], [[1, 2]], [1, 2], "x"])
def test_what_is_no_matrix_has_no_confusion(matrix):
    assert page.confusion({"matrix": matrix}, []) is None


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.96, 0.991), (2.3, 2.3), (0, 0), (-3, 1200), (1e-4, 3e-4)]
)
def test_ticks_enclose_what_they_measure(low, high):
    found = charts.ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 8
    np.testing.assert_allclose(np.diff(found), found[1] - found[0])


@pytest.mark.parametrize(("low", "high"), [(1, 1), (0.05, 2.07), (14.1, 310), (1, 1e6), (3, 4)])
def test_log_ticks_enclose_what_they_measure(low, high):
    found = charts.log_ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert len(found) >= 2


def test_curves_draw_each_series_where_its_values_are():
    series = [charts.Series("loss", [(1, 2.0), (2, 1.0), (3, 0.0)])]
    svg = charts.curves(series, title="loss")

    points = svg.split('points="')[1].split('"')[0].split()
    xs, ys = zip(*(map(float, point.split(",")) for point in points), strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert ys[0] < ys[1] < ys[2]
    assert charts.curves([charts.Series("loss", [])], title="loss") == ""


def test_trade_off_dots_stand_where_their_values_are():
    dots = [
        charts.Dot(x, Estimate(y, y - 0.01, y + 0.005), "cnn", f"v{x}", 0, f"{x} kB", f"{y:.1%}")
        for x, y in ((10, 0.95), (100, 0.97), (1000, 0.99))
    ]
    svg = charts.trade_off(dots, title="t", x_title="kB")

    found = re.findall(r'<circle class="dot s0" cx="([\d.]+)" cy="([\d.]+)"', svg)
    xs, ys = np.array(found, float).T
    assert np.diff(xs) == pytest.approx([np.diff(xs)[0]] * 2, abs=0.2)
    assert np.diff(ys) == pytest.approx([np.diff(ys)[0]] * 2, abs=0.2)
    assert np.diff(xs)[0] > 0 > np.diff(ys)[0]
    bars = np.array(re.findall(r'class="bar s0".*?y1="([\d.]+)" y2="([\d.]+)"', svg), float)
    assert (bars[:, 0] - ys) / (ys - bars[:, 1]) == pytest.approx(np.full(3, 2.0), abs=0.05)
    assert charts.trade_off([dots[0]._replace(x=0)], title="t", x_title="kB") == ""


def test_trade_off_labels_never_lie_on_each_other():
    dots = [
        charts.Dot(10.0 + i / 9, Estimate(0.98, None, None), "cnn", f"variant_{i}", i, "", "")
        for i in range(12)
    ]
    svg = charts.trade_off(dots, title="t", x_title="kB")

    assert svg.count("<circle") == 12
    labels = re.findall(r'class="label (\w+)" x="([\d.]+)" y="([\d.]+)">(\w+)<', svg)
    assert 1 < len(labels) < 12
    places = {(anchor, x, y) for anchor, x, y, _ in labels}
    assert len(places) == len(labels)
    heights = sorted({float(y) for _, _, y, _ in labels})
    assert min(np.diff(heights), default=13) >= 12.9


def test_a_whisker_spans_its_interval():
    svg = charts.whisker(Estimate(0.5, 0.25, 0.75), 0.0, 1.0)
    assert 'x="32.0"' in svg
    assert 'width="56.0"' in svg
    assert 'cx="60.0"' in svg
    assert "<rect" not in charts.whisker(Estimate(0.5, None, None), 0.0, 1.0)
    assert charts.whisker(None, 0.0, 1.0) == ""
