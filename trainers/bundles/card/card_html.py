"""`card.html`: the model card of a bundle, with its intended use, metrics and limits.

The sections follow Mitchell et al. 2019, "Model Cards for Model Reporting", section 4.
"""

import json
from pathlib import Path
from typing import Any

from core import bundle, figures, html
from trainers.bundles.card import statements
from trainers.evaluation.fairness import LIMITS
from trainers.evaluation.metrics import metric_facts

_ORIENTATION = {
    "as_stored": "not applied: pixels are taken as stored",
    "upright": "applied: the graph turns JPEG and PNG images upright",
}
# The verdict of gates of earlier versions.
_FAILED = "failed"
# Slices with fewer examples are marked as unreliable.
_FEW_EXAMPLES = 30


def render_card(manifest: bundle.Manifest, model: dict[str, Any]) -> str:
    """The HTML of the card, with dashes for missing figures.

    Args:
      manifest: of the bundle.
      model: entry of the model in the run's summary (`architecture`, `parameters`,
        `multiply_adds`, `seed`, `slices`, `fairness`, `gates`, `excludable_drop`, `data`,
        `metric_facts`); any part may be missing.

    Returns:
      HTML; figures that neither source has are dashes.
    """
    config = manifest.config
    metrics = model.get("metric_facts") or metric_facts(manifest.num_classes)
    return html.render(
        Path(__file__).parent,
        "card_template.html.j2",
        name=manifest.name,
        task=manifest.task,
        recommended=manifest.recommended,
        architecture=str(model.get("architecture") or config.get("model", {}).get("name", "")),
        facts=_facts(manifest, model),
        metrics=metrics.values(),
        variants=_variants(manifest, metrics),
        slices=_slices(model),
        data=_data(manifest, model),
        contract=_contract(manifest),
        gates=_gates(model),
        intended_use=statements.INTENDED_USE,
        not_measured=statements.not_measured(manifest, model),
        fairness=statements.fairness_tables(model),
        group_limits=LIMITS,
        limits=statements.limits(manifest, model),
        license=statements.license_text(manifest),
        provenance=_provenance(manifest),
        config=json.dumps(config, indent=2, default=str) if config else "",
        few=_FEW_EXAMPLES,
    )


def _facts(manifest: bundle.Manifest, model: dict[str, Any]) -> list[tuple[str, str]]:
    side = manifest.input
    return [
        ("classes", figures.count(manifest.num_classes)),
        ("input", f"{side.get('height', '?')} x {side.get('width', '?')} px, RGB"),
        ("crop and resize", _pixels(side)),
        ("EXIF orientation", _ORIENTATION.get(side.get("exif", ""), "not applied")),
        ("parameters", figures.amount(model.get("parameters"))),
        ("multiply-adds per image", figures.amount(model.get("multiply_adds"))),
    ]


def _pixels(side: dict[str, Any]) -> str:
    """Crop and resize as text; bundles of earlier versions do not state the kinds."""
    part = f"the central {figures.percent(side.get('crop_fraction', 1.0))} of "
    boxes = {
        "crop": "the largest box of the input's aspect",
        "stretch": "each side, stretched to the input's aspect",
    }
    kinds = {
        "antialias": "antialiased (triangle filter)",
        "bilinear": "bilinear without antialias",
    }
    box = boxes[side.get("fit", "stretch")]
    return f"{part}{box}; {kinds[side.get('resize', 'bilinear')]}"


def _variants(manifest: bundle.Manifest, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    named: list[tuple[str, str, bundle.Variant | None]] = [
        (bundle.SAVED_MODEL, "the float model, for TF Serving", None)
    ]
    named += [
        (v.name, f"{manifest.methods.get(v.method) or v.method}, {v.dtype}", v)
        for v in manifest.variants
    ]
    return [
        {**_variant(manifest, *entry), "metrics": _metrics(manifest, entry[0], metrics)}
        for entry in named
    ]


def _metrics(
    manifest: bundle.Manifest, variant: str, metrics: dict[str, Any]
) -> list[tuple[str, str]]:
    """The value and the interval of each of `metrics`."""
    raw = manifest.metrics.get(variant)
    measured = raw if isinstance(raw, dict) else {}
    return [
        (
            figures.metric(measured.get(name), facts["unit"]),
            figures.metric_interval(measured.get(name), facts["unit"]),
        )
        for name, facts in metrics.items()
    ]


def _variant(
    manifest: bundle.Manifest, name: str, what: str, variant: bundle.Variant | None
) -> dict[str, Any]:
    benchmark = manifest.benchmark.get(name)
    costs = benchmark if isinstance(benchmark, dict) else {}
    return {
        "name": name,
        "file": variant.file if variant else bundle.SAVED_MODEL_FILE,
        "what": what,
        "recommended": name == manifest.recommended,
        "size": figures.size(variant.size_bytes if variant else costs.get("size_bytes")),
        "gzip": figures.size(variant.gzip_bytes if variant else costs.get("gzip_bytes")),
        "p50": figures.milliseconds(costs.get("latency_ms_p50")),
        "p99": figures.milliseconds(costs.get("latency_ms_p99")),
    }


def _slices(model: dict[str, Any]) -> list[dict[str, Any]]:
    """The slices with the lowest top-1."""
    found = []
    for item in model.get("slices") or []:
        top1 = figures.estimate(item.get("top1")) if isinstance(item, dict) else None
        if top1 is not None:
            found.append((top1.value, item))
    return [
        {
            "name": f"{item.get('key')} = {item.get('value')}",
            "examples": figures.count(item.get("examples")),
            "few": (figures.number(item.get("examples")) or 0) < _FEW_EXAMPLES,
            "top1": figures.percent(item["top1"]),
            "interval": figures.percent_interval(item["top1"]),
        }
        for _, item in sorted(found, key=lambda pair: pair[0])[:8]
    ]


def _data(manifest: bundle.Manifest, model: dict[str, Any]) -> list[tuple[str, str]]:
    found = model.get("data") or manifest.data
    raw: dict[str, Any] = found if isinstance(found, dict) else {}
    rows = [("name", raw.get("name")), ("source", raw.get("source"))]
    for split, counts in (raw.get("splits") or {}).items():
        if isinstance(counts, dict):
            rows.append((f"{split} examples", figures.count(counts.get("examples"))))
    rows.append(("fingerprint", manifest.data_fingerprint))
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _gates(model: dict[str, Any]) -> dict[str, Any]:
    """The numbers of gates and of gates that held, and a row for each that did not."""
    found = [gate for gate in model.get("gates") or [] if isinstance(gate, dict)]
    held = [gate for gate in found if gate.get("passed") and not gate.get("waived")]
    return {
        "all": len(found),
        "held": len(held),
        "others": [
            {
                "name": str(gate.get("name") or "?"),
                "verdict": str(gate.get("verdict") or _FAILED),
                "why": "; ".join(str(gate[k]) for k in ("waived", "detail") if gate.get(k)),
            }
            for gate in found
            if gate not in held
        ],
    }


def _contract(manifest: bundle.Manifest) -> list[tuple[str, str, str]]:
    height, width = manifest.input.get("height", "H"), manifest.input.get("width", "W")
    top = f"scores, classes, labels: (B, {manifest.top_k}) each, the best first"
    scores = f"(1, {manifest.num_classes})"
    return [
        (
            bundle.SIGNATURE_BYTES,
            "image_bytes (B,): JPEG, PNG, BMP or the first frame of a GIF",
            top,
        ),
        (
            bundle.SIGNATURE_PREPROCESS,
            "image_bytes (B,)",
            f"images uint8 (B, {height}, {width}, 3)",
        ),
        (
            bundle.SIGNATURE_TENSOR,
            f"images uint8 (B, {height}, {width}, 3), RGB in [0, 255]",
            f"scores float32 (B, {manifest.num_classes}), softmax",
        ),
        (bundle.SIGNATURE_EXAMPLES, "examples (B,): serialized tf.Example", top),
        *_embeddings(manifest.embedding_size),
        (
            "*.tflite",
            f"uint8 (1, {height}, {width}, 3), RGB in [0, 255]",
            f"float32 {scores}, softmax; labels.txt inside the file",
        ),
    ]


def _embeddings(size: int) -> list[tuple[str, str, str]]:
    """The row of `predict_embeddings`, which bundles of earlier versions do not have."""
    returns = f"embeddings float32 (B, {size}): the features before the classifier"
    return [(bundle.SIGNATURE_EMBEDDINGS, "image_bytes (B,)", returns)] if size else []


def _provenance(manifest: bundle.Manifest) -> list[tuple[str, str]]:
    rows = [
        ("created", manifest.created),
        ("git commit", manifest.git_commit),
        ("configuration", manifest.config_hash),
        *_weights_origin(manifest.weights_origin),
        ("linear probe", manifest.linear_probe.get("why", "")),
        ("content digest", manifest.content_digest),
        *manifest.stack.items(),
    ]
    return [(name, str(value)) for name, value in rows if value]


def _weights_origin(found: dict[str, str]) -> list[tuple[str, str]]:
    """Where the weights that training started from come from, and their license."""
    named = ("trained", "package", "version", "file")
    rows = [("starting weights", " ".join(found[key] for key in named if found.get(key)))]
    rows += [(f"{key} of the weights", found.get(key, "")) for key in ("sha256", "license")]
    return rows
