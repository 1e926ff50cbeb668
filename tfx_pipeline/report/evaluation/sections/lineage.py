"""What the figures were computed from, and the files beside the page."""

import json

from markupsafe import Markup

from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.sections import Section, sections


@sections.register("lineage")
def lineage(evaluation: Evaluation) -> Section:
    """Model, data, configuration and software."""
    rows = Markup("\n").join(
        Markup('<tr><th scope="row">{}</th><td class="id">{}</td></tr>').format(name, value)
        for name, value in evaluation.lineage.items()
    )
    body = Markup("<table><tbody>\n{}\n</tbody></table>").format(rows)
    if evaluation.written:
        links = Markup(", ").join(
            Markup('<a href="{0}">{0}</a>').format(name) for name in evaluation.written
        )
        body += Markup("<p>All figures are also in these files, beside this page: {}.</p>").format(
            links
        )
    if evaluation.config:
        body += _configuration(evaluation)
    return Section("Lineage", body, 200)


def _configuration(evaluation: Evaluation) -> Markup:
    text = json.dumps(evaluation.config, indent=2, default=str)
    return Markup(
        "<details><summary>Configuration of the model</summary><pre>{}</pre></details>"
    ).format(text)
