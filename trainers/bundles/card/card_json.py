"""`model_card.json`: the card in the schema v0.0.2 of the Model Card Toolkit.

https://github.com/tensorflow/model-card-toolkit/tree/main/model_card_toolkit/schema/v0.0.2

The schema has no field for a variant: figures of variants other than the recommended one have its
name in their type, as in `top1 (ptq_int8)`. Parts without content are left out.
"""

from collections.abc import Mapping
from typing import Any

from core import figures
from core.bundle import Manifest
from trainers.bundles.card import statements
from trainers.evaluation.fairness import LIMITS
from trainers.evaluation.metrics import metric_facts

SCHEMA_VERSION = "0.0.2"


def toolkit_card(manifest: Manifest, model: dict[str, Any]) -> dict[str, Any]:
    """The card as plain values.

    Args:
      manifest: of the bundle.
      model: what else is known, see `render_card`; any part may be missing.
    """
    tables = statements.fairness_tables(model)
    described = statements.limits(manifest, model) + statements.not_measured(manifest, model)
    return {
        "schema_version": SCHEMA_VERSION,
        "model_details": _details(manifest, model),
        "model_parameters": _parameters(manifest, model),
        "quantitative_analysis": {
            "performance_metrics": [*_metrics(manifest, model), *_slices(model), *_groups(model)]
        },
        "considerations": {
            "use_cases": [_described(statements.INTENDED_USE[0])],
            "limitations": [_described(text) for text in (statements.INTENDED_USE[1], *described)],
            "tradeoffs": [_described(text) for text in _tradeoffs(manifest)],
            "ethical_considerations": [
                {"name": text, "mitigation_strategy": _mitigation(tables)} for text in LIMITS
            ],
        },
    }


def _details(manifest: Manifest, model: dict[str, Any]) -> dict[str, Any]:
    architecture = _architecture(manifest, model)
    version = {"name": (manifest.content_digest or manifest.config_hash)[:12] or "unknown"}
    if manifest.created:
        version["date"] = manifest.created[:10]
    return {
        "name": manifest.name,
        "overview": f"Image {manifest.task}"
        + (f" with {architecture}" if architecture else "")
        + f"; {manifest.num_classes} classes.",
        "documentation": " ".join(statements.INTENDED_USE),
        "version": version,
        "licenses": [{"custom_text": statements.license_text(manifest)}],
    }


def _architecture(manifest: Manifest, model: dict[str, Any]) -> str:
    named = model.get("architecture") or manifest.config.get("model", {}).get("name", "")
    return str(named)


def _parameters(manifest: Manifest, model: dict[str, Any]) -> dict[str, Any]:
    data = model.get("data") or manifest.data
    side = manifest.input
    size = f"{side.get('height', '?')} x {side.get('width', '?')}"
    return {
        "model_architecture": _architecture(manifest, model) or "not recorded",
        "data": [_dataset(data, manifest, model)],
        "input_format": f"JPEG, PNG, BMP or GIF bytes; the graph resizes to {size} px RGB.",
        "input_format_map": [_pair("image_bytes", "encoded image bytes")]
        + [_pair(key, value) for key, value in side.items()],
        "output_format": f"The {manifest.top_k} highest scores with classes and labels.",
        "output_format_map": [
            _pair(key, f"(B, {manifest.top_k}), the best first")
            for key in ("scores", "classes", "labels")
        ],
    }


def _dataset(data: Mapping[str, Any], manifest: Manifest, model: dict[str, Any]) -> dict[str, Any]:
    counts = [
        f"{split} {figures.count(found.get('examples'))} images"
        for split, found in (data.get("splits") or {}).items()
        if isinstance(found, Mapping)
    ]
    parts = [str(data.get("source") or ""), ", ".join(counts)]
    if manifest.data_fingerprint:
        parts.append(f"fingerprint {manifest.data_fingerprint}")
    found: dict[str, Any] = {
        "name": str(data.get("name") or "not recorded"),
        "description": "; ".join(filter(None, parts)) or "not recorded",
    }
    keys = [one["key"] for one in model.get("fairness") or []]
    if keys:
        found["sensitive"] = {"sensitive_data": keys}
    return found


def _metrics(manifest: Manifest, model: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics that apply to this number of classes."""
    facts = model.get("metric_facts") or metric_facts(manifest.num_classes)
    chosen = statements.measured_variant(manifest)
    rows = []
    for variant, metrics in manifest.metrics.items():
        for name, raw in metrics.items() if isinstance(metrics, Mapping) else ():
            shown = name if variant == chosen else f"{name} ({variant})"
            rows.append(_metric(shown, raw) if name in facts else {})
    return [row for row in rows if row]


def _slices(model: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [
        _metric("top1", one.get("top1"), f"{_short(one.get('key'))}={one.get('value')}")
        for one in model.get("slices") or []
        if isinstance(one, Mapping)
    ]
    return [row for row in rows if row]


def _groups(model: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for one in model.get("fairness") or []:
        positive = f", positive class {one['positive']}" if one["positive"] else ""
        for group in one["groups"]:
            where = f"{one['key']}={group['name']}{positive}"
            rows += [_metric(rate, raw, where) for rate, raw in group["rates"].items()]
        rows += [
            _metric(f"gap of {gap['rate']}", gap["size"], f"{one['key']}{positive}")
            for gap in one["gaps"]
        ]
    return [row for row in rows if row]


def _metric(name: str, raw: Any, where: str = "") -> dict[str, Any]:
    """A figure as the schema has it; empty if there is none."""
    found = figures.estimate(raw)
    if found is None:
        return {}
    row: dict[str, Any] = {"type": name, "value": repr(found.value)}
    if where:
        row["slice"] = where
    if found.low is not None:
        row["confidence_interval"] = {
            "lower_bound": repr(found.low),
            "upper_bound": repr(found.high),
        }
    return row


def _tradeoffs(manifest: Manifest) -> list[str]:
    found = []
    for one in manifest.variants:
        costs = manifest.benchmark.get(one.name)
        latency = costs.get("latency_ms_p50") if isinstance(costs, Mapping) else None
        time = f", {figures.milliseconds(latency)} per image" if latency else ""
        found.append(f"{one.file}: {figures.size(one.size_bytes)}{time}")
    return found


def _mitigation(tables: list[dict[str, Any]]) -> str:
    if not tables:
        return "Not examined: no groups were compared for this bundle."
    keys = ", ".join(table["title"] for table in tables)
    return f"Rates of groups were compared with intervals ({keys}). Repeat this on your images."


def _described(text: str) -> dict[str, str]:
    return {"description": text}


def _pair(key: str, value: Any) -> dict[str, str]:
    return {"key": key, "value": str(value)}


def _short(key: Any) -> str:
    return str(key).removeprefix("slice/")
