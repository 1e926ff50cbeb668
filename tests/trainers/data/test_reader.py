"""Foreign records: missing ids and slices are computed."""

import dataclasses
import hashlib

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import override
from trainers.data import features
from trainers.data.decode import load_image
from trainers.data.pipeline import (
    DataError,
    eval_batches,
    named_errors,
    raw_examples,
    train_batches,
)
from trainers.data.reader import fingerprint, parse_records, read_indices, read_serialized, usable
from trainers.data.records_check import validate_records
from trainers.data.slices import slices

MISSING = dict.fromkeys(
    ("image__key__sha256", "slice__brightness", "slice__contrast", "slice__aspect", "slice__size")
)


@pytest.fixture
def foreign(tmp_path, writer, config):
    """(config, info, images): 11 records with nothing but an image and a label from 1."""
    rng = np.random.default_rng(3)
    images = []
    for number in range(11):
        height, width = rng.integers(10, 300, 2)
        pixels = rng.integers(0, 20 + 20 * number, (height, width, 3), dtype=np.uint8)
        images.append(writer.encode(pixels, ("PNG", "JPEG")[number % 2]))
    records = [
        writer.serialized(one, number % 10 + 1, **MISSING) for number, one in enumerate(images)
    ]
    shards = {"train": [records[:5], records[5:]], "test": [records[:5], records[5:]]}
    info = dataclasses.replace(writer.write(tmp_path / "foreign", shards), foreign=True)
    return override(config, [f"data.dir={tmp_path / 'foreign'}", "eval.batch=8"]), info, images


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_foreign_records_get_an_identity_and_slices(foreign, cache):
    config, info, images = foreign
    batches = list(eval_batches(override(config, [f"data.cache={cache}"]), info, "test"))
    mask = np.concatenate([one.mask.numpy() for one in batches]) > 0
    assert mask.sum() == 11
    for key in features.SLICES:
        got = np.concatenate([one.slices[key].numpy() for one in batches])
        assert [one.decode() for one in got[mask]] == [slices(load_image(p))[key] for p in images]
        assert set(got[~mask]) == {b""}
    ids = np.concatenate([one.ids.numpy() for one in batches])
    assert len(set(ids[mask])) == 11
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in ids[mask])
    labels = np.concatenate([one.labels.numpy() for one in batches])
    np.testing.assert_array_equal(labels[mask], np.arange(11) % 10)
    train = override(config, ["train.global_batch=11", f"data.cache={cache}"])
    assert sum(1 for _ in train_batches(train, info, epoch=0)) == 1
    assert validate_records(config.data.dir, "test", info) == []


def test_an_identity_is_kept_and_a_fingerprint_depends_on_every_byte(writer, digits):
    info = dataclasses.replace(digits[1], foreign=True)
    image = writer.encode(np.zeros((4, 4), np.uint8))
    record = writer.serialized(image, 1, slice__size=b"own")
    parsed = parse_records(tf.constant([record]), info=info)
    assert parsed.id.numpy() == [hashlib.sha256(image).hexdigest().encode()]
    assert parsed.slices["slice/size"].numpy() == [b"own"]
    a, b, c = fingerprint(tf.constant([b"abc", b"abd", b"abc"])).numpy()
    assert a == c != b
    # FarmHash64 of 1,000 times "a", little endian, by TensorFlow's own string hash.
    text = tf.constant([b"a" * 1000])
    value = int(tf.strings.to_hash_bucket_fast(text, 2**62)[0])
    assert (
        int.from_bytes(bytes.fromhex(fingerprint(text)[0].numpy().decode()), "little") % (2**62)
        == value
    )


def test_our_own_records_must_have_both(foreign):
    config, info, _ = foreign
    strict = dataclasses.replace(info, foreign=False)
    with (
        pytest.raises(DataError, match="record 0: no 'image/key/sha256', only"),
        named_errors(config, strict, "test"),
    ):
        list(eval_batches(config, strict, "test"))


def test_further_slices_are_read_and_demanded(config, tmp_path, writer, scans):
    records = [
        writer.serialized(writer.encode(scans[0][number]), 1, slice__gender=value)
        for number, value in enumerate((b"a", b"b", b"a"))
    ]
    info = writer.write(tmp_path / "own", {"test": [records]})
    info = dataclasses.replace(info, slices=(*features.SLICES, "slice/gender"))
    config = override(config, [f"data.dir={tmp_path / 'own'}", "eval.batch=3"])
    [batch] = eval_batches(config, info, "test")
    assert list(batch.slices) == [*features.SLICES, "slice/gender"]
    assert list(batch.slices["slice/gender"].numpy()) == [b"a", b"b", b"a"]
    more = dataclasses.replace(info, slices=("slice/age",))
    [bad, *_] = validate_records(config.data.dir, "test", more)
    assert "no 'slice/age', only" in bad.reason


def test_what_the_server_refuses_is_a_bad_record(config, tmp_path, writer):
    """TensorFlow decodes an 8-bit palette BMP as gray; the header check knows better."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    palette = bytearray(writer.encode(pixels, "BMP"))
    palette[54:58] = b"\x01\x02\x03\x00"
    info = writer.write(tmp_path / "bmp", {"test": [[writer.serialized(bytes(palette), 1)]]})
    [bad] = validate_records(tmp_path / "bmp", "test", info)
    assert "the image cannot be decoded: BMP with a color palette" in bad.reason


@pytest.mark.parametrize("seed", [None, (7, 0), (7, 1)])
@pytest.mark.parametrize("part", [(0, 1), (1, 2)])
def test_indices_come_in_the_order_of_the_records(config, digits, seed, part):
    records = usable(config, digits[1], "train")
    everything = list(raw_examples(config.data.dir, "train"))
    counts = np.array([80, 80, 70])
    order = read_indices(records, counts, seed=seed, part=part).as_numpy_iterator()
    read = read_serialized(records, seed=seed, part=part).as_numpy_iterator()
    found = list(order)
    assert [everything[at] for at in found] == list(read)
    assert len(set(found)) == (230 if part == (0, 1) else 80)
    assert (found == sorted(found)) is (seed is None)
