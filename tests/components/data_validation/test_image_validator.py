import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from components.artifacts import ImageReport
from components.data_validation.anomaly import ValidatorSettings
from components.data_validation.drawing import PALETTE, draw_record
from components.data_validation.gallery import read_gallery, thumbnail_file, write_gallery
from components.data_validation.image_anomalies import find_anomalies
from components.data_validation.image_validator import DataGate, DataRefusedError, ImageValidator
from components.gates.significance_gate import image_gate
from trainers.config import ConfigError
from trainers.data.features import DatasetInfo


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def record(seed, label, encoded=None):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    encoded = encoded or png(pixels)
    return {
        "image/encoded": encoded,
        "image/filename": f"{seed}.png",
        "image/class/label": label,
        "image/key/sha256": hashlib.sha256(encoded).hexdigest(),
    }


@pytest.fixture
def leaky(tmp_path, write_dataset):
    """Two images of the training split again in the test split, and one that does not decode."""
    train = [record(0, 0), record(1, 1), record(2, 1)]
    torn = record(9, 0, png(np.zeros((40, 40, 3)))[:60])
    test = [train[0], train[1], record(3, 1), torn]
    return write_dataset(tmp_path / "leaky", {"train": train, "test": test}, classes=("cat", "dog"))


class _Examples:
    def __init__(self, uri):
        self.uri = str(uri)


def run(data, tmp_path, **settings):
    """The artifact that the ImageValidator writes."""
    made = ImageReport()
    made.uri = str(tmp_path / "report")
    ImageValidator.test_call(
        examples=_Examples(data), image_report=made, settings=json.dumps(settings), code_digest=""
    )
    return made


def gate(made, **settings):
    DataGate.test_call(image_report=made, settings=json.dumps(settings), code_digest="")


def test_the_validator_writes_the_list_and_thumbnails(leaky, tmp_path):
    made = run(leaky, tmp_path)
    found = read_gallery(tmp_path / "report")
    assert found == find_anomalies(leaky)
    assert found.counts == {"corrupt": 1, "leakage": 2}
    for one in found.of("leakage"):
        for location in (one.location, one.other):
            with Image.open(thumbnail_file(made.uri, location)) as thumbnail:
                assert thumbnail.size == (224, 168)
    assert not thumbnail_file(made.uri, found.of("corrupt")[0].location).exists()


def test_the_gallery_has_the_given_size(leaky, tmp_path):
    run(leaky, tmp_path, gallery=1)
    assert len(list((tmp_path / "report/thumbnails").iterdir())) == 2


def test_the_gate_stops_a_run_with_a_table_and_the_folder_of_the_images(leaky, tmp_path):
    made = run(leaky, tmp_path)
    with pytest.raises(DataRefusedError) as caught:
        gate(made)
    message = str(caught.value)
    assert "2 kinds of anomaly are over the limit" in message
    assert "leakage                  2  allowed    0  0.png (test 0): the same bytes" in message
    assert "9.png (test 3): damaged PNG" in message
    assert made.uri in message


def test_the_gate_passes_without_stop(leaky, tmp_path):
    gate(run(leaky, tmp_path, stop=False), stop=False)


def test_the_gate_passes_within_the_limits(leaky, tmp_path):
    limits = {"leakage": 2, "corrupt": None}
    made = run(leaky, tmp_path, limits=limits)
    gate(made)
    assert image_gate(made.uri).passed


def test_the_gate_of_a_model_lists_exceeded_limits(leaky, tmp_path):
    verdict = image_gate(run(leaky, tmp_path, stop=False, limits={"corrupt": 1}).uri)
    assert not verdict.passed
    assert (verdict.name, verdict.value) == ("data/images", 2)
    assert verdict.detail == "leakage 2, allowed 0"


def test_a_wrong_setting_stops_before_an_image_is_read(tmp_path):
    with pytest.raises(ConfigError, match="min_side"):
        run(tmp_path / "nowhere", tmp_path, min_sid=3)


def test_anomalies_of_an_earlier_version_are_read(leaky, tmp_path):
    run(leaky, tmp_path)
    file = tmp_path / "report" / "anomalies.json"
    found = read_gallery(tmp_path / "report")
    assert file.read_text().count('"location":') == len(found.anomalies) > 0
    file.write_text(file.read_text().replace('"location":', '"place":'))
    assert read_gallery(tmp_path / "report") == found


@pytest.mark.parametrize("damage", ["cut", "length"])
def test_a_shard_damaged_after_it_was_read_has_no_thumbnail(damage, leaky, tmp_path):
    found = find_anomalies(leaky)
    shards = {leaky / f"Split-{p.split}" / p.file for a in found.anomalies if (p := a.location)}
    assert shards
    for shard in shards:
        whole = shard.read_bytes()
        shard.write_bytes(whole[:5] if damage == "cut" else b"\xff" * 8 + whole[8:])
    write_gallery(leaky, found, tmp_path / "out", shown=3)
    assert read_gallery(tmp_path / "out") == found
    for one in (a.location for a in found.anomalies if a.location and a.location.offset == 0):
        assert not thumbnail_file(tmp_path / "out", one).exists()


def boxed(boxes, crowd=0, mask=None):
    black = np.zeros((50, 100, 3), np.uint8)
    sides = dict(zip(("ymin", "xmin", "ymax", "xmax"), zip(*boxes, strict=True), strict=True))
    made = {
        "image/encoded": png(black),
        **{f"image/object/bbox/{key}": [*map(float, side)] for key, side in sides.items()},
        "image/object/class/label": [1] * len(boxes),
        "image/object/is_crowd": [crowd] * len(boxes),
    }
    return made | ({} if mask is None else {"image/object/mask": [png(mask)]})


@pytest.fixture
def draw(tmp_path, write_dataset):
    """Pixels of one drawn detection record, twice as large as its 100 x 50 image."""
    from components.data_validation.image_anomalies import read_record

    def drawn(made, **options):
        folder = write_dataset(
            tmp_path / "boxes",
            {"train": [made]},
            classes=("cat",),
            task="detection",
            label_offset=1,
        )
        example = read_record(next(folder.glob("Split-train/*")), 0)
        return np.asarray(draw_record(example, DatasetInfo.load(folder), side=200, **options))

    return drawn


def same(pixel, color):
    return tuple(int(value) for value in pixel) == color


def test_a_box_is_drawn_where_it_is(draw):
    pixels = draw(boxed([(0.2, 0.25, 0.8, 0.75)]), names=False)
    assert pixels.shape == (100, 200, 3)
    colored = np.argwhere((pixels == PALETTE[1]).all(axis=2))
    # A border of two pixels, around the edges at 20, 50, 80 and 150.
    assert np.abs(colored.min(axis=0) - [20, 50]).max() <= 1
    assert np.abs(colored.max(axis=0) - [80, 150]).max() <= 1
    assert same(pixels[50, 100], (0, 0, 0))


def test_a_crowds_box_has_gaps(draw):
    pixels = draw(boxed([(0.2, 0.25, 0.8, 0.75)], crowd=1), names=False)
    top = (pixels[18:22] == PALETTE[1]).all(axis=2).any(axis=0)
    assert 0.3 < top[50:149].mean() < 0.8


def test_a_mask_is_blended_in_its_color(draw):
    mask = np.zeros((50, 100), np.uint8)
    mask[20:30, 40:60] = 1
    pixels = draw(boxed([(0.0, 0.0, 1.0, 1.0)], mask=mask), names=False)
    wanted = np.array(PALETTE[1]) * int(255 * 0.45) / 255
    assert np.abs(pixels[50, 100] - wanted).max() <= 1
    assert same(pixels[20, 100], (0, 0, 0))


def test_names_have_plates_that_do_not_cover_each_other(draw, tmp_path):
    boxes = [(0.4, 0.4, 0.6, 0.6)] * 50
    bare = (draw(boxed(boxes), names=False) == PALETTE[1]).all(axis=2).sum()
    shutil.rmtree(tmp_path / "boxes")
    named = (draw(boxed(boxes)) == PALETTE[1]).all(axis=2).sum()
    # Above, inside at the top, inside at the bottom and below: at most four plates of some 25 x 15.
    # A name that may cover others would always be above: one plate.
    assert bare + 2 * 18 * 11 < named < bare + 4 * 25 * 16


def test_a_record_with_bad_boxes_is_drawn_all_the_same(tmp_path, write_dataset):
    bad = boxed([(float("nan"), 0.9, 0.1, 0.2)], mask=np.zeros((3, 3), np.uint8))
    bad["image/object/mask"] = [b"no PNG"]
    folder = write_dataset(
        tmp_path / "bad", {"train": [bad]}, classes=("cat",), task="detection", label_offset=1
    )
    found = find_anomalies(folder, ValidatorSettings())
    write_gallery(folder, found, tmp_path / "out", shown=3)
    assert set(found.counts) == {"box_outside", "mask_invalid", "constant"}
    assert thumbnail_file(tmp_path / "out", found.anomalies[0].location).is_file()
