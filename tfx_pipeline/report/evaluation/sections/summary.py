"""The metrics of the registry, with intervals."""

from core import figures
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.markup import Cell, Column, table
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.metrics import metric_facts


@sections.register("summary")
def summary(evaluation: Evaluation) -> Section:
    """Every metric that applies to this number of classes."""
    rows = []
    for name, fact in metric_facts(len(evaluation.classes)).items():
        value = evaluation.analysis.metrics[name].as_list()
        better = "higher" if fact["higher_is_better"] else "lower"
        shown = figures.metric(value, fact["unit"])
        rows.append(
            (
                fact["title"],
                Cell(shown, figures.metric_interval(value, fact["unit"])),
                Cell(f"{better} is better", tone="soft"),
                Cell(fact["note"], tone="soft"),
            )
        )
    columns = (Column("metric"), Column("value", numeric=True), Column("direction"), Column("note"))
    return Section("Metrics", table("Metrics", columns, rows), 10, "With 95 % intervals.")
