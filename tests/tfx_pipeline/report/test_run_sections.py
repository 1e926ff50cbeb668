"""A plugin extends the report of a run."""

import re

from tfx_pipeline import report
from tfx_pipeline.report.sections import run_sections
from trainers import plugins


def test_a_plugin_adds_a_section_after_the_confusion(smoke_summary, tmp_path, monkeypatch):
    monkeypatch.setattr(run_sections, "_entries", dict(run_sections._entries))
    file = tmp_path / "saliency.py"
    file.write_text(
        "from markupsafe import Markup\n"
        "from tfx_pipeline.report.sections import Section, run_sections\n"
        '@run_sections.register("saliency")\n'
        "def saliency(report):\n"
        '    return Section("Saliency", Markup("<p>{}</p>").format(report.summary["run"]), 5)\n'
    )
    monkeypatch.setenv(plugins.VARIABLE, str(file))
    html = report.render_report(smoke_summary)
    ids = re.findall('<section id="([^"]+)"', html)
    assert ids[5:8] == ["confusion", "saliency", "training"]
    assert "<p>20261122-160000</p>" in html.split('id="saliency"')[1].split("</section>")[0]
    assert '<li><a href="#saliency">Saliency</a></li>' in html
