"""`README.md`: the card as Markdown, with the YAML header that Hugging Face reads.

https://huggingface.co/docs/hub/model-cards describes the header, and `model-index` its results.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core import figures
from core.bundle import Manifest
from trainers.bundles.card import statements
from trainers.evaluation.fairness import LIMITS
from trainers.evaluation.metrics import metric_facts

_TASKS = {"classification": "image-classification", "detection": "object-detection"}
# Name of a metric -> its type on Hugging Face; other metrics keep their names.
_TYPES = {"top1": "accuracy", "macro_f1": "f1", "macro_precision": "precision"} | {
    "macro_recall": "recall"
}
_DATASET_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Characters that Markdown or HTML would interpret.
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~-])")


def markdown_card(manifest: Manifest, model: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
      manifest: of the bundle.
      model: what else is known, see `render_card`; any part may be missing.
    """
    facts = model.get("metric_facts") or metric_facts(manifest.num_classes)
    data = model.get("data") or manifest.data
    sections = {
        "Intended use": "\n\n".join(map(_plain, statements.INTENDED_USE)),
        "How to use": _usage(manifest),
        "Metrics": _metrics(manifest, facts),
        # Without a name of the user, and with commands in backticks.
        "Not measured": "\n".join(f"- {one}" for one in statements.not_measured(manifest, model)),
        "Fairness": _fairness(model),
        "What these figures cannot show": _list(LIMITS),
        "Data": _data(manifest, data),
        "Limits": _list(statements.limits(manifest, model)),
        "License": _plain(statements.license_text(manifest)),
        "Provenance": _provenance(manifest),
    }
    body = "\n".join(f"## {title}\n\n{text}\n" for title, text in sections.items() if text)
    header = "\n".join(_yaml(header_of(manifest, data, facts)))
    return f"---\n{header}\n---\n\n# {_plain(manifest.name)}\n\n{body}"


def header_of(
    manifest: Manifest, data: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of the header; `model-index` and `metrics` only if something was measured."""
    task = _TASKS.get(manifest.task, manifest.task)
    found: dict[str, Any] = {
        "license": "unknown",
        "library_name": "sightline",
        "pipeline_tag": task,
        "tags": ["sightline", "tensorflow", "tflite", task],
    }
    name = str(data.get("name") or "")
    if _DATASET_ID.fullmatch(name):
        found["datasets"] = [name]
    variant = statements.measured_variant(manifest)
    results = [
        row
        for key, raw in manifest.metrics.get(variant, {}).items()
        if key in facts and (row := _result(key, raw, facts[key]["title"]))
    ]
    if results:
        found["metrics"] = list(dict.fromkeys(row["type"] for row in results))
        dataset = {"name": name or "not recorded", "type": name or "unknown", "split": "test"}
        entry = {"task": {"type": task}, "dataset": dataset, "metrics": results}
        found["model-index"] = [{"name": manifest.name, "results": [entry]}]
    return found


def _result(key: str, raw: Any, title: str) -> dict[str, Any]:
    found = figures.estimate(raw)
    if found is None:
        return {}
    interval = "" if found.low is None else f", 95 % interval {found.low:.4f} to {found.high:.4f}"
    return {"type": _TYPES.get(key, key), "value": found.value, "name": f"{title}{interval}"}


def _yaml(values: Mapping[str, Any], indent: str = "") -> Iterable[str]:
    """Lines of YAML in block style; texts are quoted as in JSON, which YAML reads."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml(value, indent + "  ")
        elif isinstance(value, list):
            yield f"{indent}{key}:"
            for one in value:
                if isinstance(one, Mapping):
                    first, *rest = _yaml(one, indent + "  ")
                    yield f"{indent}- {first.strip()}"
                    yield from rest
                else:
                    yield f"{indent}- {json.dumps(one, ensure_ascii=False)}"
        else:
            yield f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}"


def _usage(manifest: Manifest) -> str:
    return (
        "```python\nfrom serving import Client\n\n"
        'Client("http://127.0.0.1:8501").predict(["image.jpg"], '
        f"model={json.dumps(manifest.name)})\n```\n\n"
        "`sightline serve FOLDER` or TF Serving loads this folder as a version of the model."
    )


def _metrics(manifest: Manifest, facts: Mapping[str, Any]) -> str:
    if not manifest.metrics:
        return "Not measured."
    shown = [name for name in facts if any(name in one for one in _measured(manifest).values())]
    rows = [
        [
            _plain(variant) + (" (recommended)" if variant == manifest.recommended else ""),
            *(_cell(found.get(name), facts[name]["unit"]) for name in shown),
        ]
        for variant, found in _measured(manifest).items()
    ]
    note = "Test split, which is not used for training or selection; 95 % intervals."
    return f"{note}\n\n" + _table(["variant", *(facts[name]["title"] for name in shown)], rows)


def _measured(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    return {name: one for name, one in manifest.metrics.items() if isinstance(one, Mapping)}


def _cell(raw: Any, unit: str) -> str:
    interval = figures.metric_interval(raw, unit)
    return figures.metric(raw, unit) + (f" ({interval})" if interval else "")


def _fairness(model: dict[str, Any]) -> str:
    parts = []
    for table in statements.fairness_tables(model):
        rows = [
            [
                _plain(group["name"]),
                group["images"],
                *(
                    f"{value} ({interval})" if interval else value
                    for value, interval in group["cells"]
                ),
                _plain(group["note"]),
            ]
            for group in table["groups"]
        ]
        parts.append(f"### {_plain(table['title'])}")
        parts.append(_table(["group", "images", *table["rates"], "note"], rows))
        if table["more"]:
            parts.append(f"{table['more']} more groups are not listed.")
        gaps = [
            [_plain(gap["rate"]), gap["value"], gap["interval"], _plain(gap["between"])]
            for gap in table["gaps"]
        ]
        if gaps:
            parts.append(_table(["gap", "points", "95 % interval", "between"], gaps))
        parts += [
            f"Gate {_plain(gate['name'])}: {gate['verdict']} ({_plain(gate['threshold'])}); "
            + _plain(gate["detail"])
            for gate in table["gates"]
        ]
        parts.append(_plain(f"{table['minimum'][:1].upper()}{table['minimum'][1:]}."))
    return "\n\n".join(parts) or "No groups were compared."


def _data(manifest: Manifest, data: Mapping[str, Any]) -> str:
    rows = [("name", data.get("name")), ("source", data.get("source"))]
    for split, found in (data.get("splits") or {}).items():
        if isinstance(found, Mapping):
            rows.append((f"{split} images", figures.count(found.get("examples"))))
    rows.append(("fingerprint", manifest.data_fingerprint))
    return _pairs(rows) or "The data set was not recorded."


def _provenance(manifest: Manifest) -> str:
    rows = [
        ("created", manifest.created),
        ("git commit", manifest.git_commit),
        ("configuration", manifest.config_hash),
        ("starting weights", " ".join(manifest.weights_origin.values())),
        ("content digest", manifest.content_digest),
        *manifest.stack.items(),
    ]
    return _pairs(rows) or "Not recorded."


def _pairs(rows: Iterable[tuple[str, Any]]) -> str:
    shown = [[_plain(name), _plain(value)] for name, value in rows if value not in (None, "")]
    return _table(["", ""], shown) if shown else ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _plain(text: Any) -> str:
    """Text without meaning in Markdown and HTML, on one line."""
    shown = _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
