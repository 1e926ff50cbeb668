"""Complete jobs, whose records are read by the input pipeline."""

import hashlib
import io
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from tfx_pipeline.ingest import IngestError, ingest
from trainers.config import Config, DataConfig, TrainConfig
from trainers.data import features
from trainers.data.features import DatasetInfo
from trainers.data.pipeline import eval_batches, train_batches
from trainers.data.records_check import validate_records


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("ingest") / "digits"
    return out, ingest("digits", out)


def test_digits_are_all_there_with_imagenet_labels(digits, records):
    out, info = digits
    found = records(out)
    target = load_digits().target
    assert {name: label for name, (_, label, _, _) in found.items()} == {
        f"{index:04d}.png": digit + 1 for index, digit in enumerate(target)
    }
    assert info.label_offset == 1
    assert info.rejected == 0
    assert DatasetInfo.load(out) == info
    assert info.splits["test"].examples >= 350
    shares = {split: one.examples / 1797 for split, one in info.splits.items()}
    assert shares == pytest.approx({"train": 0.6, "validation": 0.2, "test": 0.2}, abs=0.03)
    for split, one in info.splits.items():
        assert sum(one.per_class.values()) == one.examples
        assert validate_records(out, split, info) == []


def test_the_files_are_in_tfx_layout(digits, files):
    assert set(files(digits[0])) == {"dataset.json", "ingest_report.json"} | {
        f"Split-{split}/data_tfrecord-0000{shard}-of-00002"
        for split in features.SPLITS
        for shard in range(2)
    }


def test_records_are_in_order_of_their_id_and_ids_are_the_content(digits):
    for raw_file in sorted(digits[0].rglob("data_tfrecord*")):
        ids = []
        for raw in tf.data.TFRecordDataset(str(raw_file)).as_numpy_iterator():
            feature = tf.train.Example.FromString(raw).features.feature
            ids.append(feature[features.ID].bytes_list.value[0])
            data = feature[features.IMAGE].bytes_list.value[0]
            assert hashlib.sha256(data).hexdigest().encode() == ids[-1]
        assert ids == sorted(ids)


def test_training_input_reads_what_ingest_wrote(digits):
    out, info = digits
    config = Config(
        name="t",
        data=DataConfig(dir=str(out), image_size=(8, 8), crop_fraction=1.0),
        train=TrainConfig(global_batch=64),
    )
    scans = load_digits()
    known = {
        np.round(image * (255 / 16)).astype(np.uint8).tobytes(): digit
        for image, digit in zip(scans.images, scans.target, strict=True)
    }
    seen = 0
    for images, labels in train_batches(config, info, epoch=0):
        for image, label in zip(images.numpy(), labels.numpy(), strict=True):
            assert known[image[..., 0].tobytes()] == label
            seen += 1
    assert seen == info.splits["train"].examples // 64 * 64
    total = sum(float(tf.reduce_sum(b.mask)) for b in eval_batches(config, info, "test"))
    assert total == info.splits["test"].examples


def test_fractions_shards_and_name_are_options_and_the_same_input_gives_the_same_bytes(
    tmp_path, pets, files
):
    pets(tmp_path / "pets", 300)
    options = {"name": "scans", "fractions": (0.8, 0.1, 0.1), "shards": 3}
    info = ingest("folder", tmp_path / "d", where=tmp_path / "pets", **options)
    assert info.name == "scans"
    assert info.splits["train"].examples / 300 == pytest.approx(0.8, abs=0.07)
    assert len(list((tmp_path / "d" / "Split-test").iterdir())) == 3
    assert ingest("folder", tmp_path / "again", where=tmp_path / "pets", **options) == info
    assert files(tmp_path / "again") == files(tmp_path / "d")


def test_bad_and_repeated_files_are_named_and_nothing_is_lost(
    tmp_path, pets, noise, rejected, records
):
    root = tmp_path / "pets"
    pets(root, 30)
    shutil.copy(root / "cat" / "01.png", root / "cat" / "again.png")
    shutil.copy(root / "cat" / "03.png", root / "dog" / "a cat.png")
    (root / "dog" / "empty.jpg").touch()
    (root / "dog" / "notes.txt").write_text("hello")
    (root / "cat" / "half.png").write_bytes((root / "cat" / "05.png").read_bytes()[:200])
    os.mkfifo(root / "cat" / "pipe")
    noise(root / "cat" / "really a jpeg.png", 99, "JPEG")
    info = ingest("folder", tmp_path / "out", where=root, shards=2)
    refused = rejected(tmp_path / "out")
    assert set(refused) == {
        "cat/again.png",
        "cat/03.png",
        "dog/a cat.png",
        "dog/empty.jpg",
        "dog/notes.txt",
        "cat/half.png",
        "cat/pipe",
    }
    assert refused["cat/again.png"] == "duplicate: of cat/01.png"
    assert refused["cat/03.png"].startswith("conflict: one image with labels cat and dog")
    assert "empty" in refused["dog/empty.jpg"]
    assert "not an image" in refused["dog/notes.txt"]
    assert "damaged PNG" in refused["cat/half.png"]
    assert info.rejected == 7
    found = records(tmp_path / "out")
    assert len(found) == 30 - 1 + 1
    assert info.classes == ("cat", "dog")
    assert all(
        label == (1 if name.startswith("cat") else 2) for name, (_, label, _, _) in found.items()
    )


def test_a_copy_of_a_test_image_is_not_trained_on(tmp_path, noise, rejected, records):
    root = tmp_path / "pets"
    for seed in range(40):
        noise(root / "train" / ("cat" if seed % 2 else "dog") / f"{seed}.png", seed)
    for split, seed in (("test", 100), ("val", 200)):
        noise(root / split / "cat" / "1.png", seed)
        noise(root / split / "dog" / "2.png", seed + 1)
    shutil.copy(root / "test" / "cat" / "1.png", root / "train" / "cat" / "leak.png")
    ingest("folder", tmp_path / "out", where=root)
    assert rejected(tmp_path / "out") == {"train/cat/leak.png": "duplicate: of test/cat/1.png"}
    for name, (split, *_) in records(tmp_path / "out").items():
        assert split == {"train": "train", "val": "validation", "test": "test"}[name.split("/")[0]]


def test_a_class_or_split_without_images_is_refused_and_nothing_is_written(tmp_path, noise):
    root = tmp_path / "pets"
    for seed in range(30):
        noise(root / "dog" / f"{seed}.png", seed)
    (root / "cat").mkdir()
    (root / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(IngestError, match=r"no training image of class cat .*broken\.jpg"):
        ingest("folder", tmp_path / "out", where=root)
    assert not (tmp_path / "out").exists()


@pytest.mark.shared_data
def test_traffic_signs_as_ppm_are_transcoded_losslessly(extract, tmp_path, records):
    root = extract("gtsrb_A")
    info = ingest("folder", tmp_path / "out", where=root / "images")
    assert info.classes == tuple(str(number) for number in range(43))
    assert info.rejected == 0
    found = records(tmp_path / "out")
    assert len(found) == 430
    for name, (_, label, _, data) in found.items():
        assert label == int(name.split("/")[0]) + 1
        original = np.asarray(Image.open(root / "images" / name))
        np.testing.assert_array_equal(tf.io.decode_image(data, channels=3), original)


@pytest.mark.shared_data
def test_cats_and_dogs_keep_their_test_split_and_gain_validation(extract, tmp_path, records):
    root = extract("cats_dogs_A")
    for extra in ("NOTICE.txt", "labels.csv"):
        assert (root / extra).is_file()
    info = ingest("folder", tmp_path / "out", where=root)
    assert info.splits["test"].per_class == {"cats": 25, "dogs": 25}
    assert info.splits["train"].examples + info.splits["validation"].examples == 180
    assert 25 <= info.splits["validation"].examples <= 65
    for name, (split, _, _, data) in records(tmp_path / "out").items():
        assert data == (root / name).read_bytes()
        assert (split == "test") == name.startswith("test/")


def test_a_source_within_the_output_is_refused(tmp_path, pets, files):
    root = tmp_path / "pets"
    pets(root, 40)
    with pytest.raises(IngestError, match="is inside"):
        ingest("folder", tmp_path, where=root)
    out = tmp_path / "out"
    ingest("folder", out, where=root, shards=1)
    before = files(out)
    for where, target in ((out, out), (out, out / "more"), (out / "Split-train", out)):
        with pytest.raises(IngestError, match="are inside each other"):
            ingest("tfrecord", target, where=where)
    assert files(out) == before


def test_names_that_are_not_utf8_are_written_out(tmp_path, pets, rejected):
    root = tmp_path / "pets"
    pets(root, 40)
    first = os.fsencode(root / "cat") + b"/0 caf\xe9.png"
    shutil.copy(root / "cat" / "01.png", os.fsdecode(first))
    ingest("folder", tmp_path / "out", where=root)
    assert rejected(tmp_path / "out") == {"cat/01.png": "duplicate: of cat/0 caf\\udce9.png"}
    os.rename(root / "cat", os.fsdecode(os.fsencode(root) + b"/ch\xe4t"))
    with pytest.raises(IngestError, match=r"class name .* is not UTF-8; rename its folder"):
        ingest("folder", tmp_path / "again", where=root)


@pytest.mark.shared_data
def test_turned_images_are_kept_or_made_upright_by_policy(extract, tmp_path, records):
    source = extract("odd_images_A") / "exif-orientation"
    for number in range(1, 9):
        target = tmp_path / "views" / ("odd" if number % 2 else "even") / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source / f"Landscape_{number}.jpg") as opened:
            opened.reduce(8).save(target, quality=95, exif=opened.getexif())
    settings = {"where": tmp_path / "views", "split": "test", "shards": 1}
    ingest("folder", tmp_path / "stored", **settings)
    ingest("folder", tmp_path / "upright", exif="upright", **settings)
    found = json.loads((tmp_path / "stored" / features.REPORT_FILE).read_text())["counts"]
    assert found["note"]["exif_kept"] == 7
    found = json.loads((tmp_path / "upright" / features.REPORT_FILE).read_text())["counts"]
    assert found["repair"]["exif_applied"] == 7
    upright = {
        name: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        for name, (*_, data) in records(tmp_path / "upright").items()
    }
    first = upright["odd/1.jpg"]
    assert first.shape[1] > first.shape[0]
    for pixels in upright.values():
        # Eight JPEGs of one scene, compressed each in its own orientation.
        assert np.abs(pixels - first).mean() < 6


@pytest.mark.slow
@pytest.mark.shared_data
def test_every_odd_file_becomes_a_record_or_a_named_rejection(extract, tmp_path, rejected, records):
    source = extract("odd_images_A")
    names = set()
    for index, path in enumerate(sorted(p for p in source.rglob("*") if p.is_file())):
        if path.parent == source:
            continue
        name = str(path.relative_to(source)).replace("/", "__")
        target = tmp_path / "classes" / ("even" if index % 2 else "odd") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        names.add(f"{target.parent.name}/{name}")
    assert len(names) == 773
    info = ingest("folder", tmp_path / "out", where=tmp_path / "classes")
    kept, refused = set(records(tmp_path / "out")), rejected(tmp_path / "out")
    assert kept | set(refused) == names
    assert not kept & set(refused)
    assert len(kept) > 590
    assert all(refused.values())
    for split in features.SPLITS:
        assert validate_records(tmp_path / "out", split, info) == []
