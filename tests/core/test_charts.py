"""Marks are drawn at the pixels of their values, and ticks enclose the values."""

import re

import numpy as np
import pytest

from core import charts
from core.figures import Estimate


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


def test_line_chart_draws_each_series_at_its_values():
    series = [charts.Series("loss", [(1, 2.0), (2, 1.0), (3, 0.0)])]
    svg = charts.line_chart(series, title="loss", x_title="epoch")

    points = svg.split('points="')[1].split('"')[0].split()
    xs, ys = zip(*(map(float, point.split(",")) for point in points), strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert ys[0] < ys[1] < ys[2]
    assert charts.line_chart([charts.Series("loss", [])], title="loss", x_title="epoch") == ""


def test_trade_off_draws_dots_at_their_values():
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
    positions = {(anchor, x, y) for anchor, x, y, _ in labels}
    assert len(positions) == len(labels)
    heights = sorted({float(y) for _, _, y, _ in labels})
    assert min(np.diff(heights), default=13) >= 12.9


def test_a_whisker_spans_its_interval():
    svg = charts.whisker(Estimate(0.5, 0.25, 0.75), 0.0, 1.0)
    assert 'x="32.0"' in svg
    assert 'width="56.0"' in svg
    assert 'cx="60.0"' in svg
    assert "<rect" not in charts.whisker(Estimate(0.5, None, None), 0.0, 1.0)
    assert charts.whisker(None, 0.0, 1.0) == ""


def test_scales_map_ends_to_pixels_and_log_axes_space_decades_evenly():
    area = charts.plot(200, 100, charts.Axis(1, 5), charts.Axis(0.1, 100, log=True))
    assert (area.x(1), area.x(5)) == (area.left, area.right)
    assert area.x(3) == (area.left + area.right) / 2
    assert (area.y(0.1), area.y(100)) == pytest.approx((area.bottom, area.top))
    pixels = np.array([area.y(value) for value in (0.1, 1, 10, 100)])
    np.testing.assert_allclose(np.diff(pixels), (area.top - area.bottom) / 3)


def test_lines_across_the_plot_and_many_dots_are_at_their_values():
    area = charts.plot(200, 100, charts.Axis(0, 10), charts.Axis(0, 10))
    middle = (area.left + area.right) / 2
    assert f'x1="{middle:.1f}" x2="{middle:.1f}"' in charts.vertical(area, 5, "kept", "tip")
    assert "<title>tip</title>" in charts.vertical(area, 5, "kept", "tip")
    height = (area.top + area.bottom) / 2
    assert f'y1="{height:.1f}" y2="{height:.1f}"' in charts.horizontal(area, 5, "bound")
    path = charts.dots(area, [(0, 0), (5, 5)], "small s1")
    assert f'd="M{area.left:.1f} {area.bottom:.1f}h0M{middle:.1f} {height:.1f}h0"' in path


def test_text_in_charts_is_escaped():
    area = charts.plot(200, 100, charts.Axis(0, 1), charts.Axis(0, 1))
    parts = (
        charts.axes(area, [(0, "<b>")], [(0, "<b>")], "<b>"),
        charts.circle(area, (0, 0), 0, 3, "<b>"),
        charts.legend(area, ["<b>"]),
        charts.labels(area, [(0.5, 0.5, "<b>")]),
        charts.svg(area, "<b>", charts.vertical(area, 0, "kept", "<b>")),
    )
    assert all("&lt;b&gt;" in part and "<b>" not in part for part in parts)
