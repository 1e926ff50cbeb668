"""ROC and precision-recall curves, with the areas under them."""

from markupsafe import Markup

from core.charts import COLORS, Series
from core.unit_charts import unit_chart
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.markup import absent
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.analysis import MOST_CURVES
from trainers.evaluation.stats import Interval


@sections.register("curves")
def curves(evaluation: Evaluation) -> Section:
    """Curves of the positive class, or of the six classes with the smallest ROC area."""
    found = evaluation.analysis.curves
    if not found:
        return Section("Curves", absent(_reason(evaluation)), 90)
    names = sorted(found, key=lambda name: found[name][0].area.value)[:COLORS]
    roc, precision = [], []
    for color, name in enumerate(names):
        one, other = found[name]
        points = zip(one.false_positive_rate.tolist(), one.true_positive_rate.tolist(), strict=True)
        roc.append(Series(name, list(points), color))
        points = zip(other.recall.tolist(), other.precision.tolist(), strict=True)
        precision.append(Series(name, list(points), color))
    charts = (
        unit_chart(
            roc,
            title="ROC curves",
            axis_titles=("false positive rate", "true positive rate"),
            diagonal=True,
        ),
        unit_chart(precision, title="Precision-recall curves", axis_titles=("recall", "precision")),
    )
    body = Markup(
        '<div class="grid2"><figure><figcaption>ROC; the dashed line is chance</figcaption>{}'
        "</figure><figure><figcaption>Precision by recall</figcaption>{}</figure></div>\n{}"
    ).format(*charts, _legend(evaluation, names))
    lead = "Each class against all others, for every threshold of its score."
    if len(found) > len(names):
        lead += (
            f" The {len(names)} of {len(found)} classes with the smallest ROC area are shown; all "
            "areas are in the table of classes, all curves in curves.csv."
        )
    return Section("Curves", body, 90, lead)


def _legend(evaluation: Evaluation, names: list[str]) -> Markup:
    found = evaluation.analysis.curves
    items = [
        Markup(
            '<li><span class="key s{}"></span><b>{}</b>: ROC area {}, average precision {}</li>'
        ).format(color, name, _text(found[name][0].area), _text(found[name][1].average_precision))
        for color, name in enumerate(names)
    ]
    return Markup('<ul class="legend column">{}</ul>').format(Markup("").join(items))


def _text(value: Interval) -> str:
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def _reason(evaluation: Evaluation) -> str:
    if len(evaluation.classes) > MOST_CURVES:
        return (
            f"No curves: with more than {MOST_CURVES} classes, they are computed for the class of "
            "--positive only."
        )
    return "No curves: the images are of one class only."
