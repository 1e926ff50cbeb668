"""The call syntax of `data.augment`."""

import inspect
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.config import Config, ConfigError, override
from trainers.data.augment import augmentations, crops, split_names
from trainers.data.entries import Between, bind, parse_entries, parse_entry
from trainers.data.mix import mixes, split_mixes


def example(
    image,
    seed,
    *,
    amount: Annotated[float, Between(0, 1)] = 0.5,
    times: Annotated[int, Between(1, 3)] = 2,
    span: Annotated[tuple[float, float], Between(0, 2)] = (0.0, 1.0),
    fill: Literal["black", "noise"] = "noise",
):
    return amount, times, span, fill


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example", (0.5, 2, (0.0, 1.0), "noise")),
        (" example() ", (0.5, 2, (0.0, 1.0), "noise")),
        ("example(1)", (1.0, 2, (0.0, 1.0), "noise")),
        ("example(0.25, 3)", (0.25, 3, (0.0, 1.0), "noise")),
        ("example(span=(1, 2), times=1)", (0.5, 1, (1.0, 2.0), "noise")),
        ("example(0, 1, [0.5, 0.5], 'black')", (0.0, 1, (0.5, 0.5), "black")),
    ],
)
def test_entries_bind_their_values(text, expected):
    bound = bind(parse_entry(text), example)("image", "seed")
    assert bound == expected
    assert [type(one) for one in bound] == [float, int, tuple, str]
    assert all(isinstance(one, float) for one in bound[2])


def plain(image, seed, *, by: float = 1.0, times=2, on: bool = True, word="a", span=(0, 1), z=None):
    return by, times, on, word, span, z


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain(3)", (3.0, 2, True, "a", (0, 1), None)),
        ("plain(on=False, word='b', z='any')", (1.0, 2, False, "b", (0, 1), "any")),
        ("plain(0.5, 4, span=(2, 3))", (0.5, 4, True, "a", (2, 3), None)),
    ],
)
def test_options_without_a_range_take_values_like_their_defaults(text, expected):
    bound = bind(parse_entry(text), plain)("image", "seed")
    assert bound == expected
    assert list(map(type, bound)) == list(map(type, expected))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plain(True)", "`by` must be of type float, like 1.0, got True"),
        ("plain(times=1.5)", "`times` must be of type int, like 2, got 1.5"),
        ("plain(on=1)", "`on` must be of type bool, like True, got 1"),
        ("plain(word=3)", "`word` must be of type str, like 'a', got 3"),
    ],
)
def test_values_unlike_the_default_are_refused(text, words):
    with pytest.raises(ConfigError) as caught:
        bind(parse_entry(text), plain)
    assert words in str(caught.value)


def test_an_entry_without_values_is_the_function_itself():
    assert bind(parse_entry("example"), example) is example


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("example(1.5)", r"'example\(1.5\)': `amount` must be a number in \[0, 1\], got 1.5"),
        ("example(-0.1)", r"got -0.1"),
        ("example(True)", r"got True"),
        ("example('0.5')", r"got '0.5'"),
        ("example(1e999)", r"got inf"),
        ("example(times=1.5)", r"`times` must be an integer in \[1, 3\], got 1.5"),
        ("example(times=4)", r"got 4"),
        (
            "example(span=0.5)",
            r"`span` must be a pair \(low, high\) of numbers in \[0, 2\], got 0.5",
        ),
        ("example(span=(1, 0.5))", r"got \(1, 0.5\)"),
        ("example(span=(0, 1, 2))", r"got \(0, 1, 2\)"),
        ("example(span=(0, 3))", r"got \(0, 3\)"),
        ("example(fill='white')", r"`fill` must be one of 'black', 'noise', got 'white'"),
        ("example(amont=1)", r"no option `amont`; did you mean amount\?"),
        ("example(0.1, amount=0.2)", r"`amount` is set twice"),
        (
            "example(0, 1, (0, 1), 'black', 5)",
            r"5 values for 4 options; the signature is example\(amount=0.5",
        ),
    ],
)
def test_wrong_values_name_the_entry_the_range_and_the_signature(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        bind(parse_entry(text), example)
    assert "example(amount=0.5, times=2, span=(0.0, 1.0), fill='noise')" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "3", "a b", "a(", "a(b)", "a(1 + 1)", "a(*[1])", "a(**{'b': 1})", "a.b(1)", "a(1)(2)",
     "a(x=b)", "a(1, x=1, x=2)", "a\0", "a=1", "(" * 300, "-a", "a(" + "-" * 5000 + "1)"],
)  # fmt: skip
def test_what_is_no_entry_is_refused(text):
    with pytest.raises(ConfigError, match="is not `name` or `name"):
        parse_entry(text)


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text):
    try:
        entry = parse_entry(text)
    except ConfigError:
        return
    assert entry.name.isidentifier()


@given(st.floats(0, 1), st.integers(1, 3), st.tuples(st.floats(0, 1), st.floats(1, 2)))
def test_what_is_written_is_what_is_bound(amount, times, span):
    text = f"example({amount!r}, times={times}, span={span})"
    assert bind(parse_entry(text), example)(0, 0) == (amount, times, span, "noise")


def test_unknown_names_give_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown augmentation 'cut_mix'; did you mean cutmix"):
        parse_entries(["flip", "cut_mix(1.0)"], [crops, augmentations, mixes])


def test_a_command_line_reaches_the_functions():
    text = "data.augment=random_resized_crop(area=(0.25, 1.0)), rotate(15), flip, mixup(0.2)"
    config = override(Config(name="x"), [text])
    crop: Any
    rest: list[Any]
    crop, rest = split_names(config.data.augment)
    assert crop.func is crops.get("random_resized_crop")
    assert crop.keywords == {"area": (0.25, 1.0)}
    assert rest[0].keywords == {"degrees": 15.0}
    assert rest[1] is augmentations.get("flip")
    mix: Any
    (mix,) = split_mixes(config.data.augment)
    assert mix.func is mixes.get("mixup")
    assert mix.keywords == {"alpha": 0.2}


@pytest.mark.parametrize("kind", [crops, augmentations, mixes], ids=lambda kind: kind.kind)
def test_the_defaults_of_every_op_are_in_their_own_range(kind):
    for name in kind.names():
        defaults = [
            f"{one.name}={one.default!r}"
            for one in inspect.signature(kind.get(name)).parameters.values()
            if one.default is not one.empty
        ]
        bind(parse_entry(f"{name}({', '.join(defaults)})"), kind.get(name))
