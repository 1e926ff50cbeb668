"""The charts of a load test: values are drawn where the ticks of the logarithmic axis put them."""

import re

import numpy as np
import pytest

from serving.benchmark.loadtest import LoadPlan, LoadResult, LoadTarget
from serving.benchmark.loadtest.charts import by_percentile, over_rate, over_time


def result(rate, latency_ms, *, failed=0):
    """A run without warm-up whose requests have these latencies; the last ones failed."""
    count = len(latency_ms)
    codes = np.full(count, "OK", dtype="<U3")
    codes[count - failed :] = "503"
    plan = LoadPlan(rate=rate, seconds=10.0, warm_up_s=0.0)
    scheduled = np.linspace(0, 10, count, endpoint=False)
    lag = np.zeros(count)
    return LoadResult(
        LoadTarget("http://h", "m"), plan, "", scheduled, lag, np.float64(latency_ms), codes
    )


def pixel_of(chart, axis):
    """A function from values to pixels, by the ticks of the axis `x` or `y`, on a log scale."""
    anchor, position = ("end", 2) if axis == "y" else ("mid", 1)
    pattern = rf'<text class="tick {anchor}" x="([\d.]+)" y="([\d.]+)">([\d.]+)</text>'
    ticks = [
        (float(m[3]), float(m[position]) - (3.5 if axis == "y" else 0))
        for m in re.finditer(pattern, str(chart))
    ]
    values, pixels = np.array(ticks).T
    return lambda value: np.interp(
        np.log10(value), *np.array(sorted(zip(np.log10(values), pixels, strict=True))).T
    )


def test_percentiles_over_the_rate_are_at_their_values():
    results = [result(50, np.full(100, 4.0)), result(200, np.full(100, 30.0))]
    chart = over_rate(results, bound_ms=20.0)
    x, y = pixel_of(chart, "x"), pixel_of(chart, "y")
    lines = re.findall(r'<polyline class="line s(\d)" points="([^"]+)"', chart)
    assert [color for color, _ in lines] == ["0", "1", "2"]
    for _, points in lines:
        drawn = np.array([point.split(",") for point in points.split()], float)
        assert drawn == pytest.approx(np.array([[x(50), y(4)], [x(200), y(30)]]), abs=0.2)
    (bound,) = re.findall(r'class="bound" x1="\d+" x2="\d+" y1="([\d.]+)"', chart)
    assert float(bound) == pytest.approx(y(20), abs=0.2)


def test_each_request_over_time_is_at_its_latency():
    latency = np.array([1.0, 10.0, 100.0, 3.0])
    chart = over_time(result(1, latency, failed=1))
    y = pixel_of(chart, "y")
    good, bad = (
        [float(point) for point in re.findall(r"M[\d.]+ ([\d.]+)h0", path)]
        for path in re.findall(r'<path class="dots [^"]*" d="([^"]*)"', chart)
    )
    assert good == pytest.approx([y(1), y(10), y(100)], abs=0.2)
    assert bad == pytest.approx([y(3)], abs=0.2)


def test_a_percentile_line_ends_where_requests_failed():
    chart = by_percentile([result(10, np.linspace(1, 10, 100), failed=20)])
    y = pixel_of(chart, "y")
    (points,) = re.findall(r'<polyline class="line s0" points="([^"]+)"', chart)
    heights = [float(point.split(",")[1]) for point in points.split()]
    # Percentiles 0, 50 and 75 of the shown ones are below the failed fifth.
    ordered = np.linspace(1, 10, 100)
    assert heights == pytest.approx([y(ordered[0]), y(ordered[49]), y(ordered[74])], abs=0.2)
