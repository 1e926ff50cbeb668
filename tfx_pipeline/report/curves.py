"""The training section: loss, top-1 and learning rate by epoch, and the trials of a search."""

from typing import Any, NamedTuple

from markupsafe import Markup

from core import charts, figures

Rows = list[dict[str, Any]]


class Training(NamedTuple):
    """The training history of one model; empty markup and lists for missing parts.

    Attributes:
      name: of the model.
      loss: chart of training and validation loss.
      top1: chart of training and validation top-1.
      learning_rate: chart of each epoch's last rate.
      kept: a sentence on the epoch that was kept.
      keys: configuration keys that a search varied.
      trials: (validation top-1, value of each key) of its trials, the best first.
    """

    name: str
    loss: Markup
    top1: Markup
    learning_rate: Markup
    kept: str
    keys: list[str]
    trials: list[tuple[str, list[str]]]


def training(model: dict[str, Any], color: int) -> Training:
    """The curves of one model.

    Args:
      model: of `tfx_pipeline.report.view.models`; `history`, `best_epoch` and `trials` are used.
      color: of its lines.
    """
    name, best = model["name"], figures.number(model["best_epoch"])
    mark = None if best is None else (best, f"epoch {best:.0f} was kept")

    def chart(key: str, title: str, *, shares: bool = False) -> Markup:
        lines = [
            charts.Series(f"train {title}", _points(model, key), color, dashed=True),
            charts.Series(f"validation {title}", _points(model, f"val_{key}"), color),
        ]
        return _by_epoch(lines, f"{name}: {title}", shares=shares, mark=mark)

    rate = [charts.Series("learning rate", _points(model, "learning_rate"), color)]
    keys, trials = _trials(model["trials"])
    return Training(
        name,
        chart("loss", "loss"),
        chart("top1", "top-1", shares=True),
        _by_epoch(rate, f"{name}: learning rate", mark=mark),
        _kept(model, best),
        keys,
        trials,
    )


def comparison(models: Rows, colors: dict[str, int]) -> Markup:
    """Validation top-1 of all models in one chart; empty for fewer than two that trained."""
    lines = [
        charts.Series(model["name"], _points(model, "val_top1"), colors[model["name"]])
        for model in models
    ]
    lines = [line for line in lines if line.points]
    if len(lines) < 2:
        return Markup("")
    return _by_epoch(lines, "Validation top-1", shares=True)


def _by_epoch(
    lines: list[charts.Series],
    title: str,
    *,
    shares: bool = False,
    mark: charts.Tick | None = None,
) -> Markup:
    return charts.line_chart(
        lines, title=f"{title} by epoch", x_title="epoch", shares=shares, mark=mark
    )


def _kept(model: dict[str, Any], best: float | None) -> str:
    found = dict(_points(model, "val_top1"))
    if best is None or best not in found:
        return ""
    return (
        f"epoch {best:.0f} of {len(model['history'])} was kept: validation top-1 "
        f"{figures.percent(found[best])}"
    )


def _trials(rows: Rows) -> tuple[list[str], list[tuple[str, list[str]]]]:
    known = {"trial_id", "score"}
    keys = [key for key in (rows[0] if rows else {}) if key not in known]
    ranked = sorted(rows, key=lambda row: -(figures.number(row.get("score")) or 0.0))
    return keys, [
        (figures.percent(row.get("score")), [figures.short(row.get(key)) for key in keys])
        for row in ranked
    ]


def _points(model: dict[str, Any], key: str) -> list[tuple[float, float]]:
    rows = enumerate(model["history"], start=1)
    found = [
        (figures.number(r.get("epoch")) or float(i), figures.number(r.get(key))) for i, r in rows
    ]
    return [(epoch, value) for epoch, value in found if value is not None]
