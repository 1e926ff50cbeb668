"""Overrides, round trips and ranges of the configuration."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.config import (
    CompressConfig,
    Config,
    ConfigError,
    DataConfig,
    EvalConfig,
    ExportConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    config_hash,
    from_dict,
    override,
    to_dict,
)
from trainers.config_rules import validate

BASE = Config(name="base")

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(-(2**53), 2**53)
scalars = st.none() | st.booleans() | counts | numbers | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)
configs = st.builds(
    Config,
    name=st.text(),
    task=st.text(),
    data=st.builds(
        DataConfig,
        dir=st.text(),
        image_size=st.tuples(counts, counts),
        crop_fraction=numbers,
        mean=st.lists(numbers).map(tuple),
        augment=st.lists(st.text()).map(tuple),
        on_error=st.text(),
        max_skipped=counts,
    ),
    model=st.builds(
        ModelConfig,
        name=st.text(),
        dropout=numbers,
        options=st.dictionaries(st.text(), json_values, max_size=3),
    ),
    optim=st.builds(OptimConfig, learning_rate=numbers, step_fractions=st.tuples(numbers, numbers)),
    train=st.builds(TrainConfig, epochs=counts, seed=counts, strategy=st.text(), tpu=st.text()),
    compress=st.builds(CompressConfig, sparsity=numbers),
    export=st.builds(ExportConfig, top_k=counts),
    eval=st.builds(EvalConfig, batch=counts),
)


@settings(max_examples=50, deadline=None)
@given(configs)
def test_a_dictionary_holds_the_whole_config(config):
    raw = json.loads(json.dumps(to_dict(config)))
    assert from_dict(raw) == config
    assert to_dict(from_dict(raw)) == raw
    assert config_hash(from_dict(raw)) == config_hash(config)


def leaves(node, prefix=""):
    """(dotted key, value) of every field that an override can set."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


@settings(max_examples=50, deadline=None)
@given(configs)
def test_overriding_every_key_with_its_json_gives_the_same_config(config):
    assignments = [f"{key}={json.dumps(value)}" for key, value in leaves(config)]
    assert override(BASE, assignments) == config


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("train.epochs=5", "train", "epochs", 5),
        (" optim.learning_rate = 1 ", "optim", "learning_rate", 1.0),
        ("optim.learning_rate=2e-3", "optim", "learning_rate", 0.002),
        ("optim.name=adamw", "optim", "name", "adamw"),
        ("train.tpu=007", "train", "tpu", "007"),
        ("train.tpu=1.10", "train", "tpu", "1.10"),
        ("train.tpu=true", "train", "tpu", "true"),
        ("train.tpu=", "train", "tpu", ""),
        ('train.tpu="a=b"', "train", "tpu", "a=b"),
        ("data.dir=/data/a=b", "data", "dir", "/data/a=b"),
        ("data.image_size=32,48", "data", "image_size", (32, 48)),
        ("data.image_size=[32, 48]", "data", "image_size", (32, 48)),
        ("data.mean=1,2.5,3", "data", "mean", (1.0, 2.5, 3.0)),
        ("data.augment=flip, shift", "data", "augment", ("flip", "shift")),
        (
            "data.augment=a(area=(0.25, 1), aspect=(1, 2)), b(1,2),c([3,4])",
            "data",
            "augment",
            ("a(area=(0.25, 1), aspect=(1, 2))", "b(1,2)", "c([3,4])"),
        ),
        ("data.augment=a(1,b", "data", "augment", ("a(1,b",)),
        ("data.augment=a),b", "data", "augment", ("a)", "b")),
        ("data.augment=", "data", "augment", ()),
        ("data.augment=[]", "data", "augment", ()),
        ("optim.step_fractions=0.5", "optim", "step_fractions", (0.5,)),
        ("model.options.width=8", "model", "options", {"width": 8}),
        ('model.options={"patch": 4}', "model", "options", {"patch": 4}),
    ],
)
def test_one_override(assignment, section, key, value):
    changed = override(BASE, [assignment])
    found = getattr(getattr(changed, section), key)
    assert found == value
    assert type(found) is type(value)
    before = getattr(BASE, section)
    back = dataclasses.replace(getattr(changed, section), **{key: getattr(before, key)})
    assert dataclasses.replace(changed, **{section: back}) == BASE


def test_overrides_apply_in_order_and_options_add_up():
    changed = override(
        BASE, ["name=x", "train.epochs=5", "model.options.width=8", "train.epochs=6"]
    )
    changed = override(changed, ["model.options.depth=2"])
    assert (changed.name, changed.train.epochs) == ("x", 6)
    assert changed.model.options == {"width": 8, "depth": 2}
    assert Config(name="base") == BASE


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epochs", r"'train.epochs' is not `key=value`"),
        ("train.epoch=5", r"unknown config key 'train.epoch'.*did you mean epochs"),
        ("optim.lerning_rate=1", r"did you mean learning_rate"),
        ("trian.epochs=5", r"unknown config key 'trian.epochs': no 'trian'; did you mean train"),
        ("zzz=5", r"known: compress, data, distill, eval, export, model, name, optim, task, train"),
        ("train=5", r"'train' is a section; set one of train.epochs, "),
        ("train.epochs.more=5", r"'train.epochs.more': 'epochs' has no parts"),
        ("name.more=5", r"'name.more': 'name' has no parts"),
        ("train.epochs=5.5", r"train.epochs takes int, got 5.5"),
        ("train.epochs=true", r"train.epochs takes int, got True"),
        ("train.epochs=five", r"train.epochs takes int, got 'five'"),
        ("optim.learning_rate=false", r"optim.learning_rate takes float, got False"),
        ("optim.learning_rate=fast", r"optim.learning_rate takes float, got 'fast'"),
        ("data.image_size=32", r"data.image_size takes 2 values, got '32'"),
        ("data.image_size=32,a", r"data.image_size takes int, got 'a'"),
        ("data.augment=[1]", r"data.augment takes str, got 1"),
        ("model.options=8", r"model.options takes dict, got 8"),
    ],
)
def test_a_wrong_override_says_what_is_allowed(assignment, message):
    with pytest.raises(ConfigError, match=message):
        override(BASE, [assignment])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"name": "x", "trian": {}}, r"unknown config key 'trian'; did you mean train"),
        ({"name": "x", "train": {"epoch": 1}}, r"unknown config key 'train.epoch'; .*epochs"),
        ({"name": "x", "train": {"epochs": "1"}}, r"train.epochs takes int, got '1'"),
        ({"name": "x", "train": 5}, r"section 'train' takes a mapping, got 5"),
        ({"name": "x", "data": {"augment": None}}, r"data.augment takes a list .*got None"),
        ({"name": 5}, r"name takes str, got 5"),
        ({}, r"needs a `name`"),
    ],
)
def test_a_wrong_dictionary_says_what_is_allowed(raw, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(raw)


def test_the_hash_changes_with_any_value_and_with_nothing_else():
    hashes = {config_hash(BASE)}
    changes = ["name=b", "train.seed=1", "model.options.width=8", "data.mean=1,2,3", "eval.batch=1"]
    hashes |= {config_hash(override(BASE, [change])) for change in changes}
    assert len(hashes) == 1 + len(changes)
    reordered = dict(reversed(to_dict(BASE).items()))
    assert config_hash(from_dict(reordered)) == config_hash(BASE)
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in hashes)


@pytest.mark.parametrize(
    "assignment",
    [
        "name=",
        "name=a/b",
        "name=../b",
        "data.image_size=0,16",
        "data.crop_fraction=0",
        "data.crop_fraction=1.01",
        "data.mean=1,2",
        "data.std=1,2,0",
        "data.std=1,2",
        "data.on_error=ignore",
        "data.max_skipped=-1",
        "model.dropout=1",
        "model.dropout=-0.1",
        "optim.learning_rate=0",
        "optim.learning_rate=NaN",
        "optim.learning_rate=Infinity",
        "optim.name=lion",
        "optim.schedule=linear",
        "optim.momentum=1",
        "optim.warmup_steps=-1",
        "optim.weight_decay=-1",
        "optim.clip_norm=-1",
        "optim.step_fractions=0.5,1.5",
        "train.epochs=0",
        "train.global_batch=0",
        "train.label_smoothing=1",
        "train.strategy=two",
        "compress.sparsity=1",
        "compress.sparsity=80",
        "compress.prune_epochs=0",
        "compress.qat_epochs=0",
        "compress.learning_rate=-0.01",
        "compress.rate_fraction=0",
        "compress.rate_fraction=1.5",
        "optim.warmup_limit=-0.1",
        "optim.warmup_limit=2",
        "compress.calibration_images=0",
        "export.top_k=0",
        "export.warmup_requests=-1",
        "eval.batch=0",
    ],
)
def test_a_value_out_of_range_is_named(assignment):
    key = assignment.partition("=")[0]
    changed = override(BASE, [assignment])
    node = changed
    for part in key.split("."):
        node = getattr(node, part)
    with pytest.raises(ConfigError) as caught:
        validate(changed)
    assert str(caught.value).startswith(f"{key} must be ")
    assert str(caught.value).endswith(f", got {node!r}")


@pytest.mark.parametrize(
    "assignment",
    [
        "data.crop_fraction=1",
        "model.dropout=0",
        "optim.clip_norm=0",
        "optim.step_fractions=",
        "compress.sparsity=0",
        "train.strategy=mirrored",
        "export.warmup_requests=0",
        "name=digits_cnn-1.0",
    ],
)
def test_a_value_at_the_edge_is_fine(assignment):
    config = override(BASE, [assignment])
    assert validate(config) is config


@pytest.mark.parametrize("other", ["train.accumulate=2", "train.xla=true"])
def test_settings_that_exclude_each_other_are_named(other):
    with pytest.raises(
        ConfigError, match=r"sync_batch_norm=true does not work with train.accumulate"
    ):
        validate(override(BASE, ["train.sync_batch_norm=true", other]))


def test_more_frozen_epochs_than_epochs_are_refused():
    with pytest.raises(ConfigError, match=r"train.freeze_epochs=9 is more than train.epochs=2"):
        validate(override(BASE, ["train.freeze_epochs=9", "train.epochs=2"]))
