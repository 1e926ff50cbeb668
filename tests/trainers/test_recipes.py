"""Every recipe that the registry finds: whole, in range, and buildable."""

import inspect

import numpy as np
import pytest

from trainers.config import from_dict, to_dict, validate
from trainers.data.augment import split_names
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.keras import keras
from trainers.optim import build_optimizer
from trainers.registry import compressors, recipes, tasks

NAMES = recipes.names()


@pytest.fixture(params=NAMES)
def recipe(request):
    """The configuration of each recipe."""
    return recipes.get(request.param)()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_how_it_is_run_and_is_its_bundles_name(name):
    assert f"sightline train {name}" in inspect.getdoc(recipes.get(name))
    assert recipes.get(name)().name == name


def test_a_recipe_is_in_range_and_survives_a_file(recipe):
    assert validate(recipe) is recipe
    assert from_dict(to_dict(recipe)) == recipe
    split_names(recipe.data.augment)


def test_a_recipe_builds_and_takes_a_batch(recipe):
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
    optimizer = build_optimizer(recipe.optim, 1000)
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    optimizer.build(model.trainable_variables)


def test_the_three_architectures_of_the_smoke_pipeline_are_there():
    assert {"digits_cnn", "digits_resnet", "digits_vit"} <= set(NAMES)
    assert {"none", "ptq", "prune", "qat"} <= set(compressors.names())
