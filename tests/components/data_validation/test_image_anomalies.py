import hashlib
import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from components.data_validation.anomaly import (
    KINDS,
    ImageAnomalies,
    ValidatorSettings,
    blocking,
    blocking_table,
    make_settings,
)
from components.data_validation.image_anomalies import find_anomalies, read_record
from trainers.config import ConfigError
from trainers.data.features import DatasetError

BOX = "image/object/bbox/"


def photo(seed, size=(48, 64)):
    """Smooth random colors, which JPEG keeps well, of (height, width) `size`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


def encode(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def record(seed, label=0, **changed):
    encoded = encode(photo(seed))
    return {
        "image/encoded": encoded,
        "image/format": "JPEG",
        "image/filename": f"{seed}.jpg",
        "image/height": 48,
        "image/width": 64,
        "image/class/label": label,
        "image/key/sha256": hashlib.sha256(encoded).hexdigest(),
        **{f"image/{key}": value for key, value in changed.items()},
    }


def swapped(seed, encoded, label=0, **changed):
    """A record whose image and digest are others."""
    size = {} if "height" in changed else {"height": 48, "width": 64}
    digest = hashlib.sha256(encoded).hexdigest()
    return record(seed, label, encoded=encoded, **{"key/sha256": digest, **size, **changed})


def both(first=0):
    """A good record of each of two classes."""
    return [record(first, 0), record(first + 1, 1)]


@pytest.fixture
def find(tmp_path, write_dataset):
    def run(splits, classes=("cat", "dog"), settings=None, **facts):
        folder = write_dataset(tmp_path / "data", splits, classes=classes, **facts)
        return find_anomalies(folder, settings)

    return run


def only(anomalies, kind):
    """The one anomaly, of `kind`."""
    assert anomalies.counts == {kind: 1}
    (found,) = anomalies.anomalies
    assert found.kind == kind
    return found


def test_good_records_have_no_anomaly(find):
    found = find({"train": both(), "test": both(10)})
    assert found.counts == {}
    assert found.anomalies == ()
    assert found.records == {"train": 2, "test": 2}
    assert blocking(found) == {}


def test_a_damaged_image_is_named_by_file_and_index(find):
    whole = encode(photo(5, (400, 400)), quality=95)
    torn = swapped(5, whole[: len(whole) // 3], height=400, width=400)
    found = only(find({"train": [*both(), torn]}), "corrupt")
    assert found.severity == "error"
    assert found.location.file == "data_tfrecord-00000-of-00001"
    assert (found.location.split, found.location.index, found.location.filename) == (
        "train",
        2,
        "5.jpg",
    )
    assert "damaged JPEG" in found.detail
    assert "crop window" in found.detail


def bomb():
    """A PNG of 30,000 x 30,000 pixels by its header."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sIIBBBBB", 13, b"IHDR", 30000, 30000, 8, 2, 0, 0, 0
    )


@pytest.mark.parametrize(
    ("kind", "made", "word"),
    [
        ("corrupt", lambda: swapped(5, b""), "0 bytes"),
        ("corrupt", lambda: swapped(5, b"\xff\xd8\xff\xe0"), "broken"),
        ("format_refused", lambda: swapped(5, encode(photo(5), "WEBP")), "WebP"),
        ("format_refused", lambda: swapped(5, b"<html>" * 9), "text"),
        ("pixel_budget", lambda: swapped(5, bomb()), "900,000,000"),
        ("format_mismatch", lambda: record(5, format="PNG"), "stated PNG, actual JPEG"),
        ("identity_mismatch", lambda: record(5, **{"key/sha256": "0" * 64}), "stated b'000"),
        ("size_mismatch", lambda: record(5, height=64), "is 64, the image has 48"),
        ("label_range", lambda: record(5, 2), "label 2, allowed is 0 to 1"),
        ("broken_record", lambda: b"no example at all", "17 bytes"),
        ("broken_record", lambda: {"image/class/label": 0}, "no 'image/encoded'"),
        ("broken_record", lambda: record(5, **{"class/label": [0, 1]}), "2 values"),
    ],
)
def test_one_bad_record_among_good_ones(find, kind, made, word):
    found = only(find({"train": [*both(), made()]}), kind)
    assert found.location.index == 2
    assert word in found.detail


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("tiny", photo(5, (7, 40))),
        ("extreme_aspect", photo(5, (20, 200))),
        ("constant", Image.new("RGB", (64, 48), (7, 9, 200))),
    ],
)
def test_odd_shapes_and_contents(find, kind, image):
    odd = swapped(5, encode(image, "PNG"), format="PNG", height=image.height, width=image.width)
    found = only(find({"train": [*both(), odd]}), kind)
    assert found.severity != "error"


def test_a_chequerboard_is_not_constant_though_its_averages_are(find):
    pixels = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    board = encode(Image.fromarray(pixels.astype(np.uint8)), "PNG")
    odd = swapped(5, board, format="PNG", height=64, width=64)
    assert find({"train": [*both(), odd]}).counts == {}


@pytest.mark.parametrize("stated", ["JPEG", "jpeg", "JPG", "jpg"])
def test_foreign_spellings_of_a_format_are_fine(find, stated):
    assert find({"train": [*both(), record(5, format=stated)]}).counts == {}


def test_a_foreign_record_with_nothing_but_image_and_label_is_fine(find):
    bare = {key: record(5)[key] for key in ("image/encoded", "image/class/label")}
    assert find({"train": [*both(), bare]}).counts == {}


def test_equal_bytes_within_and_across_splits(find):
    found = find({"train": [*both(), record(0)], "test": [*both(10), record(1, 1)]})
    assert found.counts == {"leakage": 1, "duplicate": 1}
    (leak,), (twin,) = found.of("leakage"), found.of("duplicate")
    assert (leak.location.split, leak.location.index) == ("test", 2)
    assert (leak.other.split, leak.other.index, leak.other.label) == ("train", 1, "dog")
    assert (twin.location.index, twin.other.index) == (2, 0)
    assert blocking(found) == {"leakage": (1, 0)}


def test_equal_bytes_are_found_though_the_stated_digest_differs(find):
    lying = record(0, **{"key/sha256": "f" * 64})
    assert set(find({"train": [*both(), lying]}).counts) == {"duplicate", "identity_mismatch"}


def test_equal_bytes_with_two_labels_are_a_conflict(find):
    found = find({"train": [*both(), record(0, 1)]})
    assert found.counts == {"label_conflict": 1, "duplicate": 1}
    assert "dog and cat" in found.of("label_conflict")[0].detail


def test_three_copies_are_two_anomalies(find):
    assert find({"train": [*both(), record(0), record(0)]}).counts == {"duplicate": 2}


def test_an_image_compressed_again_is_a_near_duplicate(find):
    again = swapped(0, encode(photo(0), quality=40), 1)
    found = find({"train": both(), "test": [*both(10), again]})
    assert found.counts == {"near_leakage": 1, "near_label_conflict": 1}
    (near,) = found.of("near_leakage")
    assert (near.location.split, near.other.split, near.other.index) == ("test", "train", 0)
    assert blocking(found) == {}


def test_classes_that_are_missing_or_rare(find):
    train = [record(i, 0) for i in range(5)] + [record(5, 1)]
    found = find(
        {"train": train, "test": [record(6, 0)]},
        ("cat", "dog", "eel"),
        ValidatorSettings(max_imbalance=4.9),
    )
    assert found.counts == {"class_absent": 3, "imbalance": 1}
    assert [one.detail for one in found.of("class_absent")] == [
        "no image of 'eel' in train",
        "no image of 'dog' in test",
        "no image of 'eel' in test",
    ]
    assert found.of("imbalance")[0].detail == "train has 5 images of 'cat' and 1 of 'dog', 5 to 1"


def test_a_truncated_shard_is_reported_and_the_rest_is_read(find, tmp_path, write_dataset):
    folder = write_dataset(
        tmp_path / "cut", {"train": both(), "test": both(10)}, classes=("cat", "dog")
    )
    shard = next(folder.glob("Split-train/*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    found = find_anomalies(folder)
    assert found.counts["broken_record"] == 1
    assert found.of("broken_record")[0].location.index == 1
    assert "train has 1 records, dataset.json states 2" in found.of("record_count")[0].detail
    assert found.records == {"train": 1, "test": 2}


def test_records_without_a_single_image_are_reported(find):
    found = find({"train": [b"nothing", {"image/class/label": 0}]})
    assert found.counts == {"broken_record": 2, "class_absent": 2}


def test_a_missing_shard_is_an_error(tmp_path, write_dataset):
    folder = write_dataset(tmp_path / "data", {"train": both()}, classes=("cat", "dog"))
    next(folder.glob("Split-train/*")).unlink()
    with pytest.raises(DatasetError, match="matches 0 files"):
        find_anomalies(folder)


def objects(boxes, labels=None, seed=0, **more):
    """A detection record with (ymin, xmin, ymax, xmax) boxes."""
    sides = zip(*boxes, strict=True) if boxes else [[], [], [], []]
    names = ("ymin", "xmin", "ymax", "xmax")
    made = record(seed)
    del made["image/class/label"]
    return {
        **made,
        **{BOX + name: list(map(float, side)) for name, side in zip(names, sides, strict=True)},
        "image/object/class/label": [1] * len(boxes) if labels is None else labels,
        **{f"image/object/{key}": value for key, value in more.items()},
    }


def mask_png(box, size=(48, 64)):
    mask = np.zeros(size, np.uint8)
    mask[box[0] : box[2], box[1] : box[3]] = 1
    return encode(Image.fromarray(mask), "PNG")


GOOD = (0.25, 0.25, 0.75, 0.75)


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("box_outside", objects([GOOD, (0.5, 0.5, 1.1, 0.9)])),
        ("box_outside", objects([GOOD, (-0.1, 0.5, 0.6, 0.9)])),
        ("box_outside", objects([GOOD, (float("nan"), 0.5, 0.6, 0.9)])),
        ("box_inverted", objects([GOOD, (0.5, 0.9, 0.6, 0.4)])),
        ("box_empty", objects([GOOD, (0.5, 0.4, 0.5, 0.9)])),
        ("label_range", objects([GOOD, GOOD], labels=[1, 3])),
        ("object_lists", objects([GOOD, GOOD], labels=[1])),
        ("object_lists", objects([GOOD, GOOD], is_crowd=[0])),
        ("object_lists", objects([GOOD, GOOD], mask=[mask_png((12, 16, 36, 48))])),
        ("mask_invalid", objects([GOOD], mask=[b"not a PNG"])),
        ("mask_size", objects([GOOD], mask=[mask_png((12, 16, 36, 48), size=(64, 48))])),
        ("mask_empty", objects([GOOD], mask=[mask_png((0, 0, 0, 0))])),
        ("mask_box", objects([GOOD], mask=[mask_png((12, 16, 36, 64))])),
    ],
)
def test_one_bad_object(find, kind, made):
    facts = {"task": "detection", "label_offset": 1}
    found = only(find({"train": [objects([GOOD], [2], 7), made]}, **facts), kind)
    assert found.location.index == 1


def test_good_objects_have_no_anomaly(find):
    made = [
        objects([GOOD, (0.0, 0.0, 1.000001, 1.0)], [1, 2], mask=[mask_png((12, 16, 36, 48))] * 2),
        objects([], seed=1),
    ]
    # The second mask is the first's, so it ends 16 px from its own box.
    found = find({"train": made}, task="detection", label_offset=1)
    assert found.counts == {"mask_box": 1}
    assert "16.0 px" in found.anomalies[0].detail


def test_pixel_labels_are_checked_too(find):
    key = "segmentation/class/encoded"
    made = [record(0), record(1, 1, **{key: mask_png((0, 0, 9, 9), size=(9, 9))})]
    assert "9 x 9" in only(find({"train": made}), "mask_size").detail


@pytest.mark.shared_data
def test_coco_is_clean_but_for_masks_a_little_off_their_boxes(
    tmp_path, write_dataset, coco_records
):
    records, classes = coco_records
    folder = write_dataset(
        tmp_path / "coco", {"train": records}, classes=classes, task="detection", label_offset=1
    )
    found = find_anomalies(folder)
    assert found.records == {"train": 80}
    assert blocking(found) == {}
    assert set(found.counts) <= {"class_absent", "imbalance"}
    # Its README counts 8 of all 1,520 that differ by more than 3 px, and none by more than 10.
    strict = find_anomalies(folder, ValidatorSettings(box_mask_px=3.0))
    assert 0 < strict.counts["mask_box"] <= 8


def test_json_round_trip(find):
    found = find({"train": [*both(), record(0, 1)], "test": [record(7, 5)]})
    assert {"label_conflict", "class_absent", "label_range"} <= set(found.counts)
    assert ImageAnomalies.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("raw", [{}, {"anomalies": [{}]}, {"anomalies": 3}])
def test_other_json_is_refused(raw):
    with pytest.raises(ValueError, match="not image anomalies"):
        ImageAnomalies.from_json(raw)


def test_limits(find):
    found = find(
        {"train": [*both(), record(0)]}, settings=make_settings({"limits": {"duplicate": 0}})
    )
    assert blocking(found) == {"duplicate": (1, 0)}
    assert blocking(found, ValidatorSettings()) == {}
    assert blocking(found, make_settings({"limits": {"duplicate": 1}})) == {}
    (line,) = blocking_table(found).splitlines()
    assert "duplicate" in line
    assert "0.jpg (train 2): the same bytes, as 0.jpg (train 0)" in line


def test_only_so_many_are_listed_and_all_counted(find):
    found = find({"train": [*both(), *[record(0)] * 5]}, settings=ValidatorSettings(listed=2))
    assert found.counts == {"duplicate": 5}
    assert len(found.anomalies) == 2


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ({"min_sides": 3}, "min_side"),
        ({"limits": {"leak": 1}}, "leakage"),
        ({"limits": {"leakage": -1}}, "0 allows none"),
        ({"near_bits": 16}, "0..15"),
    ],
)
def test_settings_that_make_no_sense_are_refused(raw, word):
    with pytest.raises(ConfigError, match=word):
        make_settings(raw)


def test_every_error_blocks_and_nothing_else(find):
    settings = ValidatorSettings()
    for kind, (severity, _) in KINDS.items():
        assert (settings.limit(kind) == 0) == (severity == "error")


def test_near_leakage_has_a_share_of_the_tested_images_for_its_limit():
    records = {"train": 1000, "validation": 60, "test": 40}
    assert ValidatorSettings().limit("near_leakage", records) == 5
    assert ValidatorSettings(max_near_leakage=0.2).limit("near_leakage", records) == 20
    assert ValidatorSettings(max_near_leakage=1.0).limit("near_leakage", records) is None
    assert ValidatorSettings(limits={"near_leakage": 7}).limit("near_leakage", records) == 7
    assert ValidatorSettings(limits={"near_leakage": None}).limit("near_leakage", records) is None
    # Of three images one is a third, and no reason to refuse the set.
    assert ValidatorSettings().limit("near_leakage", {"train": 9, "test": 3}) == 2
    with pytest.raises(ConfigError, match="max_near_leakage must be in"):
        make_settings({"max_near_leakage": 5})


def test_progress_is_reported_to_the_end(tmp_path, write_dataset):
    folder = write_dataset(tmp_path / "data", {"train": both()}, classes=("cat", "dog"))
    told = []
    find_anomalies(folder, report=lambda done, total: told.append((done, total)))
    assert told == [(2, 2)]


def test_a_record_is_read_again_by_its_offset(find, tmp_path):
    found = find({"train": [*both(), record(9, format="PNG")]})
    location = found.anomalies[0].location
    example = read_record(tmp_path / "data/Split-train" / location.file, location.offset)
    assert example.features.feature["image/filename"].bytes_list.value[0] == b"9.jpg"
