import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from tfx_pipeline.report.evaluation.markup import Cell, Column, gallery, table
from tfx_pipeline.report.evaluation.page import render
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers import plugins

HOSTILE = "<script>alert('x')</script>\"><img src=http://example.invalid/x onerror=alert(1)>"


class Reader(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def own_sections(monkeypatch):
    """Only the sections that a test registers."""
    monkeypatch.setattr(sections, "_entries", {})
    monkeypatch.setattr(sections, "_loaded", True)


def test_sections_are_in_order_with_anchor_title_and_lead(make_evaluation, own_sections):
    sections.register("alpha")(lambda _: Section("Last", Markup("<p>1</p>"), 90))
    sections.register("omega")(lambda _: Section("First <b>", Markup("<p>2</p>"), 10, "A lead."))
    sections.register("empty")(lambda _: None)

    page = render(make_evaluation())

    assert re.findall(r'<section id="(\w+)"', page) == ["omega", "alpha"]
    assert re.findall(r'<a href="#(\w+)">(\w+)', page) == [("omega", "First"), ("alpha", "Last")]
    assert 'First &lt;b&gt;</h2>\n<p class="lead">A lead.</p>\n<p>2</p>' in page


def test_a_section_of_another_type_is_an_error_that_names_it(make_evaluation, own_sections):
    sections.register("mine")(lambda _: "<p>text</p>")
    with pytest.raises(ValueError, match=r"'mine' \(.*test_page.py, line \d+\) must return a Sect"):
        render(make_evaluation())


def test_the_policy_allows_only_the_script_of_the_page(make_evaluation):
    reader = Reader(render(make_evaluation()))
    (policy,) = [v for k, v in reader.attributes if k == "content" and "default-src" in v]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script")
    assert reader.tags.count("script") == 1


def test_cells_and_captions_are_text(make_evaluation, own_sections):
    def section(evaluation):
        rows = [(HOSTILE, Cell(HOSTILE, HOSTILE, 1.0))]
        columns = [Column(HOSTILE, help=HOSTILE), Column("b", numeric=True)]
        body = table(HOSTILE, columns, rows, sortable=True)
        return Section(HOSTILE, body + gallery(evaluation, [(0, HOSTILE, HOSTILE)]), 1, HOSTILE)

    sections.register("hostile")(section)
    reader = Reader(render(make_evaluation()))

    assert reader.tags.count("script") == 1
    assert reader.tags.count("img") == 1
    assert not [name for name, _ in reader.attributes if name.startswith("on")]


def test_a_gallery_has_the_image_of_a_position_or_the_reason(make_evaluation, own_sections):
    sections.register("images")(
        lambda one: Section("Images", gallery(one, [(3, "cat, predicted dog", "0.98")]), 1)
    )
    page = render(make_evaluation())
    assert re.search(r'<img src="data:image/jpeg;base64,[^"]+" alt="cat, predicted dog"', page)
    assert '<span class="file">3.jpg</span>' in page

    page = render(make_evaluation(data=None))
    assert "<img" not in page
    assert "The page has no thumbnails of 1 images. The records are not known" in page


def test_the_page_counts_images_that_are_not_in_the_records_or_do_not_decode(
    make_evaluation, own_sections, tmp_path, write_records, image_bytes
):
    ids = write_records(tmp_path / "d", [("0.jpg", image_bytes(0)), ("cut.jpg", b"\xff\xd8\xff")])
    whole = make_evaluation(data=tmp_path / "d")
    known = np.array([f"{i:064x}" for i in range(300)], object)
    known[[0, 2]] = ids[1], ids[0]
    model = replace(whole.model, ids=known)
    sections.register("images")(
        lambda one: Section("Images", gallery(one, [(i, "cat", "") for i in range(4)]), 1)
    )
    page = render(replace(whole, model=model))
    assert page.count("<img ") == 1
    note = "Images without a thumbnail: 2 not in the records; 1 cannot be decoded."
    assert f'<p class="note warn">{note}</p>' in page


def test_the_summary_omits_top5_where_the_registry_does(make_evaluation):
    page = render(make_evaluation())
    assert "top-1" in page
    assert "top-5" not in page


def test_a_plugin_adds_the_section_of_the_documentation(make_evaluation, tmp_path, monkeypatch):
    text = (Path(__file__).parents[4] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = [
        one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "hardest" in one
    ]
    (tmp_path / "hardest.py").write_text(code)
    monkeypatch.setattr(sections, "_entries", dict(sections._entries))
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "hardest.py"))

    page = render(make_evaluation())

    body = page.split('<section id="hardest"')[1].split("</section>")[0]
    assert body.count("<img ") == 12
    model = make_evaluation().model
    lowest = model.scores[np.arange(300), model.labels].argmin()
    assert body.index(f">{lowest}.jpg</span>") < body.index("</li>")
