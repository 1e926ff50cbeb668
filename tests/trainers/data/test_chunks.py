"""Images do not depend on the size of chunks; other tests use 2 instead of 8."""

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import override
from trainers.data import cache, prepare
from trainers.data.pipeline import eval_batches, train_batches

SHIPPED = 8


@pytest.fixture
def few(config, tmp_path, writer, scans):
    """(config, info) of 24 images to train on and 21 others."""
    records = [
        writer.serialized(writer.encode(image), int(label) + 1)
        for image, label in zip(scans[0][:45], scans[1], strict=False)
    ]
    info = writer.write(tmp_path / "few", {"train": [records[:24]], "test": [records[24:]]})
    changes = [f"data.dir={tmp_path / 'few'}", "data.image_size=[12,12]", "train.global_batch=24"]
    return override(config, [*changes, "eval.batch=16"]), info


def read(config, info):
    """All outputs of the input pipeline, as arrays in a fixed order."""
    cache._kept.clear()
    parts = [*train_batches(config, info, epoch=1), *eval_batches(config, info, "test")]
    return [value.numpy() for value in tf.nest.flatten(parts)]


@pytest.mark.parametrize(("kind", "augment"), [("none", "random_resized_crop"), ("memory", "flip")])
def test_a_chunk_changes_no_pixel(few, monkeypatch, kind, augment):
    config = override(few[0], [f"data.cache={kind}", f"data.augment={augment}"])
    assert prepare.chunk_size(24) == 2
    small = read(config, few[1])
    monkeypatch.setattr(prepare, "CHUNK", SHIPPED)
    assert [prepare.chunk_size(batch) for batch in (24, 16, 22, 7, 1)] == [8, 8, 2, 7, 1]
    for one, other in zip(small, read(config, few[1]), strict=True):
        np.testing.assert_array_equal(one, other)
