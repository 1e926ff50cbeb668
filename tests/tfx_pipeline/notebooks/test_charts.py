import re
import xml.etree.ElementTree as ET

import pytest

from core.charts import Dot
from core.figures import Estimate
from tfx_pipeline.notebooks import charts
from tfx_pipeline.notebooks.charts import Row, Tile


def drawn(html):
    text = html._repr_html_()
    return ET.fromstring(re.search(r"<svg.*</svg>", text, re.DOTALL).group())


def bars(svg):
    return [
        (float(one.get("x1")), float(one.get("x2")))
        for one in svg.iter("line")
        if one.get("class", "").startswith("bar")
    ]


def test_a_forest_is_to_scale():
    rows = [
        Row("a", Estimate(0.5, 0.25, 0.75), mark=0.6),
        Row("b", Estimate(0.25, 0.0, 1.0)),
        Row("c", Estimate(1.0, None, None)),
    ]
    svg = drawn(charts.forest(rows, title="t", x_title="x", reference=0.5))
    (a_low, a_high), (low, high) = bars(svg)
    assert len(bars(svg)) == 2  # No bar without an interval.
    assert (a_low - low) / (high - low) == pytest.approx(0.25, abs=1e-3)
    assert (a_high - low) / (high - low) == pytest.approx(0.75, abs=1e-3)
    middle = [float(one.get("cx")) for one in svg.iter("circle")]
    assert [(x - low) / (high - low) for x in middle] == pytest.approx([0.5, 0.25, 1], abs=1e-3)
    kept = [float(one.get("x1")) for one in svg.iter("line") if one.get("class") == "kept"]
    assert [(x - low) / (high - low) for x in kept] == pytest.approx([0.5, 0.6], abs=1e-3)
    texts = ["".join(one.itertext()) for one in svg.iter("text")]
    assert "50.0 % (25.0 to 75.0)" in texts
    assert "100.0 %" in texts


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (charts.SHARES, "1.2 % (-0.5 to 2.0)"),
        (charts.POINTS, "+1.2 (-0.5 to +2.0)"),
        (charts.PLAIN, "0.012 (-0.005 to 0.020)"),
    ],
)
def test_values_are_shown_in_their_unit(kind, expected):
    rows = [Row("a", Estimate(0.012, -0.005, 0.02))]
    assert expected in charts.forest(rows, title="t", x_title="x", kind=kind)._repr_html_()


def test_long_charts_state_what_they_leave_out():
    rows = [Row(f"row {i}", Estimate(i / 100, 0.0, 1.0)) for i in range(100)]
    html = charts.forest(rows, title="Classes", x_title="x")
    assert len(list(drawn(html).iter("circle"))) == 40
    assert "Classes; 60 further rows are not shown" in html._repr_html_()
    assert (
        "Classes: nothing to show" in charts.forest([], title="Classes", x_title="x")._repr_html_()
    )


def test_text_of_a_data_set_is_escaped():
    hostile = "<script>alert(1)</script>"
    html = "".join(
        one._repr_html_()
        for one in (
            charts.forest([Row(hostile, Estimate(0.5, 0.1, 0.9))], title=hostile, x_title=hostile),
            charts.gallery([Tile([""], [hostile])], empty=""),
            charts.stacked({hostile: charts.text(hostile)}),
        )
    )
    assert "<script" not in html


def test_a_trade_off_has_a_legend():
    dots = [
        Dot(10, Estimate(0.9, 0.8, 0.95), "cnn", "int8", 0, "10 kB", "90 %"),
        Dot(20, Estimate(0.9, 0.8, 0.95), "vit", "int8", 1, "20 kB", "90 %"),
    ]
    html = charts.trade_off(dots, title="t", x_title="kB")._repr_html_()
    assert '<span class="key s1"></span>vit' in html
    assert "cnn, int8: 90 % at 10 kB" in html


def test_styles_apply_to_the_output_only_and_are_light():
    style = re.search(r"<style>(.*)</style>", charts.text("x")._repr_html_(), re.DOTALL).group(1)
    selectors = [
        part.strip() for rule in re.findall(r"([^{}]+)\{", style) for part in rule.split(",")
    ]
    assert len(selectors) > 40
    assert all(one.startswith(".sightline") for one in selectors)
    assert "@media" not in style
    assert re.findall(r"--paper: (#\w+)", style) == ["#f6f7f9"]
