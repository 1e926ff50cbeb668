import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from serving.benchmark.loadtest import LoadPlan, LoadResult, LoadTarget, RateSearch, report

TARGET = LoadTarget("http://h:1", "<cats>")


def made(rate=100.0, *, failed=0, lag_ms=0.1, resends=0):
    plan = LoadPlan(rate=rate, seconds=10.0, warm_up_s=2.0)
    count = int(rate * plan.total_s)
    scheduled = np.linspace(0, plan.total_s, count, endpoint=False)
    codes = np.full(count, "OK", dtype="<U20")
    codes[count - failed :] = "503"
    latency = np.linspace(1, 10, count)
    reasons = {"503": "<b>full</b>"} if failed else {}
    lag = np.full(count, lag_ms)
    return LoadResult(
        TARGET, plan, "images", scheduled, lag, latency, codes, reasons, resends=resends
    )


def printed(results, search=None):
    text = io.StringIO()
    Console(width=130, file=text).print(report.table(results, search))
    return text.getvalue()


def test_figures_are_of_the_measured_window():
    result = made()
    assert (result.requests, result.good) == (1000, 1000)
    assert result.percentile(50).value == result.latency_ms[200:][499]
    assert result.max_ms == 10
    assert result.offered_rate == 100
    # The last response arrives after the end of the window.
    assert result.achieved_rate == pytest.approx(100, abs=0.3)
    assert made(failed=20).good == 980
    assert made(failed=20).percentile(99).value == np.inf
    assert made(failed=10).percentile(99).value < 10


def test_the_table_shows_errors():
    text = printed([made(), made(failed=30, lag_ms=5.0)])
    assert re.search(r"100/s .* 1000 ", text)
    assert report.remark(made(failed=30, lag_ms=5.0)) == "INVALID, 30 x 503"
    assert "INVALID" in text
    assert "failed [failed, failed]" in text
    assert any("the generator was late: p99 5.00 ms" in n for n in report.notes([made(lag_ms=5.0)]))
    assert "100/s: 503: <b>full</b>" in report.notes([made(failed=30)])


def test_resends_are_shown():
    result = made(failed=30, resends=3)
    assert report.remark(result) == "30 x 503, 3 resent"
    assert any(
        note.startswith("100/s: 3 resent: the server closed") for note in report.notes([result])
    )
    assert result.to_dict()["resends"] == 3
    assert report.remark(made()) == ""


def test_json_has_the_context_of_each_number(tmp_path):
    file = tmp_path / "deep" / "out.json"
    report.write_json(report.document([made(failed=30)], command="sightline loadtest"), file)
    values = json.loads(file.read_text())
    assert {"cpu", "cores", "python", "httptools", "grpcio"} <= set(values["machine"])
    (run,) = values["runs"]
    assert run["plan"]["seed"] == 0
    assert run["errors"] == {"503": 30}
    assert run["latency_ms"]["p99"] == {"value": None, "low": None, "high": None}
    assert run["latency_ms"]["p50"]["low"] < run["latency_ms"]["p50"]["value"]
    assert [p.name for p in file.parent.iterdir()] == ["out.json"]


def test_the_page_is_self_contained_and_escapes(tmp_path):
    results = [made(50.0), made(200.0, failed=5)]
    search = RateSearch(50.0, 8.0, 99.0, tuple(results))
    report.write_html(results, tmp_path / "page.html", search, command="a <b>")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 3
    assert "&lt;cats&gt;" in page
    assert "&lt;b&gt;full" in page
    assert "<cats>" not in page
    assert "<script" not in page
    assert re.findall(r"""(?:src|href)\s*=\s*(\S+?)>""", page) == ['"data:,"']
    assert not re.search(r"url\s*\(", page)
    assert "nan" not in page.lower().replace("tenant", "")
    assert "Sustains 50 requests/s at p99 &lt;= 8 ms" in page


def test_a_page_with_failures_only(tmp_path):
    report.write_html([made(20.0, failed=240)], tmp_path / "page.html")
    assert "no request succeeded" in (tmp_path / "page.html").read_text()


def test_verdicts():
    steps = (made(),)
    assert "Sustains 100 requests/s" in report.verdict(RateSearch(100.0, 50, 99, steps))
    assert "No rate passed, not even 100/s" in report.verdict(RateSearch(0.0, 5, 99, steps))
    limited = RateSearch(100.0, 50, 99, steps, is_limited_by_generator=True)
    assert "the generator's limit" in report.verdict(limited)
    assert "at least 1307 queries" in report.verdict(limited)
    assert "passed" in printed(steps, RateSearch(100.0, 50, 99, steps))
