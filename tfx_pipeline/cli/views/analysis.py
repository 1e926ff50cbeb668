"""`sightline evaluate --out`: the whole analysis of a model, as a page, JSON and CSV files.

| file | one row per |
|---|---|
| `index.html` | (all figures and images, see `tfx_pipeline.report.evaluation`) |
| `evaluation.json` | (all figures but thresholds, curves and lists of images) |
| `classes.csv` | class: recall, precision, F1, areas, sensitivity at a specificity |
| `confusion.csv` | label; a column per predicted class |
| `slices.csv` | slice value and metric |
| `slice_areas.csv`, `slice_thresholds.csv` | see `slice_tables` |
| `groups.csv`, `gaps.csv` | group and rate; key and rate |
| `calibration.csv` | bin of confidence |
| `thresholds.csv`, `curves.csv` | class and threshold; at most 1,000 points of a curve |
| `errors.csv` | wrong image, the most confident first |
| `suspect_labels.csv` | image whose label is likely to be wrong |
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from core import figures
from core.files import write_json, write_text
from tfx_pipeline.cli.views.relabeling import image_tables
from tfx_pipeline.cli.views.slice_tables import areas_as_json, slice_tables
from tfx_pipeline.cli.views.subjects import Subject
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.findings import findings
from tfx_pipeline.report.evaluation.lineage import lineage
from tfx_pipeline.report.evaluation.page import PAGE_FILE, render
from tfx_pipeline.report.thumbnails import Thumbnails, index_images
from trainers.evaluation.analysis import (
    LEAST_IMAGES,
    Analysis,
    AnalysisOptions,
    ClassFigures,
    GroupFigures,
)
from trainers.evaluation.curves import thinned
from trainers.evaluation.fairness import ACCURACY, OVERCONFIDENCE, Group, minimum_note, size_note
from trainers.evaluation.metrics import metric_facts
from trainers.evaluation.stats import Interval

# More classes than this are in `classes.csv` only.
_SHOWN_CLASSES = 20
_SHOWN_SMALL = 5
# Least width of the names of groups, and of a line that is not limited, in characters.
_NAME_WIDTH, _UNLIMITED = 12, 10_000
_CLASS_INTERVALS = ("recall", "precision", "roc_area", "average_precision", "sensitivity")
_RATES = ("precision", "recall", "false_positive_rate", "false_negative_rate")


def show(found: Analysis, console: Console) -> None:
    """Prints metrics, classes, slices, groups and what stands out."""
    console.print(escape(f"{found.model}: {found.images:,} images"), soft_wrap=True)
    facts = metric_facts(len(found.classes))
    rows = [(one["title"], _text(found.metrics[name])) for name, one in facts.items()]
    console.print(_table(("metric", "value"), rows))
    if len(found.classes) <= _SHOWN_CLASSES:
        console.print(_classes_table(found.classes))
    if found.slices:
        console.print(_slices_table(found))
    for one in found.groups:
        if _shown_groups(one):
            title = f"{one.key}, positive: {one.positive}" if one.positive else one.key
            console.print(escape(f"{title}; % with 95 % intervals"), soft_wrap=True)
            _print_whole(_groups_table(one), console)
        if one.gaps:
            _print_whole(_gaps_table(one), console)
        for line in _group_notes(one):
            console.print(escape(line), soft_wrap=True)
    for line in findings(found):
        console.print(escape(line), soft_wrap=True)


def write(
    found: Analysis,
    subject: Subject,
    folder: Path,
    *,
    split: str,
    options: AnalysisOptions,
    given: str,
    data: Path | None = None,
) -> list[Path]:
    """Writes all files of an analysis; returns their paths.

    Args:
      found: the analysis of the subject's predictions.
      subject: names classes and, where its records are at hand, files.
      folder: is created; files in it are replaced.
      split: of the records.
      options: of the analysis.
      given: the model as the user gave it.
      data: records with the images; None uses the subject's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = data or subject.data
    evaluation = Evaluation(
        *(found, subject.predictions, split, data, subject.config),
        thumbnails=Thumbnails(index_images(data, split)),
        options=options,
    )
    tables = _tables(evaluation)
    written = ("evaluation.json", *(f"{name}.csv" for name in tables))
    evaluation = replace(evaluation, lineage=lineage(given, evaluation), written=written)
    write_json(
        folder / "evaluation.json",
        as_json(evaluation) | {"model": subject.full_name or found.model},
    )
    for name, rows in tables.items():
        _write_csv(folder / f"{name}.csv", rows)
    write_text(folder / PAGE_FILE, render(evaluation))
    return [folder / name for name in (PAGE_FILE, *written)]


def _tables(evaluation: Evaluation) -> dict[str, list[Sequence[Any]]]:
    """Name -> rows, the first of which is the header."""
    found = evaluation.analysis
    names = evaluation.classes
    return {
        "classes": _class_rows(found.classes),
        "confusion": [("label", *names), *_confusion_rows(found, names)],
        "slices": [("key", "value", "images", "metric", *_ENDS), *_slice_rows(found)],
        "calibration": [
            ("low", "high", "images", "confidence", "accuracy", "accuracy_low", "accuracy_high"),
            *(
                (b.low, b.high, b.images, b.confidence, *b.accuracy.as_list())
                for b in found.calibration
            ),
        ],
        "thresholds": [("class", "threshold", *_ended(_RATES)), *_threshold_rows(found)],
        "curves": [("class", "curve", "threshold", "x", "y"), *_curve_rows(found)],
        "groups": [(*_GROUP_COLUMNS, *_ENDS, "note"), *_group_rows(found)],
        "gaps": [(*_GAP_COLUMNS, *_ENDS, "compared", "left_out"), *_gap_rows(found)],
        **slice_tables(found),
        **image_tables(evaluation),
    }


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The analysis as plain values; intervals are `[value, low, high]`."""
    found = evaluation.analysis
    return {
        "model": found.model,
        "split": evaluation.split,
        "lineage": dict(evaluation.lineage),
        "images": found.images,
        "metrics": {key: value.as_list() for key, value in found.metrics.items()},
        "classes": [
            {field.name: _plain(getattr(one, field.name)) for field in fields(one)}
            for one in found.classes
        ],
        "confusion": found.confusion.tolist(),
        "slices": [
            {
                "key": one.key,
                "value": one.value,
                "images": one.images,
                "metrics": {key: value.as_list() for key, value in one.metrics.items()},
            }
            for one in found.slices
        ],
        "slice_areas": areas_as_json(found),
        "calibration": [
            {"low": one.low, "high": one.high, "images": one.images}
            | {"confidence": one.confidence, "accuracy": one.accuracy.as_list()}
            for one in found.calibration
        ],
        "temperature": found.temperature,
        "groups": [one.to_dict() for one in found.groups],
        "weak_slices": [
            {
                "values": one.values,
                "images": one.images,
                "top1": one.accuracy.as_list(),
                "top1_outside": one.outside,
                "p_adjusted": one.p_adjusted,
            }
            for one in found.weak
        ],
        "weak_slices_tried": found.slices_tried,
        "errors": len(found.errors),
        "suspect_labels": len(found.suspects),
    }


_ENDS = ("estimate", "low", "high")
_GROUP_COLUMNS = ("key", "positive", "group", "rate", "images")
_GAP_COLUMNS = ("key", "positive", "rate", "highest", "lowest")


def _ended(names: Iterable[str]) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def _parts(value: Interval | None) -> list[float | str]:
    return ["", "", ""] if value is None else list(value.as_list())


def _class_rows(classes: Sequence[ClassFigures]) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = [
        ("class", "images", *_ended(_CLASS_INTERVALS), "f1", "threshold_of_sensitivity")
    ]
    for one in classes:
        intervals = [part for name in _CLASS_INTERVALS for part in _parts(getattr(one, name))]
        rows.append((one.name, one.images, *intervals, _or_empty(one.f1), _or_empty(one.threshold)))
    return rows


def _confusion_rows(found: Analysis, names: Sequence[str]) -> Iterable[Sequence[Any]]:
    for name, row in zip(names, found.confusion.tolist(), strict=True):
        yield (name, *row)


def _slice_rows(found: Analysis) -> Iterable[Sequence[Any]]:
    for one in found.slices:
        if not one.metrics:
            yield (one.key, one.value, one.images, "", "", "", "")
        for metric, value in one.metrics.items():
            yield (one.key, one.value, one.images, metric, *value.as_list())


def _threshold_rows(found: Analysis) -> Iterable[Sequence[Any]]:
    for name, rates in found.thresholds.items():
        for one in rates:
            parts = [part for rate in _RATES for part in _parts(getattr(one, rate))]
            yield (name, one.threshold, *parts)


def _curve_rows(found: Analysis) -> Iterable[Sequence[Any]]:
    for name, (roc, pr) in found.curves.items():
        axes = (roc.thresholds, roc.false_positive_rate, roc.true_positive_rate)
        for at, x, y in zip(*thinned(*axes), strict=True):
            yield (name, "roc", at, x, y)
        for at, x, y in zip(*thinned(pr.thresholds, pr.recall, pr.precision), strict=True):
            yield (name, "precision_recall", at, x, y)


def _group_rows(found: Analysis) -> Iterable[Sequence[Any]]:
    for one in found.groups:
        for group in one.groups:
            for rate, value in group.rates.items():
                images = group.counts[rate]
                note = group.note or size_note(images)
                yield (one.key, one.positive, group.name, rate, images, *value.as_list(), note)


def _gap_rows(found: Analysis) -> Iterable[Sequence[Any]]:
    for one in found.groups:
        for gap in one.gaps:
            ends = gap.size.as_list()
            others = (gap.compared, "; ".join(gap.left_out))
            yield (one.key, one.positive, gap.rate, gap.highest, gap.lowest, *ends, *others)


def _classes_table(classes: Sequence[ClassFigures]) -> Table:
    rows = [
        (
            one.name,
            f"{one.images:,}",
            _text(one.recall),
            _text(one.precision),
            "-" if one.f1 is None else f"{one.f1:.4f}",
            _text(one.roc_area),
        )
        for one in classes
    ]
    return _table(("class", "images", "recall", "precision", "F1", "ROC area"), rows)


def _slices_table(found: Analysis) -> Table:
    """One row per value, and one for the small values of a key where there are several."""
    small = Counter(one.key for one in found.slices if not one.metrics)
    images = Counter[str]()
    for one in found.slices:
        images[one.key] += 0 if one.metrics else one.images
    rows = []
    for one in found.slices:
        name, few = f"{one.key}={one.value}", f"fewer than {LEAST_IMAGES} images"
        if one.metrics:
            rows.append((name, f"{one.images:,}", _text(one.metrics["top1"])))
        elif small[one.key] == 1:
            rows.append((name, f"{one.images:,}", few))
        elif count := small[one.key]:
            small[one.key] = 0
            note = f"{count:,} values with {few}: slices.csv"
            rows.append((one.key, f"{images[one.key]:,}", note))
    return _table(("slice", "images", "top-1"), rows)


def _shown_groups(one: GroupFigures) -> list[Group]:
    """All groups, or those that are compared where there are many."""
    many = len(one.groups) > _SHOWN_CLASSES
    return [group for group in one.groups if group.compared or not many]


def _groups_table(one: GroupFigures) -> Table:
    shown = {ACCURACY: "accuracy", **(_CLASS_RATES if one.positive else {})}
    shown[OVERCONFIDENCE] = "overconfidence"
    rows = [
        (group.name, f"{group.images:,}", *(_percent(group.rates.get(rate)) for rate in shown))
        for group in _shown_groups(one)
    ]
    return _table(("group", "images", *shown.values()), rows)


_CLASS_RATES = {
    "true_positive_rate": "recall",
    "false_positive_rate": "false alarms",
    "positive_rate": "positive",
}


def _group_notes(one: GroupFigures) -> Iterable[str]:
    """Which groups were not compared, and why."""
    small = [group for group in one.groups if not group.compared]
    if small:
        named = "; ".join(f"{group.name} ({group.images:,})" for group in small[:_SHOWN_SMALL])
        more = f" and {len(small) - _SHOWN_SMALL} more" if len(small) > _SHOWN_SMALL else ""
        yield f"not compared: {named}{more}, see groups.csv; {minimum_note()}"
    if not one.gaps:
        yield f"no gap between groups of {one.key}: fewer than two have {LEAST_IMAGES} images"


def _gaps_table(one: GroupFigures) -> Table:
    rows = [
        (gap.rate.replace("_", " "), _percent(gap.size), *ends)
        for gap in one.gaps
        for ends in [(gap.highest, gap.lowest) if gap.differs else (figures.DASH, figures.DASH)]
    ]
    return _table((f"gap between groups of {one.key}", "points", "highest", "lowest"), rows)


def _print_whole(table: Table, console: Console) -> None:
    """Prints a table whose first column wraps; a narrow console gets longer lines, not fewer."""
    table.columns[0].min_width = _NAME_WIDTH
    for column in table.columns[1:]:
        column.no_wrap = True
        column.min_width = max(Text.from_markup(str(one)).cell_len for one in column.cells)
    needed = console.measure(table, options=console.options.update(width=_UNLIMITED)).minimum
    if needed > console.width:
        table.width = needed
    console.print(table, crop=False)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _text(value: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}]"


def _percent(value: Interval | None) -> str:
    """A share or a difference of shares without its unit, as `56.0 [47.7, 59.1]`."""
    if value is None:
        return figures.DASH
    return f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _plain(value: Any) -> Any:
    return value.as_list() if isinstance(value, Interval) else value


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
