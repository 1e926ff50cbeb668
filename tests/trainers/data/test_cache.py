"""Caches: the same images in the same order, written atomically, rebuilt when stale."""

import os
import resource
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import override
from trainers.data import cache
from trainers.data.cache import is_cached
from trainers.data.decode import load_image
from trainers.data.pipeline import DataError, eval_batches, train_batches
from trainers.data.prepare import cached_size
from trainers.data.reader import raw_examples, usable


@pytest.fixture
def config(config, tmp_path):
    return override(config, ["data.cache=disk", f"data.cache_dir={tmp_path / 'cache'}"])


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """Each test starts without caches in memory, like a new process."""
    monkeypatch.setattr(cache, "_kept", {})


def epoch_of(config, info, epoch=0):
    return [(x.numpy(), y.numpy()) for x, y in train_batches(config, info, epoch=epoch)]


def forgetting(config, info):
    cache._kept.clear()
    return epoch_of(config, info)


def folder(tmp_path):
    [found] = [one for one in (tmp_path / "cache").iterdir() if one.is_dir()]
    return found


def test_every_cache_gives_the_same_epochs(config, digits):
    for epoch, augment in ((0, ""), (0, "shift"), (1, "shift")):
        config = override(config, [f"data.augment={augment}"])
        made = [
            epoch_of(override(config, [f"data.cache={kind}"]), digits[1], epoch)
            for kind in ("none", "memory", "disk", "auto")
        ]
        for other in made[1:]:
            for (images, labels), (others, other_labels) in zip(made[0], other, strict=True):
                np.testing.assert_array_equal(images, others)
                np.testing.assert_array_equal(labels, other_labels)


def test_each_kind_of_resize_has_a_separate_cache(config, digits, tmp_path):
    """Narrow images, so that every combination yields different pixels."""
    config = override(config, ["data.image_size=[3, 4]", "data.augment=", "data.cache=disk"])
    epochs = []
    for resize in ("antialias", "bilinear"):
        for fit in ("crop", "stretch"):
            changed = override(config, [f"data.resize={resize}", f"data.fit={fit}"])
            cached = forgetting(changed, digits[1])[0][0]
            streamed = override(changed, ["data.cache=none"])
            np.testing.assert_array_equal(cached, epoch_of(streamed, digits[1])[0][0])
            epochs.append(cached)
    assert len({one.tobytes() for one in epochs}) == 4
    assert len([one for one in (tmp_path / "cache").iterdir() if one.is_dir()]) == 4


def test_evaluation_from_disk_is_that_from_records(config, digits, tmp_path):
    plain = eval_batches(override(config, ["data.cache=none"]), digits[1], "test", batch=20)
    for batches in (1, 2):
        cache._kept.clear()
        stored = eval_batches(config, digits[1], "test", batch=20)
        for one, other in zip(plain, stored, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, one, other)
        assert folder(tmp_path).name.startswith("test-16x16-"), batches


def test_a_second_process_decodes_nothing(config, digits, tmp_path):
    first = epoch_of(config, digits[1])
    images = folder(tmp_path) / "images.npy"
    before = images.stat()
    assert np.load(images, mmap_mode="r").shape == (230, 16, 16, 3)
    assert np.load(images, mmap_mode="r").offset % 64 == 0  # TensorFlow would abort.
    again = forgetting(config, digits[1])
    assert images.stat().st_mtime_ns == before.st_mtime_ns
    np.testing.assert_array_equal(first[0][0], again[0][0])


@pytest.mark.parametrize(
    "damage", ["cut", "no manifest", "nonsense", "dataset", "code", "no facts"]
)
def test_stale_and_cut_caches_are_made_again(config, digits, tmp_path, damage):
    first = epoch_of(config, digits[1])
    where = folder(tmp_path)
    images, manifest = where / "images.npy", where / "cache.json"
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:-1])
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "nonsense":
        manifest.write_text("[1]")
    elif damage == "no facts":
        (where / "facts.npz").unlink()
    else:
        text = manifest.read_text()
        assert f'"{damage}": "' in text
        manifest.write_text(text.replace(f'"{damage}": "', f'"{damage}": "0'))
    data = bytearray(images.read_bytes())
    data[200:400] = bytes(200)
    images.write_bytes(data)
    again = forgetting(config, digits[1])
    for (images_a, labels_a), (images_b, labels_b) in zip(first, again, strict=True):
        np.testing.assert_array_equal(images_a, images_b)
        np.testing.assert_array_equal(labels_a, labels_b)
    assert len([one for one in where.parent.iterdir() if one.is_dir()]) == 1


def test_a_cache_of_other_code_is_made_again(config, digits, tmp_path, monkeypatch):
    first = epoch_of(config, digits[1])
    before = (folder(tmp_path) / "cache.json").read_text()
    forgetting(config, digits[1])
    assert (folder(tmp_path) / "cache.json").read_text() == before
    monkeypatch.setattr(cache, "code_digest", lambda *modules: "other")
    cache._code.cache_clear()
    again = forgetting(config, digits[1])
    cache._code.cache_clear()
    assert '"code": "other"' in (folder(tmp_path) / "cache.json").read_text()
    np.testing.assert_array_equal(first[0][0], again[0][0])


def test_changed_records_are_decoded_again(config, digits, tmp_path, writer):
    for level in (0, 90):
        cache._kept.clear()
        record = writer.serialized(writer.encode(np.full((8, 8), level, np.uint8)), 1)
        source = tmp_path / "changing"
        if source.exists():
            next(source.rglob("data_tfrecord*")).unlink()
            (source / "Split-train").rmdir()
        info = writer.write(source, {"train": [[record] * 4]})
        changed = override(config, [f"data.dir={source}", "train.global_batch=4"])
        [(images, _)] = epoch_of(changed, info)
        assert (images == level).all()
    assert folder(tmp_path).is_dir()  # The stale one is gone.


def test_a_full_disk_is_an_error_and_leaves_nothing(config, digits, tmp_path):
    """A limit on file sizes fails the write as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(
            DataError, match=r"needs 0 MiB and its disk is full; free some space, set"
        ):
            train_batches(config, digits[1], epoch=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [one for one in (tmp_path / "cache").iterdir() if one.is_dir()]


def test_an_unwritable_folder_is_an_error(config, digits, tmp_path):
    (tmp_path / "file").write_text("in the way")
    config = override(config, [f"data.cache_dir={tmp_path / 'file'}"])
    with pytest.raises(DataError, match=r"cannot be written .*data.cache_dir"):
        train_batches(config, digits[1], epoch=0)


def test_a_killed_writer_leaves_nothing_under_the_name(config, digits, tmp_path):
    """The process ends in the middle of the images, as if it had been killed."""
    script = f"""
        import os
        from pathlib import Path
        from trainers.config import from_dict
        from trainers.data import cache, pipeline
        from trainers.data.features import DatasetInfo
        chunks = cache._chunks
        def dying(what):
            for number, chunk in enumerate(chunks(what)):
                if number == 3:
                    os._exit(9)
                yield chunk
        cache._chunks = dying
        config = from_dict({{"name": "t", "data": {{
            "dir": {config.data.dir!r}, "image_size": [16, 16], "crop_fraction": 1.0,
            "resize": "antialias", "fit": "crop",
            "cache": "disk", "cache_dir": {config.data.cache_dir!r}}},
            "train": {{"global_batch": 32, "seed": 7}}}})
        pipeline.train_batches(config, DatasetInfo.load(Path(config.data.dir)), epoch=0)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        env=environment,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 9, done.stderr.decode()[-2000:]
    left = [one.name for one in (tmp_path / "cache").iterdir() if one.is_dir()]
    assert len(left) == 1
    assert left[0].endswith(".tmp")
    plain = epoch_of(override(config, ["data.cache=none"]), digits[1])
    np.testing.assert_array_equal(plain[3][0], epoch_of(config, digits[1])[3][0])
    assert folder(tmp_path).suffix == ""


def test_auto_keeps_what_fits_and_needs_no_crop(config, digits):
    config = override(config, ["data.cache=auto"])
    records = usable(config, digits[1], "train")
    assert is_cached(config, records, whole=False)
    assert not is_cached(config, records, whole=True)
    assert not is_cached(override(config, ["data.cache_mb=0"]), records, whole=False)
    for kind, kept in (("none", False), ("memory", True), ("disk", True)):
        forced = override(config, [f"data.cache={kind}", "data.cache_mb=0"])
        assert is_cached(forced, records, whole=True) is kept


def test_crops_of_cached_images_show_the_same_part_of_the_scene(config, tmp_path, writer):
    """A smooth image has about the same crop, whether cut before or after it was made smaller."""
    rows, columns = np.mgrid[0:90, 0:140]
    records = []
    for number in range(16):
        scene = np.stack([rows * 2, columns * 1.5, rows + columns * 0.5 + number], -1)
        records.append(writer.serialized(writer.encode(scene.astype(np.uint8)), 1))
    info = writer.write(tmp_path / "scenes", {"train": [records]})
    changes = [f"data.dir={tmp_path / 'scenes'}", "train.global_batch=16"]
    changes += ['data.augment=["random_resized_crop(area=(0.3, 1.0))","flip"]']
    config = override(config, [*changes, "data.image_size=[56,56]"])
    [(exact, _)] = epoch_of(override(config, ["data.cache=none"]), info)
    [(softer, _)] = epoch_of(config, info)
    assert cached_size(config.data, whole=True) == (64, 64)
    difference = np.abs(exact.astype(float) - softer)
    assert difference.mean() < 1.5  # A pixel of the cached image is 2.8 and 3.3 levels.
    assert difference.max() < 8
    assert np.ptp(exact[..., 1].reshape(16, -1).mean(1)) > 20  # Crops do differ.


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_bad_records_are_named_while_a_cache_is_made(config, digits, tmp_path, writer, kind):
    good = [next(raw_examples(config.data.dir, "train"))] * 9
    bad = writer.serialized(b"\x89PNG\r\n\x1a\nnot", 1)
    info = writer.write(tmp_path / "bad", {"train": [[*good, bad]]})
    changes = [f"data.dir={tmp_path / 'bad'}", "train.global_batch=5", f"data.cache={kind}"]
    with pytest.raises(DataError, match="record 9: the image cannot be decoded"):
        train_batches(override(config, changes), info, epoch=0)
    left = tmp_path / "cache"
    assert not left.exists() or not [one for one in left.iterdir() if one.is_dir()]


def test_the_image_of_a_cached_record_is_the_stored_one(config, digits, tmp_path):
    epoch_of(config, digits[1])
    stored = np.load(folder(tmp_path) / "images.npy")
    raw = [one for _, one in zip(range(3), raw_examples(config.data.dir, "train"), strict=False)]
    for image, serialized in zip(stored, raw, strict=False):
        feature = tf.train.Example.FromString(serialized).features.feature
        pixels = load_image(feature["image/encoded"].bytes_list.value[0])
        wanted = np.round(tf.image.resize(pixels, (16, 16)).numpy())
        np.testing.assert_array_equal(image, wanted)
