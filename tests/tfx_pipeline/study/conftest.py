"""A folder of a study whose steps were not run: files as they write them, with random figures."""

import json
from pathlib import Path

import numpy as np
import pytest

from tfx_pipeline.study.figures import BUNDLED
from tfx_pipeline.study.sets import CORE, SETS

CLASSES = tuple("0123456789")
IMAGES, SEEDS = 300, 3
#: Epochs of the runs: all of the recipe for the first two models, some for the ViT.
PLAN = {
    **{"cnn": 16, "resnet": 10, "vit": 4, "distilled": 4},
    **{"prune90": 6, "qat": 1, "prune80": 0, "prune50": 0},
}
SKILL = {"cnn": 0.6, "resnet": 0.8, "vit": 0.4, "distilled": 0.5}


def predictions(path: Path, skill: float, seed: int) -> None:
    """Predictions of which a share of about `skill` is correct."""
    generator = np.random.default_rng(seed)
    labels = np.arange(IMAGES) % 10
    scores = generator.random((IMAGES, 10))
    scores[np.arange(IMAGES), labels] += 2 * (generator.random(IMAGES) < skill)
    scores = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, ids=[f"{i:04d}" for i in range(IMAGES)], labels=labels, scores=scores)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def trained(folder: Path, role: str, seed: int) -> None:
    epochs, recipe = PLAN[role], SETS["digits"].recipes[role]
    run = folder / "runs" / f"{recipe}-{seed}-{role}" / f"e{epochs}"
    predictions(run / "predictions.npz", SKILL[role], 10 * seed + len(role))
    history = [
        {
            **{"epoch": at + 1, "loss": 2.3 / (at + 1), "val_loss": 2.2 / (at + 1)},
            **{"val_top1": 0.5, "images_per_second": 100.0},
        }
        for at in range(epochs)
    ]
    write(run / "history.json", history)
    facts = {"best_epoch": epochs, "val_top1": 0.5, "parameters": 1000, "multiply_adds": 10_000}
    write(run / "trained.json", facts)
    times = {"seconds": 60.0, "cpu_seconds": 50.0}
    write(run / "run.json", {"epochs": epochs, "planned": epochs, **times})


def compressed(folder: Path, key: str, variants: dict[str, float]) -> None:
    out = folder / "bundles" / f"{key}.predictions"
    for at, (name, skill) in enumerate(variants.items()):
        predictions(out / f"{name}.npz", skill, at)
    sizes = {name: 1000 // (at + 1) for at, name in enumerate(variants)}
    write(out / "done.json", {"variants": list(variants), "gzip_bytes": sizes})


def timing(folder: Path, keys: dict[str, list[str]]) -> None:
    generator = np.random.default_rng(0)

    def seconds(mean: float) -> list[list[float]]:
        return (mean * (1 + 0.01 * generator.random((5, 20)))).tolist()

    variants = {
        f"{key}/{name}": {"bytes": 1000, "engine": seconds(0.002), "label": seconds(0.003)}
        for key, names in keys.items()
        for name in names
    }
    found = {
        "bundles": dict.fromkeys(keys, ""),
        "environment": {"cpu": "a CPU", "cores": "2"},
        "variants": variants,
        "study": {"resnet50": seconds(0.1), "vit_b16": seconds(0.3)},
    }
    write(folder / "timing.json", found)


def scaling(folder: Path) -> None:
    def cell(size: int, batch: int) -> dict[str, object]:
        grown = batch * (size / 16) ** 2
        return {
            **{"image_size": [size, size], "batch": batch, "attention_layers": 4},
            **{"attention_share": 0.1, "engine_ms": [grown] * 4, "memory_mb": 3.0},
            **{"time_ratio": [grown, grown * 0.9, grown * 1.1], "work_ratio": grown},
        }

    cells = [cell(size, batch) for size in (16, 32) for batch in (1, 8)]
    write(folder / "scaling.json", {role: {"rounds": 4, "cells": cells} for role in CORE})


def costs(folder: Path) -> None:
    def row(name, model, size, macs, at_study, products=0):
        published = {"parameters": 25.6, "giga_multiply_adds": 4.09, "source": "torchvision"}
        return {
            **{"name": name, "model": model, "options": {}, "size": [size, size], "classes": 10},
            **{"at_study": at_study, "parameters": 1000, "trainable_parameters": 900},
            "multiply_adds": macs,
            "attention": {"layers": int(products > 0), "products": products, "projections": 0},
            "formula_products": products or None,
            "published": published if model == "resnet50" else None,
        }

    found = [row(role, role, 16, 1_000_000, False) for role in CORE]
    found += [
        row("resnet50", "resnet50", 224, 4_089_184_256, True),
        row("vit_b16", "vit_b16", 224, 17_563_828_224, True, 715_327_488),
        row("vit_s16", "vit_s16", 224, 4_598_882_304, True, 357_663_744),
        row("vit_m16", "vit_m16", 224, 7_990_968_320, True, 476_884_992),
        row("vit_b32", "vit_b32", 224, 4_409_186_304, True, 46_080_000),
    ]
    write(folder / "cost.json", found)


@pytest.fixture
def study_folder(tmp_path):
    """A study on digits; the ViT has too few epochs, and some methods are left out."""
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "figures.csv").write_text(BUNDLED.read_text(encoding="utf-8"), encoding="utf-8")
    for role in CORE:
        for seed in range(SEEDS):
            trained(folder, role, seed)
    trained(folder, "distilled", 0)
    base = ["saved_model", "none_fp32", "ptq_dynamic", "ptq_int8"]
    keys = {f"{role}-e{PLAN[role]}": base for role in (*CORE, "distilled")}
    keys["prune90-e10-f6"] = ["saved_model", "none_fp32", "prune_fp32", "prune_int8"]
    keys["qat-e10-f1"] = ["saved_model", "none_fp32", "qat_int8"]
    for key, names in keys.items():
        compressed(folder, key, dict.fromkeys(names, SKILL.get(key.partition("-")[0], 0.8)))
    timing(folder, keys)
    costs(folder)
    scaling(folder)
    why = "the budget has no time for it; give a longer --budget"
    state = {
        **{"data": "0", "recipes": SETS["digits"].recipes, "data_name": "digits", "set": "digits"},
        **{"is_original": False, "has_study_recipes": False},
        **{"classes": CLASSES, "seeds": SEEDS, "plan": PLAN},
        "records": "data/my digits",
        "examples": {"train": 1000, "validation": 300, "test": IMAGES},
        **{"spent_s": 600.0, "budget_s": 720.0, "planned_for": [720.0, SEEDS]},
        "left_out": {"prune80": why, "prune50": why},
    }
    write(folder / "study.json", state)
    return folder
