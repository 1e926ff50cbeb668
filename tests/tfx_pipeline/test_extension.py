"""One of each kind from an installed package or from a file, without a change to our files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.evaluation.columns import OWN_FLOAT, own_float
from core.bundle import SAVED_MODEL, open_bundle
from tfx_pipeline.cli import main
from tfx_pipeline.cli.views.evaluate import evaluate_model
from tfx_pipeline.config import make_experiments, pipelines
from tfx_pipeline.ingest.source import jobs
from trainers import plugins
from trainers.compression.tflite_file import kernel_dtypes
from trainers.compression.tflite_graph import unpack
from trainers.data.augment import augmentations
from trainers.data.features import DatasetInfo
from trainers.registry import compressors, metrics, models, recipes, rewrites
from trainers.training.trained import load_trained

pytestmark = pytest.mark.onednn

REGISTRIES = (augmentations, compressors, jobs, metrics, models, pipelines, recipes, rewrites)
PLUGIN = '''
"""A model, data set, augmentation, recipe, pipeline, metric and compression method."""

import io


def register():
    import numpy as np
    import tensorflow as tf
    from PIL import Image

    from tfx_pipeline.config import CompressionPlan, PipelineConfig, pipelines
    from tfx_pipeline.ingest.source import Item, Source, jobs
    from trainers.compression import Method
    from trainers.compression.rewrites import Rewrite
    from trainers.compression.tflite_graph import pack, unpack
    from trainers.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
    from trainers.data.augment import augmentations
    from trainers.evaluation.metric import Metric, guesses
    from trainers.keras import keras
    from trainers.registry import compressors, metrics, models, recipes, rewrites

    @models.register("ext_model")
    def model(images, *, width: int = 4):
        x = keras.layers.Conv2D(width, 3, strides=4, activation="relu", name="conv")(images)
        return keras.layers.GlobalAveragePooling2D(name="pool")(x)

    def encoded(number):
        file = io.BytesIO()
        shade = 60 + 120 * (number % 2)
        Image.new("RGB", (16, 16), (60 + number, shade, shade)).save(file, "PNG")
        return file.getvalue()

    @jobs.register("ext_source")
    def source(request, *, images: int = 80):
        items = (
            Item(f"{n}.png", ("dark", "light")[n % 2], data=encoded(n)) for n in range(images)
        )
        return Source("shades", ("dark", "light"), items, f"{images} shades of gray")

    @augmentations.register("ext_augmentation")
    def darker(image, seed, *, by: float = 3.0):
        shade = tf.cast(image, tf.float32) - by * tf.random.stateless_uniform([], seed)
        return tf.saturate_cast(shade, tf.uint8)

    @recipes.register("ext_recipe")
    def recipe():
        return Config(
            name="ext_recipe",
            data=DataConfig(
                dir="shades", image_size=(16, 16), augment=("ext_augmentation(by=5)",)
            ),
            model=ModelConfig("ext_model"),
            optim=OptimConfig(learning_rate=0.05),
            train=TrainConfig(epochs=3, global_batch=8),
        )

    @pipelines.register("ext_pipeline")
    def pipeline():
        return PipelineConfig(
            name="ext_pipeline",
            experiments=("ext_recipe",),
            slices=(),
            gates={"min_top1": 0.5, "max_drop": 1.0},
            statistics={f"skew_{kind}": 1.0 for kind in ("share", "divergence", "distance")},
            best=CompressionPlan(methods=("ext_coarse",), ptq=()),
            benchmark_runs=5,
            serving_requests=2,
        )

    def worst_recall(labels, predicted):
        return min((predicted[labels == one] == one).mean() for one in np.unique(labels))

    metrics.register("ext_metric")(Metric(worst_recall, "worst recall", guesses))

    def coarse(model, fine_tune, settings):
        copy = keras.models.clone_model(model)
        copy.set_weights([np.round(one * 16) / 16 for one in model.get_weights()])
        return copy

    def described(content, conversion):
        model = unpack(content)
        model.description = f"{conversion.name} of shades"
        return pack(model), {"labels": len(conversion.labels)}

    rewrites.register("ext_rewrite")(Rewrite("ext_rewrite", described, stage="contents"))
    compressors.register("ext_coarse")(
        Method(
            "ext_coarse",
            dtypes=("int8",),
            run=coarse,
            needs_calibration=True,
            rewrites=("ext_rewrite",),
            title="coarse",
        )
    )


register()
'''


def install(site):
    """Makes `site` hold an installed package that names the plugin as its entry point."""
    info = site / "shades-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "shades_sightline.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shades\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sightline.plugins]\nshades = shades_sightline\n")


@pytest.fixture(params=["package", "file"])
def extended(request, tmp_path, monkeypatch):
    """Arguments of `sightline` that bring the plugin; afterwards the process is as before."""
    monkeypatch.setenv(plugins.VARIABLE, "")
    for one in REGISTRIES:
        one.names()
        monkeypatch.setattr(one, "_entries", dict(one._entries))
        monkeypatch.setattr(one, "_origins", dict(one._origins))
    monkeypatch.setattr(plugins, "_state", plugins._State())
    monkeypatch.chdir(tmp_path)
    if request.param == "file":
        (tmp_path / "extension.py").write_text(PLUGIN)
        yield ["--plugins", "extension.py"]
        return
    install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))  # for the converter's process
    plugins._installed.cache_clear()
    yield []
    sys.modules.pop("shades_sightline", None)
    plugins._installed.cache_clear()


def test_one_of_each_kind_is_trained_compressed_evaluated_and_shipped(extended, tmp_path):
    def sightline(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *extended])
        assert not ended.value.code, arguments

    sightline("ingest", "ext_source", "images=60", "--out", "shades")
    info = DatasetInfo.load(Path("shades"))
    assert (info.classes, sum(s.examples for s in info.splits.values())) == (("dark", "light"), 60)

    sightline("train", "ext_recipe", "--out", "work")
    trained = load_trained(Path("work"))
    assert trained.config.model.name == "ext_model"
    assert trained.config.data.augment == ("ext_augmentation(by=5)",)
    kernel = trained.model.get_layer("conv").kernel
    assert kernel.shape == (3, 3, 3, 4)

    sightline("compress", "work", "--method", "ext_coarse", "--ptq", "", "--out", "draft")
    draft = open_bundle(Path("draft"))
    assert [one.name for one in draft.manifest.variants] == ["none_fp32", "ext_coarse_int8"]
    assert draft.manifest.variants[1].method == "ext_coarse"
    content = Path("draft/model_ext_coarse_int8.tflite").read_bytes()
    assert set(kernel_dtypes(content)) == {"int8"}
    assert unpack(content).description == b"ext_coarse_int8 of shades"
    done = draft.manifest.conversion["ext_coarse_int8"]["rewrites"]
    assert done[-1] == {"name": "ext_rewrite", "applied": True, "labels": 2}
    table = dict.fromkeys([SAVED_MODEL, "none_fp32", "ext_coarse_int8", OWN_FLOAT + "ext_coarse"])
    assert own_float("ext_coarse_int8", table) == OWN_FLOAT + "ext_coarse"

    found = evaluate_model(Path("draft"), Path("shades"), "test")
    assert found["ext_coarse_int8"]["top1"][0] >= 0.9
    value, low, high = found["ext_coarse_int8"]["ext_metric"]
    assert 0 <= low <= value <= high <= 1
    sightline("export", "draft", "bundles", "--variant", "ext_coarse_int8")
    assert open_bundle(Path("bundles/ext_recipe/1")).manifest.recommended == "ext_coarse_int8"

    pipeline = pipelines.get("ext_pipeline")()
    assert list(make_experiments(pipeline, tmp_path / "shades")) == ["ext_recipe"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pipeline_of_an_installed_package_ships_its_compression_method(tmp_path):
    install(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = Path(sys.executable).with_name("sightline")
    for arguments in (
        ["ingest", "ext_source", "images=200", "--out", "shades"],
        ["run", "ext_pipeline", "--data", "shades"],
    ):
        done = subprocess.run(
            [command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    pushed = tmp_path / "bundles" / "ext_recipe" / "1"
    variants = {one.name for one in open_bundle(pushed).manifest.variants}
    assert variants == {"none_fp32", "ext_coarse_int8"}
    # The card names the method by its title.
    card = (pushed / "card.html").read_text()
    assert "coarse, int8" in card
    assert "worst recall" in card
