"""The report of a study: `index.html`, `study.json`, and each table as CSV and Markdown."""

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from core import charts, figures, html
from core.files import replacing_folder, write_json, write_text
from tfx_pipeline.study.benchmark import benchmark_figures
from tfx_pipeline.study.budget import duration
from tfx_pipeline.study.figures import BUNDLED, NOT_AT_HAND
from tfx_pipeline.study.results import Results
from tfx_pipeline.study.sets import CORE
from tfx_pipeline.study.state import FIGURES_FILE
from tfx_pipeline.study.tables import FRACTION, TITLES, Row, Table, epochs_text, subject
from tfx_pipeline.study.tables.accuracy import accuracy, classes, intervals, loss
from tfx_pipeline.study.tables.claims import claims
from tfx_pipeline.study.tables.paired import outlook, tests
from tfx_pipeline.study.tables.speed import cost, growth, inference, machine, speed
from tfx_pipeline.study.verdicts import CONTRADICTED, REPRODUCED, UNDECIDED
from trainers.evaluation.stats import bootstrap_interval

REPORT_FOLDER, PAGE, DATA_FILE = "report", "index.html", "study.json"
#: In the order of the page.
TABLES = (
    *(claims, accuracy, speed, loss, cost, growth, classes, inference, intervals, tests),
    outlook,
)
_FOLDER = Path(__file__).parent
_TONES = {REPRODUCED: "good", CONTRADICTED: "bad", UNDECIDED: "plain"}
_COLUMNS = (
    *("subject", "quantity", "unit", "ours", "low", "high", "interval", "sd_over_seeds", "seeds"),
    *("epochs", "study", "study_source", "verdict", "why"),
)


def write_report(folder: Path) -> Path:
    """Writes the folder `report` of a study; returns the page.

    Args:
      folder: of the study.
    """
    results = Results(folder)
    tables = [table(results) for table in TABLES]
    with replacing_folder(folder / REPORT_FOLDER) as out:
        write_text(out / PAGE, render(results, tables))
        whole = {
            "study": {key: value for key, value in results.state.items() if key != "examples"},
            "examples": results.state["examples"],
            "environment": results.timing.get("environment", {}),
            "tables": [asdict(table) for table in tables],
        }
        write_json(out / DATA_FILE, whole)
        write_json(out / "benchmark.json", benchmark_figures(results), indent=1)
        (out / "tables").mkdir()
        for table in tables:
            write_text(out / "tables" / f"{table.key}.csv", as_csv(table))
            write_text(out / "tables" / f"{table.key}.md", as_markdown(table))
    return folder / REPORT_FOLDER / PAGE


def cells(row: Row) -> tuple[str, ...]:
    """The texts of a row, in the order of the columns of the CSV file; none is empty."""

    def number(value: float | None, absent: str) -> str:
        return absent if value is None else f"{value:.6g}"

    none = "none" if row.value is not None else row.missing
    return (
        *(row.subject, row.quantity, row.unit),
        number(row.value, row.missing),
        *(number(end, none) for end in (row.low, row.high)),
        row.interval,
        number(row.deviation, "no seeds" if not row.seeds else "one seed"),
        " ".join(f"{one:.6g}" for one in row.seeds) or "no seeds",
        row.epochs,
        row.study.digits + f" {row.study.unit}" if row.study else NOT_AT_HAND,
        row.study.source if row.study else NOT_AT_HAND,
        *(row.verdict.word, row.verdict.why),
    )


def as_csv(table: Table) -> str:
    """A table as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(cells(row) for row in table.rows)
    return text.getvalue()


def as_markdown(table: Table) -> str:
    """A table as Markdown."""

    def line(parts: Sequence[str]) -> str:
        return "| " + " | ".join(part.replace("|", "\\|") for part in parts) + " |"

    head = ("model", "figure", "ours", "interval", "epochs", "study", "verdict", "why")
    rows = [line(tuple(shown(row)[key] for key in head)) for row in table.rows]
    parts = [f"## {table.title}", "", table.note, "", line(head), line(["---"] * len(head)), *rows]
    return "\n".join(parts) + "\n"


def shown(row: Row) -> dict[str, str]:
    """The texts of a row as a reader sees them."""
    interval = row.interval
    if row.low is not None and row.high is not None:
        interval = f"{_text(row.low, row.unit)} to {_text(row.high, row.unit)} ({row.interval})"
    if row.deviation is not None:
        seeds = ", ".join(_text(one, row.unit) for one in row.seeds)
        interval += f"; sd over the seeds {_text(row.deviation, row.unit)} ({seeds})"
    return {
        "model": row.subject,
        "figure": row.quantity,
        "ours": row.missing if row.value is None else _valued(row.value, row.unit),
        "interval": interval,
        "epochs": row.epochs,
        "study": f"{row.study.digits} {row.study.unit}" if row.study else NOT_AT_HAND,
        "source": row.study.source if row.study else "",
        "verdict": row.verdict.word,
        "why": row.verdict.why,
        "tone": _TONES[row.verdict.word],
    }


def _text(value: float, unit: str) -> str:
    if unit == FRACTION:
        return f"{100 * value:.1f} %"
    return f"{value:+.1f}" if unit == "points" else f"{value:.4g}"


def _valued(value: float, unit: str) -> str:
    return _text(value, unit) if unit == FRACTION else f"{_text(value, unit)} {unit}"


def render(results: Results, tables: Sequence[Table]) -> str:
    """The HTML page; self-contained, without scripts."""
    state = results.state
    counts = [
        (word, sum(row.verdict.word == word for row in table.rows))
        for table in tables[:1]
        for word in _TONES
    ]
    return html.render(
        _FOLDER,
        "study.html.j2",
        state=state,
        examples=state["examples"],
        machine=machine(results),
        counts=[(word, count, _TONES[word]) for word, count in counts],
        trained=[(subject(results, role), epochs_text(results, role)) for role in results.recipes],
        seconds=sum(run.facts["seconds"] for runs in results.runs.values() for run in runs),
        tables=[{**vars(table), "shown": [shown(row) for row in table.rows]} for table in tables],
        left_out=state["left_out"],
        charts=_charts(results),
        command=_command(results),
    )


def _command(results: Results) -> str:
    """The command that repeats or continues the study."""
    state, own = results.state, results.folder / FIGURES_FILE
    command = (
        f"sightline study --data {shlex.quote(state['records'])} "
        f"--recipes {shlex.quote(state['set'])} --budget {duration(state['budget_s'])} "
        f"--seeds {state['seeds']} --out {shlex.quote(str(results.folder))}"
    )
    if own.read_bytes() != BUNDLED.read_bytes():
        command += f" --figures {shlex.quote(str(own))}"
    return command


def _charts(results: Results) -> list[tuple[str, Markup]]:
    """Titles and charts: validation loss by epoch, and accuracy against latency."""
    lines = []
    for color, role in enumerate(CORE):
        for run in results.runs[role][:1]:
            for key, dashed in (("loss", True), ("val_loss", False)):
                points = [(row["epoch"], row[key]) for row in run.history]
                lines.append(charts.Series(f"{TITLES[role]} {key}", points, color, dashed))
    curve = charts.line_chart(lines, title="Loss by epoch", x_title="epoch")
    dots = [dot for color, role in enumerate(CORE) for dot in _dots(results, role, color)]
    traded = charts.trade_off(dots, title="Top-1 and latency", x_title="latency, ms")
    names = ", ".join(TITLES[role] for role in CORE)
    return [
        (f"Loss by epoch, first seed: training dashed, validation solid ({names})", curve),
        (f"Top-1 of each variant and its latency, engine alone ({names})", traded),
    ]


def _dots(results: Results, role: str, color: int) -> list[charts.Dot]:
    from tfx_pipeline.study.tables.speed import latency

    found = []
    for variant, predictions in results.variants(role).items():
        if (time := latency(results, role, variant)) is None:
            continue
        top1 = figures.Estimate(*bootstrap_interval(predictions.correct).as_list())
        texts = (figures.milliseconds(time.value), figures.percent(top1))
        found.append(charts.Dot(time.value, top1, TITLES[role], variant, color, *texts))
    return found
