"""No input pipeline uses the autotuner, which would delay the end of an epoch."""

from pathlib import Path

import pytest
import tensorflow as tf

from trainers.data.parallel import ready

ROOT = Path(__file__).resolve().parents[3]


def test_batches_come_in_order_untuned_and_unsharded():
    batches = ready(tf.data.Dataset.range(5).map(lambda x: x * x, 2).batch(2))
    options = batches.options()
    assert options.autotune.enabled is False
    assert options.deterministic is True
    off = tf.data.experimental.AutoShardPolicy.OFF
    assert options.experimental_distribute.auto_shard_policy == off
    assert [part.tolist() for part in batches.as_numpy_iterator()] == [[0, 1], [4, 9], [16]]


@pytest.mark.parametrize("room", ["trainers", "tfx_pipeline", "components", "serving"])
def test_nothing_uses_the_autotuner(room):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    assert [str(file) for file in files if "AUTOTUNE" in file.read_text(encoding="utf-8")] == []
