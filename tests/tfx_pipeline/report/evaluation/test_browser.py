"""The evaluation page in headless Chromium."""

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.page import render
from trainers.evaluation.analysis import AnalysisOptions, analyze

pytestmark = pytest.mark.browser

# Elements whose text is wider than its box, or that reach over the right edge of the window.
CUT = """[...document.querySelectorAll("main *, header *")].filter((one) => {
  const box = one.getBoundingClientRect();
  const style = getComputedStyle(one);
  const hides = style.overflow !== "visible" && style.overflowX !== "auto";
  const scrolls = one.closest(".scroll, nav ul");
  return box.width && (hides && one.scrollWidth > one.clientWidth + 1 ||
    !scrolls && box.right > document.documentElement.clientWidth + 1);
}).map((one) => `${one.tagName} ${one.className} ${one.textContent.slice(0, 40)}`)"""


@pytest.fixture
def page(make_evaluation, tmp_path) -> Path:
    """The page of 300 images and two classes, written to a file."""
    path = tmp_path / "out" / "index.html"
    path.parent.mkdir()
    path.write_text(render(make_evaluation()), encoding="utf-8")
    return path


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_the_page_has_no_message_request_or_cut_text(page, browser, screenshots, scheme, width):
    browser.use(width=width, scheme=scheme)
    browser.open(page)
    browser.screenshot(screenshots / f"evaluation-{scheme}-{width}.png")

    assert browser.messages == []
    assert browser.requested == {page.as_uri()}
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run(CUT) == []
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in re.findall(r"\d+", background)]
    assert (max(levels) < 60) == (scheme == "dark")


def test_a_button_switches_the_colors(page, browser):
    browser.use(scheme="dark")
    browser.open(page)
    color = "getComputedStyle(document.body).backgroundColor"
    dark = browser.run(color)
    browser.run("document.getElementById('theme').click()")
    light = browser.run(color)
    browser.run("document.getElementById('theme').click()")

    assert light == "rgb(246, 247, 249)"
    assert browser.run(color) == dark != light
    assert browser.run("document.getElementById('theme').textContent") == "Light colors"


def test_the_keyboard_reaches_every_section_in_order(page, browser):
    browser.use()
    browser.open(page)
    sections = browser.run("[...document.querySelectorAll('section')].map((one) => one.id)")
    where = """(() => { const one = document.activeElement;
      return [one.className, one.closest("nav") ? one.hash.slice(1) : "",
              one.closest("section")?.id ?? ""]; })()"""
    stops = []
    for _ in range(300):
        browser.press("Tab")
        stops.append(browser.run(where))
        if stops[-1][2] == sections[-1]:
            break

    assert stops[0][0] == "skip", "the first stop is the link to the results"
    assert [link for _, link, _ in stops if link] == sections
    reached = list(dict.fromkeys(section for _, _, section in stops if section))
    assert reached == [one for one in sections if one in reached]
    assert {"classes", "confusion", "slices", "lineage"} <= set(reached)


@pytest.mark.parametrize("width", [700, 1280])
def test_all_links_of_the_navigation_are_visible(page, browser, width):
    browser.use(width=width)
    browser.open(page)
    edge = "Math.max(...[...document.querySelectorAll('nav a')].map((one) => "
    assert browser.run(f"{edge}one.getBoundingClientRect().right))") <= width


def test_a_link_of_the_navigation_moves_the_focus(page, browser):
    browser.use()
    browser.open(page)
    browser.run("document.querySelector('nav a[href=\"#slices\"]').focus()")
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "slices"
    browser.press("Tab")
    assert browser.run("document.activeElement.closest('section').id") == "slices"


def test_a_heading_sorts_by_numbers_with_the_keyboard(page, browser):
    browser.use()
    browser.open(page)
    table = "document.querySelector('#slices table')"
    ages = f"[...{table}.tBodies[0].rows].map((row) => row.cells[0].textContent)"
    counts = f"[...{table}.tBodies[0].rows].map((row) => Number(row.cells[1].textContent))"
    assert browser.run(ages) == ["0-2", "3-9", "10-19", "20-29"]

    browser.run(f"{table}.querySelectorAll('button')[1].focus()")
    browser.press("Enter")
    assert browser.run(counts) == sorted(browser.run(counts))
    sorted_by = f"{table}.querySelectorAll('th')[1].getAttribute('aria-sort')"
    assert browser.run(sorted_by) == "ascending"
    browser.press("Enter")
    assert browser.run(counts) == sorted(browser.run(counts), reverse=True)
    assert browser.run(sorted_by) == "descending"

    browser.run(f"{table}.querySelectorAll('button')[2].click()")
    assert browser.run(ages)[-1] == "0-2", "a slice without figures is last"


def test_print_is_light_and_has_all_columns_and_closed_details(page, browser, screenshots):
    browser.use(width=718, scheme="dark")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", media="print", features=features)
    browser.open(page)

    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    cut = (
        "[...document.querySelectorAll('table, .chart')].filter((one) => "
        "one.getBoundingClientRect().right > 718 + 8).length"
    )
    assert browser.run(cut) == 0
    browser.run("for (const one of document.querySelectorAll('details')) one.open = false")
    hidden = (
        "[...document.querySelectorAll('details > :not(summary)')]"
        ".filter((one) => !one.checkVisibility()).length"
    )
    assert browser.run(hidden) == 0
    browser.pdf(screenshots / "evaluation.pdf")
    assert (screenshots / "evaluation.pdf").read_bytes().startswith(b"%PDF")


def test_1000_classes_have_a_small_page_and_a_filter(browser, tmp_path, predictions):
    model = predictions(tuple(f"class {i}" for i in range(1000)), 1000)
    found = analyze(model, AnalysisOptions(positive="class 7"))
    # Counts as of 50,000 images, of which no cell is empty.
    found = replace(found, images=50_000, confusion=found.confusion * 50 + 1)
    began = time.process_time()
    text = render(Evaluation(found, model, "test"))
    seconds = time.process_time() - began
    path = tmp_path / "index.html"
    path.write_text(text, encoding="utf-8")
    assert len(text) < 5_000_000
    assert seconds < 20

    browser.use()
    browser.open(path)
    browser.run("""document.querySelector("#classes input").value = "class 99";
      document.querySelector("#classes input").dispatchEvent(new Event("input"))""")

    rows = "[...document.querySelectorAll('#classes tbody tr')].filter((row) => !row.hidden).length"
    assert browser.run(rows) == 11
    assert browser.run("document.querySelector('#classes output').textContent") == " 11 of 1000"
    assert browser.messages == []
