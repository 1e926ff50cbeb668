"""Learning rates against hand computation."""

import math

import pytest

from trainers.config import Config, OptimConfig, override
from trainers.keras import keras
from trainers.optim import WarmUp, build_optimizer, compression_rate, schedule_of, warmup_note


def rates(config, total, steps):
    schedule = WarmUp(config, total)
    return [float(schedule(step)) for step in steps]


def test_cosine_falls_from_the_peak_to_zero():
    config = OptimConfig(learning_rate=0.4, schedule="cosine")
    by_hand = [0.2 * (1 + math.cos(math.pi * step / 100)) for step in (0, 25, 50, 99, 100)]
    assert rates(config, 100, (0, 25, 50, 99, 100)) == pytest.approx(by_hand, abs=1e-7)
    assert rates(config, 100, (150,)) == pytest.approx([0.0], abs=1e-7)


def test_warm_up_is_linear_then_cosine_takes_what_is_left():
    config = OptimConfig(learning_rate=1.0, schedule="cosine", warmup_steps=4)
    found = rates(config, 24, (0, 1, 2, 3, 4, 14, 24))
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.0], abs=1e-6)


def test_step_divides_by_ten_at_each_fraction():
    config = OptimConfig(learning_rate=0.1, schedule="step", step_fractions=(0.3, 0.6, 0.9))
    found = rates(config, 100, (0, 29, 30, 59, 60, 89, 90, 99))
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4], rel=1e-5)
    assert rates(OptimConfig(schedule="step", step_fractions=()), 10, (9,)) == pytest.approx([0.1])


def test_constant_is_constant_after_warm_up():
    config = OptimConfig(learning_rate=0.3, schedule="constant", warmup_steps=2)
    assert rates(config, 10, (0, 1, 5, 20)) == pytest.approx([0.15, 0.3, 0.3, 0.3])


def test_a_schedule_survives_serialization():
    config = OptimConfig(learning_rate=0.4, schedule="step", warmup_steps=3)
    serialize = keras.optimizers.schedules.serialize
    again = keras.optimizers.schedules.deserialize(serialize(WarmUp(config, 20)))
    steps = range(0, 20, 3)
    assert [float(again(step)) for step in steps] == pytest.approx(rates(config, 20, steps))


def test_cosine_ends_at_the_final_fraction():
    config = OptimConfig(learning_rate=2.0, schedule="cosine", final_fraction=0.1)
    assert rates(config, 100, (0, 50, 100, 500)) == pytest.approx([2.0, 1.1, 0.2, 0.2])


@pytest.mark.parametrize(
    ("scaling", "batch", "peak", "warmup"),
    [
        ("linear", 256, 0.1, 40),  # the recipe's own
        ("linear", 64, 0.025, 160),
        ("linear", 1024, 0.4, 10),
        ("sqrt", 64, 0.05, 160),
        ("sqrt", 1024, 0.2, 10),
        ("linear", 1 << 20, 409.6, 1),  # a warm-up keeps a step
        ("linear", 0, 0.1, 40),  # unknown
    ],
)
def test_rate_and_warm_up_follow_the_batch(scaling, batch, peak, warmup):
    config = OptimConfig(
        learning_rate=0.1,
        warmup_limit=1.0,
        reference_batch=256,
        scaling=scaling,
        schedule="constant",
        warmup_steps=40,
    )
    schedule = schedule_of(config, 1000, global_batch=batch)
    by_hand = [peak / warmup, peak * min(5 / warmup, 1), peak, peak]
    assert [float(schedule(step)) for step in (0, 4, 160, 999)] == pytest.approx(by_hand)
    optimizer = build_optimizer(config, 1000, global_batch=batch)
    assert float(optimizer.learning_rate) == pytest.approx(peak / warmup)


def test_figures_without_a_reference_batch_are_taken_as_they_are():
    schedule = schedule_of(OptimConfig(learning_rate=0.1, warmup_steps=5), 50, global_batch=4096)
    assert float(schedule(4)) == pytest.approx(0.1)
    assert float(schedule(3)) == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("limit", "wanted", "total", "steps"),
    [
        (0.1, 100, 24, 2),
        (0.1, 100, 1000, 100),
        (0.1, 100, 999, 99),
        (0.1, 100, 9, 0),
        (0.1, 3, 30, 3),
        (0.29, 100, 100, 29),  # 0.29 * 100 is less than 29 in binary
        (1.0, 100, 24, 100),
        (0.0, 5, 100, 0),
    ],
)
def test_a_warm_up_is_a_part_of_the_run_at_most(limit, wanted, total, steps):
    config = OptimConfig(
        learning_rate=0.4, schedule="constant", warmup_steps=wanted, warmup_limit=limit
    )
    schedule = schedule_of(config, total)
    by_hand = [0.4 * min((step + 1) / steps, 1) if steps else 0.4 for step in range(total)]
    assert [float(schedule(step)) for step in range(total)] == pytest.approx(by_hand, rel=1e-5)
    note = warmup_note(config, total)
    if steps < wanted:
        assert note == (
            f"warm-up: {steps} instead of the recipe's {wanted} steps, {limit:.0%} of the run's "
            f"{total}; optim.warmup_steps sets another number"
        )
    else:
        assert bool(note) == (wanted > total / 10)


def test_a_warm_up_that_was_asked_for_is_taken_and_a_long_one_noted():
    recipe = Config("any", optim=OptimConfig(warmup_steps=100, reference_batch=64))
    asked = override(recipe, ["optim.warmup_steps=6"]).optim
    assert float(schedule_of(asked, 24, global_batch=64)(2)) == pytest.approx(
        asked.learning_rate / 2
    )
    note = warmup_note(asked, 24, global_batch=64)
    assert note == "warm-up: 6 of the run's 24 steps, more than a tenth"
    assert "never reaches its full learning rate" in warmup_note(asked, 24, global_batch=16)
    assert warmup_note(asked, 60, global_batch=64) == ""
    # A limit beside it holds, in either order.
    both = ["optim.warmup_limit=0.1", "optim.warmup_steps=6"]
    assert {override(recipe, order).optim.warmup_limit for order in (both, both[::-1])} == {0.1}


def test_fine_tuning_after_compression_follows_the_peak():
    base = Config("any", optim=OptimConfig(learning_rate=0.2, reference_batch=64))
    cases = {
        (): 0.1 * 0.2 * 2,
        ("compress.rate_fraction=0.5",): 0.5 * 0.2 * 2,
        ("train.global_batch=16",): 0.1 * 0.2 / 4,
        ("train.global_batch=16", "optim.scaling=sqrt"): 0.1 * 0.2 / 2,
        ("compress.learning_rate=0.003",): 0.003,
        ("compress.learning_rate=0.003", "train.global_batch=16"): 0.003,
    }
    for changes, by_hand in cases.items():
        assert compression_rate(override(base, changes)) == pytest.approx(by_hand)
    # What an earlier override set is replaced.
    absolute = override(base, ["compress.learning_rate=0.003"])
    assert compression_rate(override(absolute, ["compress.rate_fraction=0.5"])) == pytest.approx(
        0.2
    )
