"""The HTML environment: escaping, missing values, the common head and styles."""

import subprocess
import sys
from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError

from core import html


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "page.html.j2").write_text(
        "{% extends base %}{% block title %}{{ title }}{% endblock %}"
        "{% block style %}p { margin: 0 }{% endblock %}"
        "{% block body %}<p>{{ figures.percent(share) }}</p>{% endblock %}"
    )
    return tmp_path


class Elements(HTMLParser):
    """(tag, attributes) of a page's elements, and the text within each tag name."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.text = [], "", {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open = tag
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text[self.open] = self.text.get(self.open, "") + data


def test_a_page_has_the_common_head_and_styles(folder):
    page = Elements(html.render(folder, "page.html.j2", title="a & b", share=0.5))
    assert page.text["title"].strip() == "a & b"
    assert page.text["p"].strip() == "50.0 %"
    (policy,) = [a["content"] for tag, a in page.found if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    styles = page.text["style"]
    for part in ("prefers-color-scheme: dark", "@media print", ".line.s0", "p { margin: 0 }"):
        assert part in styles
    assert styles.index(".line.s0") < styles.index("p { margin: 0 }"), "a page's styles come last"


def test_values_are_escaped(folder):
    text = html.render(folder, "page.html.j2", title="<script>", share=0)
    assert "&lt;script&gt;" in text
    assert "<script" not in text


def test_a_missing_value_is_an_error(folder):
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        html.render(folder, "page.html.j2", share=0.5)


def test_a_server_and_a_client_do_not_load_jinja():
    program = (
        "import sys, serving.client, serving.server.app, core.bundle, core.figures\n"
        "print(sorted({'jinja2', 'markupsafe'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
