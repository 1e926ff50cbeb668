import io

import numpy as np
import pytest
from PIL import Image

from tfx_pipeline.cli.views.contact_sheet import contact_sheet
from trainers.data.features import DatasetError


def png(color):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), color).save(buffer, "PNG")
    return buffer.getvalue()


def colors(path):
    """The colors of the sheet that fill more than an image's text could."""
    with Image.open(path) as sheet:
        counted = sheet.convert("RGB").getcolors(1 << 20)
    return {color for count, color in counted if count > 5000}


@pytest.fixture
def colored(tmp_path, write_dataset):
    """Twenty images of one color each, the last one torn."""
    records = [
        {"image/encoded": png((10 * i, 0, 200)), "image/class/label": i % 2} for i in range(20)
    ]
    records[19]["image/encoded"] = records[19]["image/encoded"][:50]
    return write_dataset(tmp_path / "data", {"test": records}, classes=("cat", "dog"))


def shown(colored, tmp_path, **options):
    out = contact_sheet(colored, out=tmp_path / "sheets" / "sheet.png", **options)
    return {red // 10 for red, green, blue in colors(out) if (green, blue) == (0, 200)}


def test_the_number_of_images_and_another_choice_with_another_seed(colored, tmp_path):
    first = shown(colored, tmp_path, count=6, seed=1)
    assert len(first - {19}) >= 5
    assert shown(colored, tmp_path, count=6, seed=1) == first
    assert shown(colored, tmp_path, count=6, seed=2) != first


def test_a_small_split_is_shown_whole_with_the_error_of_a_damaged_image(colored, tmp_path):
    assert shown(colored, tmp_path, count=50) == set(range(19))
    assert (236, 239, 243) in colors(tmp_path / "sheets" / "sheet.png")


@pytest.mark.parametrize("count", [0, 401])
def test_a_count_out_of_range_is_an_error(colored, tmp_path, count):
    with pytest.raises(ValueError, match="in 1"):
        contact_sheet(colored, count=count, out=tmp_path / "sheet.png")


def test_the_error_names_a_missing_split(colored, tmp_path):
    with pytest.raises(DatasetError, match="it has test"):
        contact_sheet(colored, split="train", out=tmp_path / "sheet.png")


def test_a_truncated_shard_is_an_error(colored, tmp_path):
    shard = next(colored.glob("Split-test/*"))
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(DatasetError, match="sightline validate"):
        contact_sheet(colored, count=20, out=tmp_path / "sheet.png")


@pytest.mark.shared_data
def test_detection_shows_boxes_and_masks(tmp_path, write_dataset, coco_records):
    records, classes = coco_records
    facts = {"classes": classes, "task": "detection", "label_offset": 1}
    bare = [{**r, "image/object/class/label": [], "image/object/mask": []} for r in records[:4]]
    for one in bare:
        one |= {key: [] for key in one if "bbox" in key}
    pixels = []
    for name, some in (("full", records[:4]), ("bare", bare)):
        folder = write_dataset(tmp_path / name, {"test": some}, **facts)
        out = contact_sheet(folder, count=4, out=tmp_path / f"{name}.png")
        with Image.open(out) as sheet:
            pixels.append(np.asarray(sheet.convert("RGB")).astype(int))
    full, bare_pixels = pixels
    assert full.shape == bare_pixels.shape
    changed = (np.abs(full - bare_pixels).max(axis=2) > 8).mean()
    assert 0.05 < changed < 0.7
