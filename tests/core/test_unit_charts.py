"""Points are drawn at the pixels of their shares."""

import re

import pytest

from core.charts import Series
from core.unit_charts import Mark, unit_chart

TITLES = {"title": "t", "axis_titles": ("x", "y")}


def line_of(svg):
    text = svg.split('<polyline class="line s0" points="')[1].split('"')[0]
    return [tuple(map(float, point.split(","))) for point in text.split()]


def test_a_line_is_drawn_at_its_shares_over_the_whole_plot():
    svg = unit_chart([Series("a", [(0, 0), (0.25, 0.5), (1, 1)])], **TITLES)
    (left, bottom), middle, (right, top) = line_of(svg)
    axis = re.search(r'<line class="axis" x1="(.+?)" x2="(.+?)" y1="(.+?)"', svg)
    assert tuple(map(float, axis.groups())) == (left, right, bottom)
    assert middle == pytest.approx((left + (right - left) / 4, (bottom + top) / 2), abs=0.1)
    assert left < right
    assert bottom > top


def test_a_long_line_keeps_its_shape_and_its_last_point():
    steps = 50_000
    points = [(i / steps, (i / steps) ** 2) for i in range(steps + 1)]
    drawn = line_of(unit_chart([Series("a", points)], **TITLES))
    whole = line_of(unit_chart([Series("a", [points[0], points[-1]])], **TITLES))

    assert len(drawn) < 2500
    assert (drawn[0], drawn[-1]) == (whole[0], whole[-1])
    (left, bottom), (right, top) = whole
    for x, y in drawn:
        share = (x - left) / (right - left)
        assert (bottom - y) / (bottom - top) == pytest.approx(share**2, abs=0.005)


def test_a_mark_has_its_interval_and_tooltip():
    svg = unit_chart([], marks=[Mark(0.5, 0.6, 0.4, 0.9, 5, "12 <images>")], **TITLES)
    ends = re.search(r'<line class="bar s0" x1="(.+?)" x2="(.+?)" y1="(.+?)" y2="(.+?)"/>', svg)
    x, _, low, high = map(float, ends.groups())
    circle = re.search(r'<circle class="dot s0" cx="(.+?)" cy="(.+?)" r="5">', svg)
    center = tuple(map(float, circle.groups()))
    assert center == pytest.approx((x, low + (high - low) * 0.4), abs=0.2)
    assert "<title>12 &lt;images&gt;</title>" in svg


def test_nothing_to_draw_is_empty():
    assert unit_chart([Series("a", [])], **TITLES) == ""
