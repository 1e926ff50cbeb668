"""All registered recipes: complete, in range, buildable, with the figures of the papers."""

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest

from trainers.config import from_dict, to_dict
from trainers.config_rules import validate
from trainers.data.augment import split_names
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.keras import keras
from trainers.models import build_model, distillation_heads
from trainers.optim import build_optimizer, compression_rate, scaled, schedule_of, warmup_note
from trainers.registry import compressors, models, recipes, tasks

NAMES = recipes.names()
IMAGENET = 1_281_167
TRAIN_IMAGES = {"data/imagenet": IMAGENET, "data/digits": 1072}
# Recipes whose network can be built at full size in a second or two.
SMALL = [name for name in NAMES if name.startswith(("cifar10_", "digits_"))]


@pytest.fixture(params=NAMES)
def recipe(request):
    """The configuration of each recipe."""
    return recipes.get(request.param)()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_how_it_is_run_and_is_its_bundles_name(name):
    text = inspect.getdoc(recipes.get(name))
    assert f"sightline train {name}" in text
    assert recipes.get(name)().name == name


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("digits_")])
def test_a_recipe_tells_command_cost_and_result(name):
    text = inspect.getdoc(recipes.get(name))
    parts = [text.find(f"\n{part}: ") for part in ("Command", "Cost", "Result")]
    assert -1 not in parts, f"{name} lacks one of the three parts"
    assert parts == sorted(parts)
    assert recipes.get(name).__name__ == name


def test_a_recipe_is_in_range_and_survives_a_file(recipe):
    assert validate(recipe) is recipe
    assert from_dict(to_dict(recipe)) == recipe
    split_names(recipe.data.augment)
    assert recipe.train.global_batch % 2 == 0, "mixing takes pairs"


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("finetune")])
def test_a_recipe_keeps_its_warm_up_on_its_own_data(name):
    recipe = recipes.get(name)()
    images = TRAIN_IMAGES.get(recipe.data.dir, 9000)
    steps = images // recipe.train.global_batch * recipe.train.epochs
    batch = recipe.train.global_batch
    schedule = schedule_of(recipe.optim, steps, global_batch=batch)
    stated = scaled(recipe.optim, batch).warmup_steps
    assert schedule.get_config()["config"]["warmup_steps"] == stated
    assert stated <= 0.15 * steps


@pytest.mark.parametrize("images", [64, 100, 180, 500])
@pytest.mark.parametrize("name", ["finetune", "finetune_vit"])
def test_fine_tuning_leaves_its_warm_up_on_small_data(name, images):
    recipe = recipes.get(name)()
    batch = recipe.train.global_batch
    total = images // batch * recipe.train.epochs
    schedule = schedule_of(recipe.optim, total, global_batch=batch)
    peak = recipe.optim.learning_rate * batch / recipe.optim.reference_batch
    rates = [float(schedule(step)) for step in range(total)]
    assert max(rates) == pytest.approx(peak)
    assert rates.index(max(rates)) <= total / 10
    note = warmup_note(recipe.optim, total, global_batch=batch)
    wanted = recipe.optim.warmup_steps * recipe.optim.reference_batch // batch
    assert (
        f" {total // 10} instead of the recipe's {wanted} steps, 10% of the run's {total}" in note
    )


# What fine-tuning after compression took before it followed the peak, where that was sensible.
COMPRESSION_RATES = {
    **{"digits_cnn": 0.015, "digits_resnet": 0.02, "digits_vit": 5e-4},
    **{"cifar10_resnet20": 0.01, "cifar10_vit": 2e-4, "cifar10_vit_distilled": 2e-4},
    **{"cifar10_deit": 2e-4, "cifar10_hybrid": 2e-4, "cifar10_resnet56": 0.01},
    **{"cifar100_resnet56": 5e-3, "resnet50_imagenet": 1e-3, "resnet50_a2": 1e-3},
    **{"resnet50_a3": 1e-3, "vit_b16_imagenet": 1e-4, "deit_s16_distilled": 1e-4},
    **{"vit_s16_deit3": 5e-4, "vit_s16_augreg": 1e-4, "coatnet0_imagenet": 1e-4},
    **{"efficientnet_lite0_imagenet": 1e-3},
    # A tenth of the peak; they had 1, 1 and 20 times it.
    **{"resnet50_imagenet_study": 1e-3, "cnn_imagenet_study": 1e-3, "vit_b16_imagenet_study": 5e-5},
}


@pytest.mark.parametrize("name", NAMES)
def test_compression_takes_a_fraction_of_the_peak(name):
    recipe = recipes.get(name)()
    steps = 1000
    optim = replace(recipe.optim, warmup_steps=0)
    peak = float(schedule_of(optim, steps, global_batch=recipe.train.global_batch)(0))
    assert 0.01 - 1e-6 <= compression_rate(recipe) / peak <= 0.25 + 1e-6
    if name in COMPRESSION_RATES:
        assert compression_rate(recipe) == pytest.approx(COMPRESSION_RATES[name])
    # It follows the batch as the peak does.
    double = replace(
        recipe, train=replace(recipe.train, global_batch=2 * recipe.train.global_batch)
    )
    growth = 2**0.5 if optim.scaling == "sqrt" else 2
    expected = compression_rate(recipe) * (growth if optim.reference_batch else 1)
    assert compression_rate(double) == pytest.approx(expected)


def test_a_recipe_names_a_model_and_options_that_it_takes(recipe):
    builder = models.get(recipe.model.name)
    known = inspect.signature(builder).parameters
    assert set(recipe.model.options) <= set(known)
    if recipe.distill.mode == "token":
        assert recipe.model.name.startswith("deit")
    assert not recipe.distill.teacher, "a teacher is a folder of the user's"


@pytest.mark.parametrize("name", SMALL)
def test_a_small_recipe_builds_and_takes_a_batch(name):
    recipe = recipes.get(name)()
    classes = tuple(f"class {number}" for number in range(10))
    splits = {"train": SplitInfo(1, 1, {})}
    info = DatasetInfo("any", recipe.task, classes, 1, splits, fingerprint="f")
    task = tasks.get(recipe.task)
    model = task.build(recipe, info)
    images = np.full((2, *recipe.data.image_size, 3), 128, np.uint8)
    outputs = model(images, training=False)
    assert np.isfinite(task.scores(outputs)).all()
    assert task.scores(outputs).shape[0] == 2
    assert np.isfinite(task.loss(recipe)(np.array([1, 9]), outputs))
    assert "top1" in {metric.name for metric in task.metrics()}
    optimizer = build_optimizer(
        recipe.optim, 1000, global_batch=recipe.train.global_batch, model=model
    )
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    assert float(schedule_of(recipe.optim, 1000)(0)) > 0
    assert (distillation_heads(model) is not None) == (recipe.distill.mode == "token")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in SMALL])
def test_a_large_recipe_builds(name):
    recipe = recipes.get(name)()
    model = build_model(recipe, 1000)
    build_optimizer(recipe.optim, 1000, model=model)


def test_the_three_architectures_of_the_smoke_pipeline_are_there():
    assert {"digits_cnn", "digits_resnet", "digits_vit"} <= set(NAMES)
    assert {"none", "ptq", "prune", "qat"} <= set(compressors.names())


# The study's and the papers' tables: optimizer, peak rate for the batch, batch, epochs, decay,
# epochs of warm-up.
PAPERS = {
    "resnet50_imagenet_study": ("sgd", 0.01, 128, 100, 5e-4, 0),
    "cnn_imagenet_study": ("sgd", 0.01, 128, 100, 5e-4, 0),
    "vit_b16_imagenet_study": ("adam", 5e-4, 128, 100, 0.0, 10_000 * 128 / IMAGENET),
    "resnet50_imagenet": ("sgd", 0.1, 256, 90, 1e-4, 5),
    "resnet50_a2": ("lamb", 5e-3, 2048, 300, 0.02, 5),
    "resnet50_a3": ("lamb", 8e-3, 2048, 100, 0.02, 5),
    "vit_b16_imagenet": ("adamw", 1e-3, 1024, 300, 0.05, 5),
    "deit_s16_distilled": ("adamw", 1e-3, 1024, 300, 0.05, 5),
    "vit_s16_deit3": ("lamb", 4e-3, 2048, 800, 0.05, 5),
    "vit_s16_augreg": ("adamw", 1e-3, 1024, 90, 0.1, 10_000 * 1024 / IMAGENET),
    "coatnet0_imagenet": ("adamw", 1e-3, 4096, 300, 0.05, 10_000 * 4096 / IMAGENET),
    "mobilenet_v3_large_imagenet": ("sgd", 1.3, 2048, 360, 2e-5, 5),
    "cifar10_resnet56": ("sgd", 0.1, 128, 164, 1e-4, 0),
    "cifar100_resnet56": ("sgd", 0.05, 64, 240, 5e-4, 0),
}


@pytest.mark.parametrize("name", PAPERS)
def test_a_published_recipe_has_the_papers_figures(name):
    config = recipes.get(name)()
    kind, rate, batch, epochs, decay, warmup = PAPERS[name]
    optim, train = config.optim, config.train
    assert (optim.name, optim.learning_rate, optim.weight_decay) == (kind, rate, decay)
    assert (train.global_batch, train.epochs, optim.reference_batch) == (batch, epochs, batch)
    assert optim.warmup_steps == pytest.approx(warmup * IMAGENET / batch, abs=0.5)
    schedule = schedule_of(optim, IMAGENET // batch * epochs, global_batch=batch)
    if TRAIN_IMAGES.get(config.data.dir) == IMAGENET:
        assert schedule.get_config()["config"]["warmup_steps"] == optim.warmup_steps
    assert not optim.decay_all


def test_every_recipe_for_imagenet_is_held_to_a_table():
    made = {name: recipes.get(name)() for name in NAMES}
    # A recipe without epochs trains nothing.
    found = {
        name for name, one in made.items() if one.data.dir == "data/imagenet" and one.train.epochs
    }
    assert found <= set(PAPERS)


# Mixes, loss, smoothing, stochastic depth.
REGULARISERS = {
    "resnet50_a2": ({"mixup(0.1)", "cutmix(1.0)"}, "bce", 0.0, 0.05),
    "resnet50_a3": ({"mixup(0.1)", "cutmix(1.0)"}, "bce", 0.0, 0.0),
    "vit_b16_imagenet": ({"mixup(0.8)", "cutmix(1.0)"}, "softmax", 0.1, 0.1),
    "deit_s16_distilled": ({"mixup(0.8)", "cutmix(1.0)"}, "softmax", 0.1, 0.1),
    "vit_s16_deit3": ({"mixup(0.8)", "cutmix(1.0)"}, "bce", 0.0, 0.05),
    "vit_s16_augreg": ({"mixup(0.2)"}, "softmax", 0.0, 0.0),
    "coatnet0_imagenet": ({"mixup(0.8)"}, "softmax", 0.1, 0.2),
}


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_published_recipe_regularizes_as_the_paper(name):
    config = recipes.get(name)()
    mixes, loss, smoothing, depth = REGULARISERS[name]
    assert {entry for entry in config.data.augment if "mix" in entry} == mixes
    assert (config.train.loss, config.train.label_smoothing) == (loss, smoothing)
    assert config.model.options.get("drop_path", 0.0) == depth


@pytest.mark.parametrize("name", ["resnet50_imagenet_study", "cnn_imagenet_study"])
def test_the_study_divides_its_rate_every_thirty_epochs(name):
    optim = recipes.get(name)().optim
    schedule = schedule_of(optim, 1000, global_batch=128)
    found = [float(schedule(step)) for step in (0, 299, 300, 599, 600, 899, 900, 999)]
    by_hand = [rate for rate in (1e-2, 1e-3, 1e-4, 1e-5) for _ in range(2)]
    assert found == pytest.approx(by_hand, rel=1e-5)
    # And another batch has the rate that belongs to it.
    assert float(schedule_of(optim, 1000, global_batch=512)(0)) == pytest.approx(0.04)


def test_the_transformer_of_the_study_warms_up_and_follows_a_cosine():
    optim = recipes.get("vit_b16_imagenet_study")().optim
    schedule = schedule_of(optim, 110_000)
    by_hand = [5e-4 / 10_000, 2.5e-4, 5e-4, 2.5e-4, 0.0]
    found = [float(schedule(step)) for step in (0, 4_999, 9_999, 60_000, 110_000)]
    assert found == pytest.approx(by_hand, abs=1e-9)
    assert recipes.get("vit_b16_imagenet_study")().data.image_size == (224, 224)
    augment = " ".join(recipes.get("vit_b16_imagenet_study")().data.augment)
    assert all(word in augment for word in ("crop", "flip", "rotate"))


def test_the_distilled_vit_differs_from_the_plain_one_in_the_teacher_alone():
    plain, taught = recipes.get("cifar10_vit")(), recipes.get("cifar10_vit_distilled")()
    assert taught.distill != plain.distill
    assert replace(taught, name=plain.name, distill=plain.distill) == plain
    deit = recipes.get("cifar10_deit")()
    shared = ("patch", "width", "depth", "heads", "mlp")
    assert all(deit.model.options[key] == plain.model.options[key] for key in shared)


def test_schedules_end_where_the_papers_end():
    ends = {"deit_s16_distilled": 0.01, "vit_s16_deit3": 0.0025, "coatnet0_imagenet": 0.01}
    for name, last in ends.items():
        optim = recipes.get(name)().optim
        total = 100 * optim.warmup_steps
        assert float(schedule_of(optim, total)(total)) == pytest.approx(last * optim.learning_rate)
    assert math.isclose(recipes.get("resnet50_imagenet")().optim.step_fractions[-1], 80 / 90)
