"""The report of a run in headless Chromium: windows of two widths, two color schemes, print."""

import pytest

from tfx_pipeline import report

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_the_report_fits_in_a_window(tmp_path, smoke_summary, browser, screenshots, scheme, width):
    path = report.write_report(smoke_summary, tmp_path / "report")
    browser.use(width=width, scheme=scheme)
    browser.open(path)
    browser.screenshot(screenshots / f"report-{scheme}-{width}.png")
    assert browser.run("document.documentElement.scrollWidth") == width


def test_charts_and_closed_details_are_printed(tmp_path, smoke_summary, browser, screenshots):
    browser.use(width=718, scheme="dark")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", media="print", features=features)
    browser.open(report.write_report(smoke_summary, tmp_path / "report"))

    colors = browser.run(
        "[...document.querySelectorAll('.chart .line')].map((one) => getComputedStyle(one).stroke)"
    )
    assert set(colors) == {"rgb(31, 95, 208)", "rgb(194, 87, 12)", "rgb(13, 138, 106)"}
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    sizes = browser.run(
        "[...document.querySelectorAll('details:not([open]) > :not(summary), .chart')]"
        ".map((one) => [one.checkVisibility(), one.getBoundingClientRect().right])"
    )
    assert len(sizes) > 12
    assert all(visible and right <= 730 for visible, right in sizes)
    browser.pdf(screenshots / "report.pdf")
