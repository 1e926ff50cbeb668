"""The tables at the end of a run, for consoles of 120 columns."""

from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from core import figures
from tfx_pipeline.report import view

_STYLES = {"good": "green", "bad": "red", "warn": "yellow", "plain": ""}


def console_table(summary: dict[str, Any]) -> Table:
    """The results table: each model and variant with accuracy, cost and result of the push.

    Args:
      summary: content of `summary.json`; a dash stands for missing values.

    Returns:
      A rich table of at most 120 columns; a single row without models.
    """
    header = view.header(summary)
    table = Table(
        title=Text(f"{header['pipeline']} {header['run']}: {view.status(summary)}", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("model", overflow="fold", min_width=10, max_width=18)
    table.add_column("variant", overflow="fold", min_width=10, max_width=16)
    table.add_column("top-1 [95 %]", justify="right", no_wrap=True)
    table.add_column("vs float", justify="right", no_wrap=True)
    for column in ("size", "gzip", "p50", "p99"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", overflow="fold", max_width=26)
    for model in view.models(summary):
        variants = model["variants"] or [view.variant({}, {})]
        for index, variant in enumerate(variants):
            table.add_row(*_row(model, variant, index), end_section=variant is variants[-1])
    if not table.row_count:
        table.add_row("no model", *[figures.DASH] * 7, Text(header["error"]))
    return table


def console_metrics(summary: dict[str, Any]) -> Table | None:
    """Every metric of each model's recommended variant, one a row; None without any.

    Args:
      summary: as `summary.json` holds it.
    """
    found = [
        (model["name"], variant["metrics"])
        for model in view.models(summary)
        for variant in model["variants"]
        if variant["recommended"] and variant["metrics"]
    ]
    if not found:
        return None
    table = Table(
        title=Text("Metrics of the recommended variants [95 %]", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("metric")
    for name, _ in found:
        table.add_column(Text(name), justify="right", overflow="fold")
    for index, facts in enumerate(view.metrics(summary).values()):
        cells = (_with_interval(**metrics[index]) for _, metrics in found)
        table.add_row(Text(facts["title"]), *cells)
    return table


def console_gates(summary: dict[str, Any]) -> Table | None:
    """The gates that did not hold, one per row, waived ones included; None when all gates held.

    Args:
      summary: content of `summary.json`.
    """
    shown = [gate for gate in view.gates(summary) if gate["outcome"] != "held"]
    if not shown:
        return None
    table = Table(
        title="Gates that did not hold",
        title_style="bold red" if not all(gate["passed"] for gate in shown) else "bold yellow",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("verdict", no_wrap=True)
    for column in ("model", "gate", "variant", "slice"):
        table.add_column(column, overflow="fold")
    for column in ("value", "threshold"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("why", overflow="fold", ratio=1)
    for gate in shown:
        columns = ("model", "name", "variant", "slice", "value", "threshold", "detail")
        verdict = Text(gate["outcome"], style=_STYLES[view.OUTCOMES[gate["outcome"]]])
        table.add_row(verdict, *(Text(gate[column]) for column in columns))
    return table


def _row(model: dict[str, Any], variant: dict[str, Any], index: int) -> list[RenderableType]:
    star = "★ " if model["recommended"] else ""
    # Text, not str: names are data, and rich interprets [brackets] in str as markup.
    name = Text(star + model["name"], style="bold") if index == 0 else Text("")
    result = Text(model["result"], style=_STYLES[model["tone"]]) if index == 0 else Text("")
    top1 = _with_interval(variant["top1"], variant["top1_interval"])
    difference = variant["difference"] + (" pt" if variant["difference"] != figures.DASH else "")
    cost = (variant[key] for key in ("size", "gzip", "p50", "p99"))
    shipped = " ★" if variant["recommended"] else " (left out)" if variant["dropped"] else ""
    return [name, Text(variant["name"] + shipped), top1, difference, *cost, result]


def _with_interval(value: str, interval: str) -> Text:
    return Text(f"{value} [{interval.replace(' to ', ', ')}]" if interval else value)
