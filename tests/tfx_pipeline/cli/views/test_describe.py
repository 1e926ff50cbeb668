"""The costs of a model name, a recipe, a trained folder, and a bundle."""

import io
import json

import pytest
from rich.console import Console

from core import bundle as bundles
from tfx_pipeline.cli.views.describe import describe, parts, view, zoo, zoo_table
from trainers.config import Config, ConfigError, DataConfig, ModelConfig, to_dict
from trainers.data.features import DatasetInfo
from trainers.registry import UnknownNameError, recipes


def text(shown):
    console = Console(width=130, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text()


@pytest.fixture(scope="module")
def small_vit():
    return describe("vit", ["width=24", "depth=3", "heads=3"], size=32, classes=5)


def test_totals_are_the_sums_of_the_layers(small_vit):
    assert json.loads(json.dumps(small_vit)) == small_vit
    layers = small_vit["layers"]
    for key in ("parameters", "trainable_parameters", "multiply_adds"):
        assert small_vit[key] == sum(layer[key] for layer in layers)
    assert small_vit["flops"] == 2 * small_vit["multiply_adds"]
    assert small_vit["weights_bytes"] == 4 * small_vit["parameters"]
    total = sum(layer["activation_bytes"] for layer in layers)
    assert small_vit["activations"]["total"] == total
    assert small_vit["profile"]["ratio"] == 1.0


def test_equal_blocks_are_one_part(small_vit):
    found = parts(small_vit["layers"])
    assert [part.name for part in found] == ["stem", "block1-3", "head"]
    for key in ("parameters", "multiply_adds", "activation_bytes"):
        assert sum(getattr(part, key) for part in found) == sum(
            layer[key] for layer in small_vit["layers"]
        )
    assert sum(part.layers for part in found) == len(small_vit["layers"])


def test_the_view_has_both_formulas(small_vit):
    shown = text(view(small_vit))
    assert len(shown.splitlines()) < 24
    assert "vit width=24 depth=3 heads=3 (model), 32 x 32 px, 5 classes" in shown
    assert "2 kh kw Cin Cout Hout Wout" in shown
    assert f"4 N^2 d FLOP each, {3 * 4 * 65**2 * 24 / 1e6:.3f} MFLOP in all" in shown
    assert "1.000 of ours" in shown
    assert "misses nothing" in shown
    every = text(view(small_vit, layers="all"))
    assert "block2_query" in every
    with pytest.raises(ValueError, match="parts or all, got 'some'"):
        view(small_vit, layers="some")


def test_without_named_stages_parts_are_map_sizes():
    found = describe("keras_mobilenet_v2", size=64, classes=5, profile=False)
    names = [part.name for part in parts(found["layers"])]
    assert names == ["64 x 64", "32 x 32", "16 x 16", "8 x 8", "4 x 4", "2 x 2", "head"]


def test_a_recipe_has_its_size_and_options():
    found = describe("digits_cnn", ["width=8", "data.image_size=[32, 32]"], profile=False)
    assert (found["image_size"], found["options"]["width"]) == ([32, 32], 8)
    assert found["what"] == "recipe digits_cnn"
    with pytest.raises(ConfigError, match="no option 'widht'; did you mean width"):
        describe("cnn", ["widht=8"], profile=False)


def test_a_recipe_has_the_classes_of_its_data_set(tmp_path, monkeypatch):
    # CIFAR-10 has ten classes, whether or not its records are at hand; records there decide.
    monkeypatch.chdir(tmp_path)
    assert describe("cifar10_resnet20", profile=False)["classes"] == 10
    (tmp_path / "data" / "digits").mkdir(parents=True)
    info = DatasetInfo("made", "classification", ("a", "b", "c"), 0, {}, fingerprint="0")
    (tmp_path / "data" / "digits" / "dataset.json").write_text(info.to_json())
    assert describe("digits_cnn", profile=False)["classes"] == 3
    assert describe("digits_cnn", classes=7, profile=False)["classes"] == 7


def test_a_recipe_for_any_data_states_the_classes_that_it_assumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["model.name=resnet8", "data.image_size=32,32"]
    found = describe("finetune", small, profile=False)
    assert found["classes"] == 1000
    folder = recipes.get("finetune")().data.dir
    assert f"1,000 classes assumed: no records in {folder}" in found["what"]
    assert "1,000 classes assumed" in text(view(found))
    info = DatasetInfo("made", "classification", ("a", "b", "c"), 0, {}, fingerprint="0")
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "dataset.json").write_text(info.to_json())
    found = describe("finetune", [*small, f"data.dir={tmp_path / 'pets'}"], profile=False)
    assert (found["classes"], found["what"]) == (3, "recipe finetune")
    assert "assumed" not in describe("finetune", small, classes=7, profile=False)["what"]


def test_a_trained_folder_is_described_without_its_weights(tmp_path):
    config = Config(
        name="tiny",
        data=DataConfig(image_size=(16, 16)),
        model=ModelConfig("cnn", options={"width": 8}),
    )
    info = DatasetInfo("made", "classification", ("a", "b", "c"), 0, {}, fingerprint="0")
    (tmp_path / "trained.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    (tmp_path / "dataset.json").write_text(info.to_json())
    found = describe(str(tmp_path), profile=False)
    assert (found["classes"], found["image_size"], found["model"]) == (3, [16, 16], "cnn")
    assert found["what"] == f"trained in {tmp_path}"


def test_a_bundle_is_described_by_its_manifest(tmp_path):
    config = Config(
        name="tiny",
        data=DataConfig(image_size=(16, 16)),
        model=ModelConfig("cnn", options={"width": 8}),
    )
    manifest = bundles.Manifest(
        name="tiny",
        task="classification",
        num_classes=3,
        input={"height": 16, "width": 16, "crop_fraction": 1.0},
        top_k=1,
        variants=(bundles.Variant("none_fp32", "none", "fp32", size_bytes=1, gzip_bytes=1),),
        recommended="none_fp32",
        config=to_dict(config),
    )
    version = tmp_path / "tiny" / "7"
    (version / bundles.LABELS_FILE).parent.mkdir(parents=True)
    (version / bundles.LABELS_FILE).write_text("a\nb\nc\n")
    (version / bundles.SAVED_MODEL_FILE).write_bytes(b"")
    (version / bundles.MANIFEST_FILE).write_text(manifest.to_json())
    for folder in (version, version.parent):
        found = describe(str(folder), profile=False)
        assert (found["classes"], found["image_size"], found["model"]) == (3, [16, 16], "cnn")
        assert found["what"] == f"bundle {version}"


def test_published_figures_only_where_they_apply():
    found = describe("resnet18", profile=False)
    assert found["published"]["parameters"] == 11.689512
    assert "published" in text(view(found))
    assert describe("resnet18", classes=10, profile=False)["published"] is None
    assert describe("resnet18", size=64, profile=False)["published"] is None


def test_the_table_of_the_zoo():
    shown = text(zoo_table(zoo("^resnet18$")))
    row = next(line for line in shown.splitlines() if line.startswith("resnet18"))
    assert row.split()[:6] == ["resnet18", "224", "11.69", "11.69", "1.81", "1.81"]
    with pytest.raises(UnknownNameError, match="no published model matches 'resnt'"):
        list(zoo("resnt"))


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no model, recipe, .*did you mean .*resnet50"):
        describe("resnet5O")


def test_a_project_folder_named_as_its_recipe_is_not_a_bundle(tmp_path, monkeypatch):
    (tmp_path / "digits_cnn").mkdir()
    (tmp_path / "digits_cnn" / "pipeline.py").write_text("")
    monkeypatch.chdir(tmp_path)
    found = describe("digits_cnn", profile=False)
    assert (found["model"], found["what"]) == ("cnn", "recipe digits_cnn")
