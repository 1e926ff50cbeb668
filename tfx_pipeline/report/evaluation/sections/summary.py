"""The metrics of the registry with intervals, and what stands out."""

from typing import Any

from markupsafe import Markup

from core import charts, figures
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.findings import findings
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.metrics import metric_facts
from trainers.evaluation.stats import Interval


@sections.register("summary")
def summary(evaluation: Evaluation) -> Section:
    """Every metric that applies to this number of classes."""
    found = evaluation.analysis
    tiles = Markup("\n").join(
        _tile(found.metrics[name], fact) for name, fact in metric_facts(len(found.classes)).items()
    )
    lines = Markup("\n").join(
        Markup("<li>{}.</li>").format(line[0].upper() + line[1:]) for line in findings(found)
    )
    body = Markup('<dl class="tiles">\n{}\n</dl>\n<h3>What stands out</h3>\n<ul>{}</ul>').format(
        tiles, lines
    )
    lead = f"On {found.images:,} images, with 95 % intervals; bars are from 0 to 100 %."
    return Section("Summary", body, 10, lead)


def _tile(value: Interval, fact: dict[str, Any]) -> Markup:
    unit = fact["unit"]
    bar = Markup("")
    if unit == figures.FRACTION:
        bar = charts.whisker(figures.estimate(value.as_list()), 0.0, 1.0)
    note = "" if fact["higher_is_better"] else "lower is better"
    if fact["note"]:
        note = ", ".join(filter(None, (fact["note"].removeprefix("is "), note)))
    return Markup(
        "<div><dt>{}</dt><dd><b>{}</b>{}"
        '<span class="under">{}</span><span class="under wrap">{}</span></dd></div>'
    ).format(
        fact["title"],
        figures.metric(value.as_list(), unit),
        bar,
        figures.metric_interval(value.as_list(), unit),
        note,
    )
