"""Initialization from a trained model: another size, other classes, another version."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from trainers.config import Config, DataConfig, ModelConfig
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.models import build_model
from trainers.training.trained import Trained, save_trained
from trainers.weights import WeightsError, initialize, looks_like

OPTIONS = {"patch": 4, "width": 16, "depth": 2, "heads": 2}
CLASSES = ("ant", "bee", "cat")
IMAGES = np.random.default_rng(3).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


def info_of(classes: tuple[str, ...]) -> DatasetInfo:
    """A data set of that many classes, as `dataset.json` describes it."""
    return DatasetInfo(
        "made", "classification", classes, 0, {"train": SplitInfo(1, 1, {})}, fingerprint="f"
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, model, config) of a small ViT with random weights."""
    config = Config(
        name="old",
        data=DataConfig(image_size=(16, 16)),
        model=ModelConfig("vit", options=OPTIONS),
    )
    model = build_model(config, len(CLASSES))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.3, w.shape) for w in model.get_weights()])
    row = {"epoch": 1, "loss": 1.0, "top1": 0.5, "val_loss": 1.0, "val_top1": 0.5}
    folder = tmp_path_factory.mktemp("trained") / "old"
    save_trained(Trained(model, config, info_of(CLASSES), [row], 1), folder)
    return folder, model, config


def data_folder(folder, classes):
    """A folder whose `dataset.json` has those classes; its path as text."""
    folder.mkdir()
    (folder / "dataset.json").write_text(info_of(classes).to_json())
    return str(folder)


def test_the_same_network_has_the_same_logits(saved):
    folder, model, config = saved
    new = build_model(config, 3)
    report = initialize(new, folder, config)
    np.testing.assert_array_equal(new(IMAGES), model(IMAGES))
    assert report.summary().endswith(f"{len(model.weights)} weights loaded, 0 random")
    assert "trained by Sightline as 'old'" in looks_like(folder)


def test_another_normalization_and_dropout_do_not_change_the_logits(saved):
    folder, model, config = saved
    data = replace(config.data, mean=(1.0, 2.0, 3.0), std=(40.0, 50.0, 60.0))
    other = replace(config, data=data, model=replace(config.model, dropout=0.5))
    new = build_model(other, 3)
    initialize(new, folder, other)
    np.testing.assert_allclose(new(IMAGES), model(IMAGES), atol=1e-4)


def test_positions_are_interpolated_and_the_class_token_keeps_its_own(saved):
    folder, model, config = saved
    larger = replace(config, data=replace(config.data, image_size=(32, 16)))
    new = build_model(larger, 3)
    initialize(new, folder, larger)
    old_table, table = (m.get_layer("positions").table.numpy()[0] for m in (model, new))
    np.testing.assert_array_equal(table[0], old_table[0])
    grid, old_grid = table[1:].reshape(8, 4, 16), old_table[1:].reshape(4, 4, 16)
    # Keys' cubic (a = -0.5) half a source pixel apart: -9/128, 111/128, 29/128, -3/128 inside.
    wanted = np.einsum("k,kwd->wd", np.array([-3, 29, 111, -9]) / 128, old_grid)
    np.testing.assert_allclose(grid[4], wanted, atol=1e-5)


def test_classes_of_other_names_or_order_are_not_mistaken(saved, tmp_path):
    folder, model, config = saved
    sorted_otherwise = data_folder(tmp_path / "order", ("cat", "ant", "bee"))
    order = replace(config, data=replace(config.data, dir=sorted_otherwise))
    new = build_model(order, 3)
    initialize(new, folder, order)
    np.testing.assert_allclose(new(IMAGES), model(IMAGES).numpy()[:, [2, 0, 1]], atol=1e-6)
    strangers = data_folder(tmp_path / "names", ("ant", "bee", "dog"))
    other = replace(config, data=replace(config.data, dir=strangers))
    fresh = build_model(other, 3)
    before = fresh.get_layer("logits").kernel.numpy()
    report = initialize(fresh, folder, other)
    np.testing.assert_array_equal(fresh.get_layer("logits").kernel, before)
    assert any("no 'dog' in the file" in note for note in report.notes)


def test_a_part_of_the_classes_keeps_its_rows_of_the_classifier(saved, tmp_path):
    folder, model, config = saved
    two = data_folder(tmp_path / "two", ("cat", "ant"))
    part = replace(config, data=replace(config.data, dir=two))
    new = build_model(part, 2)
    report = initialize(new, folder, part)
    np.testing.assert_allclose(new(IMAGES), model(IMAGES).numpy()[:, [2, 0]], atol=1e-6)
    assert any("its classes are 2 of 3" in note for note in report.notes)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelConfig("resnet8"), "model.name is vit in the file and resnet8 here"),
        (
            ModelConfig("vit", options={**OPTIONS, "heads": 4}),
            "model.options.heads is 2 in the file and 4 here",
        ),
        (ModelConfig("vit", options={**OPTIONS, "depth": 3}), "block3_query/kernel 16x16"),
    ],
)
def test_another_network_names_the_field(saved, model, message):
    folder, _, config = saved
    other = replace(config, model=model)
    with pytest.raises(WeightsError, match=message):
        initialize(build_model(other, 3), folder, other)


def test_an_older_config_names_the_field(saved, tmp_path):
    _, _, config = saved
    shutil.copytree(saved[0], tmp_path / "older")
    file = tmp_path / "older" / "config.json"
    raw = json.loads(file.read_text())
    raw["optim"]["warm_up"] = 3
    file.write_text(json.dumps(raw))
    with pytest.raises(WeightsError, match=r"(?s)older/config\.json.*optim\.warm_up"):
        initialize(build_model(config, 3), tmp_path / "older", config)
    with pytest.raises(WeightsError, match="sightline train"):
        initialize(build_model(config, 3), tmp_path, config)
