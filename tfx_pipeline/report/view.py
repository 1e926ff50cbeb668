"""A run's summary as rows of text, with a dash or an empty list for missing values.

All functions accept the summary as it was read from JSON, of a run that may have failed before it
had data, models or gates.
"""

import json
from typing import Any

from components.gates import Verdict
from core import figures

Rows = list[dict[str, Any]]

_TONES = {
    "pushed": "good",
    "refused": "warn",
    "undecided": "warn",
    "withdrawn": "warn",
    "error": "bad",
}
# Outcome of a gate -> tone of its badge, the most urgent first.
OUTCOMES = {
    Verdict.FAILED.value: "bad",
    Verdict.UNDECIDED.value: "warn",
    "waived": "warn",
    Verdict.HELD.value: "good",
}
_STATES = {"done": "good", "cached": "plain", "failed": "bad", "skipped": "plain"}


def status(summary: dict[str, Any]) -> str:
    """The status: `pushed`, `refused`, `undecided`, `withdrawn` or `error`."""
    return str(summary.get("status") or "unknown")


def tone(summary: dict[str, Any]) -> str:
    """The tone of the status: `good`, `warn`, `bad` or `plain`."""
    return _TONES.get(status(summary), "plain")


def header(summary: dict[str, Any]) -> dict[str, str]:
    """The header of the report; empty text for missing values."""
    keys = ("pipeline", "run", "created", "command", "git_commit", "error", "recommendation")
    return {key: str(summary.get(key) or "") for key in keys} | {
        "seconds": figures.duration(summary.get("seconds")) if summary.get("seconds") else ""
    }


def models(summary: dict[str, Any]) -> Rows:
    """One entry per model, the recommended first, with its variants and push result."""
    shown = metrics(summary)
    found = [_model(raw, shown) for raw in _dicts(summary.get("models"))]
    return sorted(found, key=lambda model: not model["recommended"])


def metrics(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> `title`, `unit`, `higher_is_better` and `note` of each metric, in order.

    As recorded when the run was evaluated; the registered ones for summaries of earlier versions.
    """
    recorded: dict[str, Any] = {}
    for raw in _dicts(summary.get("models")):
        recorded |= mapping(raw.get("metric_facts"))
    if recorded:
        plain = {"unit": "", "higher_is_better": True, "note": ""}
        return {name: {"title": name, **plain, **mapping(one)} for name, one in recorded.items()}
    from trainers.evaluation.metrics import metric_facts

    return metric_facts(len(_items(mapping(summary.get("data")).get("classes"))) or None)


def _model(raw: dict[str, Any], shown: dict[str, dict[str, Any]]) -> dict[str, Any]:
    result, result_tone = _result(raw)
    config = raw.get("config")
    return {
        "name": str(raw.get("name") or "?"),
        "architecture": str(raw.get("architecture") or ""),
        "recommended": bool(raw.get("recommended")),
        "parameters": figures.amount(raw.get("parameters")),
        "multiply_adds": figures.amount(raw.get("multiply_adds")),
        "seed": str(raw.get("seed", figures.DASH)),
        "config": json.dumps(config, indent=2, default=str) if config else "",
        "variants": [variant(item, shown) for item in _dicts(raw.get("variants"))],
        "history": _dicts(raw.get("history")),
        "best_epoch": raw.get("best_epoch"),
        "trials": _dicts(raw.get("trials")),
        "confusion": mapping(raw.get("confusion")),
        "slices": _dicts(raw.get("slices")),
        "why": "; ".join(filter(None, (raw.get("why_variant"), raw.get("linear_probe")))),
        "excludable": figures.excludable_drop(raw.get("excludable_drop")),
        "result": result,
        "tone": result_tone,
    }


def _result(raw: dict[str, Any]) -> tuple[str, str]:
    pushed = raw.get("pushed")
    if isinstance(pushed, dict):
        version = f"v{pushed.get('version', '?')}"
        if pushed.get("withdrawn"):
            return f"withdrawn: {version}", "warn"
        if pushed.get("pushed", True):
            return f"pushed as {version}", "good"
        return f"already there: {version}", "good"
    if raw.get("refused_because"):
        undecided = raw.get("verdict") == Verdict.UNDECIDED.value
        word = Verdict.UNDECIDED.value if undecided else "refused"
        return f"{word}: {raw['refused_because']}", "warn"
    return "not pushed", "plain"


def withdrawn(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The models that were not pushed because the same version was rolled back.

    Returns:
      `name`, `version` and `way_back`, the command that restores it, per model.
    """
    return [
        {
            "name": str(model.get("name") or "?"),
            "version": str(pushed.get("version", "?")),
            "way_back": str(pushed.get("way_back") or ""),
        }
        for model in _dicts(summary.get("models"))
        if (pushed := mapping(model.get("pushed"))).get("withdrawn")
    ]


def undecided(summary: dict[str, Any]) -> list[str]:
    """One line per model that only undecided gates stop, with a remedy."""
    lines = []
    for model in _dicts(summary.get("models")):
        stopping = [gate for gate in _dicts(model.get("gates")) if not gate.get("passed")]
        if not stopping or any(_outcome(gate) != Verdict.UNDECIDED.value for gate in stopping):
            continue
        images = max(int(figures.number(gate.get("images_needed")) or 0) for gate in stopping)
        needed = f"about {images:,} test images would decide it" if images else ""
        # Summaries of earlier versions have only differences in accuracy, without `acceptable`.
        lower = any((figures.number(gate.get("value")) or 0) < 0 for gate in stopping)
        closed = any(gate.get("acceptable") is False for gate in stopping)
        remedy = (
            "its estimate is lower, so it cannot be accepted"
            if lower
            else "an estimate is missing or above its margin, so it cannot be accepted"
            if closed
            else "the same command with --accept-undecided pushes it"
        )
        names = ", ".join(str(gate.get("name")) for gate in stopping)
        lines.append(f"{model.get('name')}: {names}; " + "; ".join(filter(None, [needed, remedy])))
    return lines


def variant(raw: dict[str, Any], shown: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of a variant and the metrics of `shown` as text, and as numbers for charts."""
    measured, difference = mapping(raw.get("metrics")), mapping(raw.get("difference"))
    p_value = figures.number(difference.get("mcnemar_p"))
    return {
        "name": str(raw.get("name") or figures.DASH),
        "recommended": bool(raw.get("recommended")),
        "dropped": bool(raw.get("dropped")),
        "method": str(raw.get("method") or ""),
        "dtype": str(raw.get("dtype") or ""),
        "top1": figures.percent(measured.get("top1")),
        "top1_interval": figures.percent_interval(measured.get("top1")),
        "top1_estimate": figures.estimate(measured.get("top1")),
        "difference": figures.points(difference.get("top1")),
        "difference_interval": figures.points_interval(difference.get("top1")),
        "against": str(difference.get("against") or ""),
        "p_value": "" if p_value is None else figures.short(p_value, 2),
        "size": figures.size(raw.get("size_bytes")),
        "gzip": figures.size(raw.get("gzip_bytes")),
        "gzip_bytes": figures.number(raw.get("gzip_bytes")),
        "sparsity": figures.percent(raw.get("sparsity")) if raw.get("sparsity") else figures.DASH,
        "p50": figures.milliseconds(raw.get("latency_ms_p50")),
        "p50_ms": figures.number(raw.get("latency_ms_p50")),
        "p99": figures.milliseconds(raw.get("latency_ms_p99")),
        "images_per_second": figures.count(raw.get("images_per_second")),
        "metrics": [
            {
                "value": figures.metric(measured.get(name), facts["unit"]),
                "interval": figures.metric_interval(measured.get(name), facts["unit"]),
            }
            for name, facts in shown.items()
        ]
        if measured
        else [],
    }


def gates(summary: dict[str, Any]) -> Rows:
    """All gates of all models as text; gates that stop a model first, then waived ones."""
    rows = [
        {
            "model": str(model.get("name") or "?"),
            "name": str(gate.get("name") or "?"),
            "variant": str(gate.get("variant") or ""),
            "slice": str(gate.get("slice") or "all"),
            "value": _plain(gate.get("value")),
            "threshold": _plain(gate.get("threshold")),
            "outcome": _outcome(gate),
            "passed": bool(gate.get("passed")),
            "detail": "; ".join(str(gate[key]) for key in ("waived", "detail") if gate.get(key)),
        }
        for model in _dicts(summary.get("models"))
        for gate in _dicts(model.get("gates"))
    ]
    return sorted(rows, key=lambda row: list(OUTCOMES).index(row["outcome"]))


def _outcome(gate: dict[str, Any]) -> str:
    """A key of `OUTCOMES`; summaries of earlier versions have two verdicts."""
    if gate.get("passed"):
        return "waived" if gate.get("waived") else Verdict.HELD.value
    undecided = gate.get("verdict") == Verdict.UNDECIDED.value
    return Verdict.UNDECIDED.value if undecided else Verdict.FAILED.value


def data(summary: dict[str, Any]) -> dict[str, Any]:
    """The data section: totals per split, counts per class, rejections and anomalies."""
    raw = mapping(summary.get("data"))
    splits = {str(name): mapping(split) for name, split in mapping(raw.get("splits")).items()}
    names = [str(name) for name in _items(raw.get("classes"))]
    for split in splits.values():
        names += [name for name in mapping(split.get("per_class")) if name not in names]
    counts = [
        (name, [mapping(split.get("per_class")).get(name) for split in splits.values()])
        for name in names
    ]
    most = max((figures.number(c) or 0 for _, row in counts for c in row), default=0) or 1
    facts = [
        ("data set", raw.get("name")),
        ("source", raw.get("source")),
        ("classes", len(names) or None),
        ("label offset in the records", raw.get("label_offset")),
        ("rejected at ingest", raw.get("rejected")),
        ("fingerprint", raw.get("fingerprint")),
    ]
    return {
        "present": bool(raw),
        "facts": [(name, str(value)) for name, value in facts if value not in (None, "")],
        "splits": [
            (name, figures.count(split.get("examples")), figures.count(split.get("shards")))
            for name, split in splits.items()
        ],
        "classes": [
            (name, [(figures.count(c), 100 * (figures.number(c) or 0) / most) for c in row])
            for name, row in counts
        ],
        "anomalies": [_plain(item) for item in _items(raw.get("anomalies"))],
        "rejections": [_plain(item) for item in _items(raw.get("rejections"))],
    }


def slices(summary: dict[str, Any]) -> Rows:
    """One entry per slice key: its values as rows, with one cell per model."""
    from trainers.evaluation.fairness import natural

    sliced = [model for model in models(summary) if model["slices"]]
    keys = list(dict.fromkeys(str(s.get("key")) for model in sliced for s in model["slices"]))
    tables = []
    for key in keys:
        cells: dict[str, dict[str, Any]] = {}
        for model in sliced:
            for item in model["slices"]:
                if str(item.get("key")) == key:
                    cells.setdefault(str(item.get("value")), {})[model["name"]] = item
        tables.append(
            {
                "key": key,
                "models": [model["name"] for model in sliced],
                "rows": [
                    _slice_row(value, cells[value], sliced) for value in sorted(cells, key=natural)
                ],
            }
        )
    return tables


def _slice_row(value: str, found: dict[str, Any], sliced: Rows) -> dict[str, Any]:
    from trainers.evaluation.stats import LEAST_IMAGES

    examples = [item.get("examples") for item in found.values()]
    items = [found.get(model["name"], {}).get("top1") for model in sliced]
    count = next((n for n in examples if n is not None), None)
    few = (figures.number(count) or LEAST_IMAGES) < LEAST_IMAGES
    return {
        "value": value,
        "examples": figures.count(count),
        "few": f"fewer than {LEAST_IMAGES}" if few else "",
        "cells": [
            {
                "top1": figures.percent(item),
                "interval": figures.percent_interval(item),
                "estimate": figures.estimate(item),
            }
            for item in items
        ],
    }


def components(summary: dict[str, Any]) -> Rows:
    """The nodes of the graph in order of execution, with time and state."""
    found = _dicts(summary.get("components"))
    longest = max((figures.number(c.get("seconds")) or 0 for c in found), default=0) or 1
    return [
        {
            "name": str(item.get("name") or "?"),
            "seconds": figures.duration(item.get("seconds")),
            "share": 100 * (figures.number(item.get("seconds")) or 0) / longest,
            "state": str(item.get("state") or ""),
            "tone": _STATES.get(str(item.get("state")), "plain"),
        }
        for item in found
    ]


def environment(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of versions and machine."""
    rows = [("command", summary.get("command")), ("git commit", summary.get("git_commit"))]
    for section in ("stack", "machine"):
        rows += list(mapping(summary.get(section)).items())
    return [(str(name), _plain(value)) for name, value in rows if value not in (None, "")]


def lineage(summary: dict[str, Any]) -> list[list[str]]:
    """The artifacts: id, type, producer, location and digest."""
    columns = ("id", "type", "producer", "uri", "digest")
    return [[_plain(row.get(c)) for c in columns] for row in _dicts(summary.get("lineage"))]


def mapping(raw: Any) -> dict[str, Any]:
    """`raw` if it is a dictionary, otherwise an empty one."""
    return raw if isinstance(raw, dict) else {}


def _dicts(raw: Any) -> Rows:
    return [item for item in _items(raw) if isinstance(item, dict)]


def _items(raw: Any) -> list[Any]:
    return list(raw) if isinstance(raw, (list, tuple)) else []


def _plain(raw: Any) -> str:
    if raw is None or raw == "":
        return figures.DASH
    return json.dumps(raw, default=str) if isinstance(raw, (dict, list)) else figures.short(raw, 4)
