"""The exact order of an epoch, and its division for resumed runs, hosts and replicas."""

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import ConfigError, override
from trainers.data.pipeline import DataError, eval_batches, steps_per_epoch, train_batches

AUGMENTED = ['data.augment=["random_resized_crop","flip"]', "train.global_batch=16"]
MIXED = ['data.augment=["shift","mixup(0.4)","cutmix"]', "train.global_batch=16"]


@pytest.fixture
def config(config):
    return override(config, ["data.cache=none"])


def batches_of(config, info, **options):
    """(images, labels) of each batch of epoch 1."""
    options = {"epoch": 1, **options}
    return [(x.numpy(), y.numpy()) for x, y in train_batches(config, info, **options)]


def same(first, second):
    assert len(first) == len(second)
    for (images, labels), (others, other_labels) in zip(first, second, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, other_labels)


def context(hosts, host, replicas):
    return tf.distribute.InputContext(hosts, host, replicas)


@pytest.mark.parametrize("changes", [AUGMENTED, [*MIXED, "data.cache=memory"]])
def test_a_resumed_epoch_is_the_tail_of_the_whole(config, digits, changes):
    config = override(config, changes)
    whole = batches_of(config, digits[1])
    assert len(whole) == 14
    same(whole[9:], batches_of(config, digits[1], start_step=9))
    assert batches_of(config, digits[1], start_step=14) == []
    for wrong in (-1, 15):
        with pytest.raises(ValueError, match=rf"start_step must be in 0\.\.14.*got {wrong}"):
            train_batches(config, digits[1], epoch=0, start_step=wrong)


@pytest.mark.parametrize(
    ("changes", "hosts", "replicas"),
    [
        (AUGMENTED, 2, 4),
        ([*MIXED, "data.cache=memory"], 2, 4),
    ],
)
def test_hosts_and_replicas_see_the_same_global_batches(config, digits, changes, hosts, replicas):
    config = override(config, changes)
    whole = batches_of(config, digits[1], start_step=4)
    local = replicas // hosts
    parts = []
    for host in range(hosts):
        own = batches_of(
            config, digits[1], start_step=4, input_context=context(hosts, host, replicas)
        )
        assert len(own) == local * len(whole)
        assert {len(images) for images, _ in own} == {16 // replicas}
        parts.append(own)
    joined = []
    for step in range(len(whole)):
        pieces = [one for own in parts for one in own[step * local : (step + 1) * local]]
        joined.append(tuple(np.concatenate(column) for column in zip(*pieces, strict=True)))
    same(whole, joined)


def test_mixes_make_soft_labels_of_neighbors(config, digits):
    hard = batches_of(override(config, ["train.global_batch=16"]), digits[1])
    mixed = batches_of(override(config, MIXED), digits[1])
    shares = []
    for (_, labels), (images, soft) in zip(hard, mixed, strict=True):
        assert images.dtype == np.uint8
        assert soft.dtype == np.float32
        assert soft.shape == (16, 10)
        np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
        for row, label in enumerate(labels):
            allowed = {label, labels[row ^ 1]}
            assert set(np.flatnonzero(soft[row] > 1e-6)) <= allowed
            if len(allowed) == 2:
                shares.append(soft[row, label])
    assert len({round(float(share), 4) for share in shares}) > 20


def test_pairs_need_an_even_batch_on_each_replica(config, digits):
    config = override(config, [*MIXED, "train.global_batch=10"])
    batches_of(config, digits[1])
    with pytest.raises(ConfigError, match=r"10 over 2 replicas is 5 each.*multiple of 4"):
        train_batches(config, digits[1], epoch=0, input_context=context(2, 0, 2))


def test_hosts_that_read_their_own_files(config, digits):
    config = override(config, ["train.global_batch=20", "data.host_sharding=files"])
    steps = steps_per_epoch(config, digits[1])
    known = [x.images[x.mask > 0] for x in eval_batches(config, digits[1], "train", batch=230)]
    known = [image.tobytes() for image in np.concatenate(known)]
    # Shards hold 80, 80 and 70: host 0 of 2 has the first and the last, host 1 the middle one.
    mine = [set(known[:80] + known[160:]), set(known[80:160])]
    for host in range(2):
        own = batches_of(config, digits[1], input_context=context(2, host, 2))
        assert len(own) == steps == 11
        images = [image.tobytes() for batch, _ in own for image in batch]
        assert len(images) == 110
        assert set(images) <= mine[host]
        assert len(set(images)) == min(110, len(mine[host]))
        tail = batches_of(config, digits[1], start_step=7, input_context=context(2, host, 2))
        same(own[7:], tail)
    one = batches_of(config, digits[1])
    same(one, batches_of(override(config, ["data.host_sharding=examples"]), digits[1]))
    four = override(config, ["train.global_batch=16"])
    with pytest.raises(DataError, match=r"3 training shards, but 4 hosts.*at least 4 shards"):
        train_batches(four, digits[1], epoch=0, input_context=context(4, 0, 4))


def test_hosts_with_separate_files_augment_repeats_differently(config, tmp_path, writer, scans):
    record = writer.serialized(writer.encode(scans[0][0]), 1)
    other = writer.serialized(writer.encode(scans[0][1]), 1)
    info = writer.write(tmp_path / "few", {"train": [[record], [other] * 15]})
    changes = [f"data.dir={tmp_path / 'few'}", "data.host_sharding=files", "data.augment=shift"]
    config = override(config, [*changes, "train.global_batch=16"])
    [(images, _)] = batches_of(config, info, input_context=context(2, 0, 2))
    assert len({image.tobytes() for image in images}) > 2


@pytest.fixture(scope="module")
def service():
    """The address of a tf.data service with two workers in this process."""
    api = tf.data.experimental.service
    dispatcher = api.DispatchServer()
    workers = [
        api.WorkerServer(api.WorkerConfig(dispatcher_address=dispatcher.target.split("://")[1]))
        for _ in range(2)
    ]
    yield dispatcher.target
    del workers


def test_the_service_gives_every_example_once(digits, config, service):
    changes = ["train.global_batch=23", f"data.service={service}"]
    config = override(config, changes)
    plain = batches_of(override(config, ["data.service="]), digits[1])
    served = batches_of(config, digits[1])
    assert len(served) == 10
    rows = [
        sorted((label, image.tobytes()) for x, y in run for image, label in zip(x, y, strict=True))
        for run in (plain, served)
    ]
    assert rows[0] == rows[1]
    assert len(batches_of(config, digits[1], start_step=7)) == 3


def test_the_service_augments_by_identity_and_mixes(digits, config, service):
    config = override(config, [*AUGMENTED[:1], "train.global_batch=230", f"data.service={service}"])
    runs = [batches_of(config, digits[1]) for _ in range(2)]
    images = [sorted(image.tobytes() for image in run[0][0]) for run in runs]
    assert images[0] == images[1]
    mixed = batches_of(override(config, MIXED), digits[1])
    assert mixed[0][1].shape == (16, 10)


@pytest.mark.parametrize("address", ["localhost:5050", "grpc://localhost", "http://a:1"])
def test_the_service_address_is_checked(digits, config, address):
    config = override(config, [f"data.service={address}"])
    with pytest.raises(ConfigError, match=r"data\.service must be `grpc://host:port`, got"):
        train_batches(config, digits[1], epoch=0)


def test_too_few_shards_for_the_service_are_an_error(digits, config):
    config = override(config, ["data.service=grpc://localhost:1", "train.global_batch=16"])
    with pytest.raises(DataError, match="3 training shards, but 4 hosts"):
        train_batches(config, digits[1], epoch=0, input_context=context(4, 0, 4))
