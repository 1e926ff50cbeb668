"""A configuration key is one line: everything else that knows its name reads that line."""

import json
import math
from dataclasses import MISSING, dataclass, fields, is_dataclass

import pytest

from trainers.config import Config, ConfigError, TrainConfig, from_dict, override, to_dict
from trainers.config_keys import Key, key, keys_of, section, values_with
from trainers.config_rules import validate
from trainers.data.preprocess import Preprocessing
from trainers.identity.code_digest import Code
from trainers.training.run_folder import Identity

# As the lists in six files had them before keys were declared once.
NO_IDENTITY = {
    "data": {"dir", "cache", "cache_dir", "cache_mb"},
    "model": {"init"},
    "train": {"early_stop", "save_steps", "tensorboard", "strategy", "devices", "tpu"},
    "distill": {"teacher", "cache_dir"},
}
NO_IDENTITY_SECTIONS = {"compress", "export", "eval"}
NO_IMAGES = {"dir", "mean", "std", "cache_dir", "cache_mb", "max_boxes", "host_sharding"}
YOUNG = {
    "data.resize": "bilinear",
    "data.fit": "stretch",
    "optim.warmup_limit": 1.0,
    "train.head": "fresh",
}


@dataclass(frozen=True)
class NewTrain(TrainConfig):
    """A section with one more key, on one line."""

    warp: int = key(3, "Warp factor.", within="[0, 9]", before=0)
    log: str = key("short", "Length of the log.", choices=("short", "long"), identity=False)


@dataclass(frozen=True)
class NewConfig(Config):
    """A configuration with that section."""

    train: NewTrain = section(NewTrain)


def test_a_new_key_is_one_line():
    config = NewConfig("x")
    assert validate(override(config, ["train.warp=9"])).train.warp == 9
    with pytest.raises(ConfigError, match=r"^train\.warp must be in \[0, 9\], got 10$"):
        validate(override(config, ["train.warp=10"]))
    with pytest.raises(ConfigError, match=r"^train\.log must be short or long, got 'no'$"):
        validate(override(config, ["train.log=no"]))
    assert keys_of(NewConfig)["train.warp"].doc == "Warp factor."
    assert values_with(config, "identity")["train"]["warp"] == 3
    assert "log" not in values_with(config, "identity")["train"]
    assert "warp" not in values_with(config, "images")["train"]


def name_of(config, epochs=None):
    code = Code({}, {})
    identity = Identity(config, "t", "i", data="d" * 16, fingerprint="f" * 16, code=code)
    return identity.name if epochs is None else identity.old_name(epochs)


def test_checkpoint_folders_are_named_as_before():
    assert name_of(Config("x")) == "04e44e5f09e769df-dddddddd-dee36ace"
    old = override(Config("x"), [f"{name}={value}" for name, value in YOUNG.items()])
    assert name_of(Config("x"), epochs=7) == ""
    assert name_of(old, epochs=7) == "d97f56438f75a53a-ffffffff"


def test_roles_are_what_the_lists_were():
    config = Config("x")
    expected = {k: v for k, v in to_dict(config).items() if k not in NO_IDENTITY_SECTIONS}
    for group, names in NO_IDENTITY.items():
        expected[group] = {k: v for k, v in expected[group].items() if k not in names}
    assert values_with(config, "identity") == expected
    data = {k: v for k, v in to_dict(config)["data"].items() if k not in NO_IMAGES}
    assert values_with(config, "images") == {
        "data": data,
        "train": {"seed": 0, "global_batch": 128},
    }
    assert {k: one.before for k, one in keys_of(Config).items() if one.is_young} == YOUNG


def test_images_of_evaluation_depend_on_all_keys_that_say_so():
    marked = values_with(Config("x"), "pixels")
    assert list(marked) == ["data"]
    assert {field.name for field in fields(Preprocessing)} == set(marked["data"])


def leaves(node, prefix=""):
    """Dotted names of all fields that are no sections."""
    for field in fields(node):
        value = getattr(node, field.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def test_every_field_is_a_key_with_documentation_and_a_valid_default():
    config = Config("x")
    assert list(keys_of(Config)) == list(leaves(config))
    assert validate(config) is config
    for name, one in keys_of(Config).items():
        assert one.doc.endswith("."), name
        assert one.default is MISSING or one.accepts(one.default), name


def test_keys_that_set_others_name_keys_and_valid_values():
    keys = keys_of(Config)
    setters = {name: one.sets for name, one in keys.items() if one.sets}
    assert set(setters) == {"optim.warmup_steps", "compress.rate_fraction"}
    for sets in setters.values():
        for name, value in sets.items():
            assert keys[name].accepts(float(value))
    config = Config("x")
    assert override(config, ["optim.warmup_steps=5"]).optim.warmup_limit == 1.0
    both = ["optim.warmup_limit=0.2", "optim.warmup_steps=5"]
    assert override(config, both).optim.warmup_limit == 0.2
    assert override(config, both[::-1]).optim.warmup_limit == 0.2
    assert override(config, [" compress.rate_fraction = 0.2"]).compress.learning_rate == 0.0


def test_a_configuration_without_young_keys_means_what_it_did():
    raw = to_dict(Config("x"))
    for name in YOUNG:
        group, _, own = name.partition(".")
        del raw[group][own]
    before = json.dumps(raw)
    found = from_dict(raw)
    assert json.dumps(raw) == before
    assert (found.data.resize, found.data.fit) == ("bilinear", "stretch")
    assert (found.optim.warmup_limit, found.train.head) == (1.0, "fresh")
    # A section that is absent altogether is a new configuration's.
    assert from_dict({"name": "x"}) == Config("x")


@pytest.mark.parametrize("raw", [None, 5, ["name"], "name"])
def test_a_configuration_that_is_no_mapping_is_refused(raw):
    with pytest.raises(ConfigError, match="is a mapping, got"):
        from_dict(raw)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.0, 0.999), (-1e-9, 1, 1.0, math.nan)),
        ("(0, 1]", (1e-9, 1), (0, 1.001, math.nan)),
        ("(0, inf)", (1e-300, 1e300), (0.0, math.inf, math.nan)),
        ("[-2.5, inf)", (-2.5,), (-2.6, -math.inf)),
    ],
)
def test_intervals(interval, inside, outside):
    one = Key("", within=interval)
    assert all(one.accepts(value) for value in inside)
    assert not any(one.accepts(value) for value in outside)


def test_an_interval_that_is_none_is_a_mistake_of_the_key():
    with pytest.raises(ValueError, match=r"an interval such as \[0, 1\)"):
        Key("", within="0..1").accepts(0)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("data.std=1,2,0", "data.std must be 3 values, each positive, got (1.0, 2.0, 0.0)"),
        ("data.image_size=0,16", "data.image_size must be each at least 1, got (0, 16)"),
        ("compress.sparsity=80", "compress.sparsity must be in [0, 1); 80 % is written 0.8, got"),
        ("train.strategy=two", "train.strategy must be one, mirrored, multi_worker or tpu, got"),
        ("export.top_k=0", "export.top_k must be at least 1, got 0"),
        ("name=a/b", "name must be a folder name of letters, digits, `.`, `_` and `-`, got 'a/b'"),
    ],
)
def test_messages_name_key_range_and_value(assignment, words):
    with pytest.raises(ConfigError) as caught:
        validate(override(Config("x"), [assignment]))
    assert str(caught.value).startswith(words)
