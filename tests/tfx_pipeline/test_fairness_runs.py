"""Fairness gates of a whole run: a gap stops a model, and mistakes are found at the start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.bundle import CARD_FILES

PLUGIN = '''
"""Dark and light images of two groups; in the test split, those of group b are all alike."""

import io

from PIL import Image

from tfx_pipeline.config import CompressionPlan, PipelineConfig, pipelines
from tfx_pipeline.ingest.source import Item, Source, jobs
from trainers.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from trainers.registry import models, recipes

SPLITS = {"train": 160, "validation": 80, "test": 240}


def encoded(number, shade):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (number % 240, shade + number // 240, shade)).save(file, "PNG")
    return file.getvalue()


def items():
    number = 0
    for split, images in SPLITS.items():
        for at in range(images):
            number += 1
            label, group = at % 2, "ab"[at // 2 % 2]
            shade = 60 if split == "test" and group == "b" else 60 + 120 * label
            yield Item(
                f"{number}.png",
                ("dark", "light")[label],
                split=split,
                data=encoded(number, shade),
                slices={"slice/group": group},
            )


@jobs.register("fair_source")
def source(request):
    """Dark and light images."""
    return Source("shades", ("dark", "light"), items(), "shades of two groups")


@models.register("fair_model")
def model(images):
    """A convolution and a pool."""
    from trainers.keras import keras

    x = keras.layers.Conv2D(4, 3, strides=4, activation="relu", name="conv")(images)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


@recipes.register("fair_recipe")
def recipe():
    """A few epochs."""
    return Config(
        name="fair_recipe",
        data=DataConfig(dir="shades", image_size=(16, 16)),
        model=ModelConfig("fair_model"),
        optim=OptimConfig(learning_rate=0.05),
        train=TrainConfig(epochs=4, global_batch=16),
    )


@pipelines.register("fair")
def pipeline():
    """Without compression."""
    return PipelineConfig(
        name="fair",
        experiments=("fair_recipe",),
        slices=(),
        gates={"max_drop": 1.0},
        statistics={f"skew_{kind}": 1.0 for kind in ("share", "divergence", "distance")},
        best=CompressionPlan(methods=(), ptq=()),
        benchmark_runs=5,
        serving_requests=2,
    )
'''


@pytest.fixture
def sightline(tmp_path):
    """Runs the command in a folder with the plugin; returns the finished process."""
    (tmp_path / "fair.py").write_text(PLUGIN)
    command = Path(sys.executable).with_name("sightline")

    def run(*arguments):
        return subprocess.run(
            [command, "--plugins", "fair.py", *arguments],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "240"},
            capture_output=True,
            text=True,
        )

    done = run("ingest", "fair_source", "--out", "shades")
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def test_mistakes_end_the_run_before_it_begins(sightline, tmp_path):
    for settings, words in (
        (
            ["gates.fairness=accuracy", "gates.fairness_groups=groupx"],
            "no slice 'groupx'; did you mean",
        ),
        (["gates.fairness_groups=group"], "has no effect without gates.fairness"),
        (
            ["gates.fairness=accuracy", "gates.fairness_groups=group", "gates.fairness_positive=x"],
            "no class 'x'",
        ),
    ):
        done = sightline("run", "fair", "--data", "shades", *settings)
        assert done.returncode == 1
        assert words in " ".join((done.stdout + done.stderr).split())
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_gap_stops_a_model_and_a_wider_margin_lets_it_pass(sightline, tmp_path):
    chosen = ("gates.fairness=accuracy,equal_opportunity", "gates.fairness_groups=group")
    done = sightline("run", "fair", "--data", "shades", *chosen)
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 3, text
    assert "fairness/accuracy" in text
    summary = json.loads((tmp_path / "runs/fair/reports/latest/summary.json").read_text())
    (model,) = summary["models"]
    failed = {gate["name"] for gate in model["gates"] if not gate["passed"]}
    assert failed == {"fairness/accuracy", "fairness/equal_opportunity"}
    details = {gate["name"]: gate["detail"] for gate in model["gates"]}
    assert "a is highest and b lowest of 2 groups" in details["fairness/accuracy"]
    assert "positive class light" in details["fairness/equal_opportunity"]
    report = (tmp_path / "runs/fair/reports/latest/report.html").read_text()
    assert "fairness/accuracy" in report

    done = sightline("run", "fair", "--data", "shades", *chosen, "gates.max_gap=1")
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, text
    pushed = tmp_path / "bundles" / "fair_recipe" / "1"
    assert all((pushed / name).is_file() for name in CARD_FILES)
    card = json.loads((pushed / "model_card.json").read_text())
    metrics = {
        (one["type"], one.get("slice")): float(one["value"])
        for one in card["quantitative_analysis"]["performance_metrics"]
    }
    # Half of group b looks like the other class, and the model cannot distinguish them.
    assert metrics["accuracy", "group=b, positive class light"] == pytest.approx(0.5, abs=0.05)
    assert metrics["accuracy", "group=a, positive class light"] >= 0.95
    page = (pushed / "card.html").read_text()
    assert "fairness/accuracy: held" in page
    assert "What these figures cannot show" in page

    done = sightline("run", "fair", "--data", "shades", *chosen, "gates.max_gap=1")
    assert "nothing changed since run" in done.stdout
