import base64
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.server.errors import ServingError
from serving.server.http.json_decode import decode_base64, decode_predict, read_document
from serving.server.http.json_encode import decimals, encode_error, encode_predict
from serving.server.http.json_parse import _SlowParser, debug_text, parse

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_both_parsers_agree_with_the_standard_library(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse(text.encode()) == value
    slow = _SlowParser(text.encode().decode("latin-1")).document()
    assert slow == value
    assert json.dumps(slow) == json.dumps(value)


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(body):
    message = ""
    try:
        parse(body)
    except ServingError as error:
        message = error.message
    assert not message or message.startswith("JSON Parse error: ")


@pytest.mark.parametrize(
    ("body", "words", "offset"),
    [
        (b"   ", "The document is empty.", 3),
        (b"[1,]", "Invalid value.", 3),
        (b"[1 2]", "Missing a comma or ']' after an array element.", 3),
        (b'{"a":1 "b"', "Missing a comma or '}' after an object member.", 7),
        (b"{1:2}", "Missing a name for object member.", 1),
        (b'{"a" 1}', "Missing a colon after a name of object member.", 5),
        (b"[tru]", "Invalid value.", 1),
        (b"[1.]", "Miss fraction part in number.", 3),
        (b"[1e+]", "Miss exponent in number.", 4),
        (b"[1e999, Inf]", "Number too big to be stored in double.", 1),
        (b'{"instances": [1e999]}', "Number too big to be stored in double.", 15),
        (b"[0.5, -1.8E+308]", "Number too big to be stored in double.", 6),
        (b"[1e0309]", "Number too big to be stored in double.", 1),
        (b"[1" + b"0" * 309 + b".0]", "Number too big to be stored in double.", 1),
        (b"[1" + b"0" * 309 + b"]", "Number too big to be stored in double.", 1),
        (b"[1" + b"0" * 219 + b"e99]", "Number too big to be stored in double.", 1),
        (b'["a\\q"]', "Invalid escape character in string.", 3),
        (b'["\\u12g4"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b'["\\ud800x"]', "The surrogate pair in string is invalid.", 8),
        (b'["\\udc00"]', "The surrogate pair in string is invalid.", 8),
        (b'["a\nb"]', "Invalid encoding in string.", 3),
        (b'["abc', "Missing a closing quotation mark in string.", 1),
        ("[é, x]".encode(), "Invalid value.", 1),
    ],
)
def test_rapidjsons_words_for_faults(body, words, offset):
    with pytest.raises(ServingError) as caught:
        parse(body)
    assert caught.value.message == f"JSON Parse error: {words} at offset: {offset}"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 1, "a": 2}', {"a": 1}),
        (b"[Inf, -Inf, Infinity]", [math.inf, -math.inf, math.inf]),
        (b'["\\ud83d\\ude00"]', ["\U0001f600"]),
        (b"[18446744073709551616]", [1.8446744073709552e19]),
        (b"[1.7976931348623157e308, -1e+100]", [1.7976931348623157e308, -1e100]),
        (b"[1e-999, 1" + b"0" * 300 + b"]", [0.0, 1e300]),
        (b'{"b64": "e123", "x": -Infinity}', {"b64": "e123", "x": -math.inf}),
        (b'\n{"x": []} trailing', {"x": []}),
        (b"[" + b"9" * 5000 + b"e-5000]", [0.0]),
    ],
)
def test_quirks(body, value):
    result = parse(body)
    assert result == value or result == [pytest.approx(value[0], abs=10)]


def test_bytes_that_are_not_utf8_pass_through():
    inputs = decode_predict(read_document(b'{"instances": ["a\xff\xfe"]}'), {"s": "DT_STRING"})[1]
    assert inputs["s"].tolist() == [b"a\xff\xfe"]
    body = encode_predict({"s": inputs["s"]}, row=True)
    assert b'"a\xff\xfe"' in body


def test_feature_names_that_are_no_utf8():
    from serving.server.http.json_examples import decode_examples

    with pytest.raises(ServingError, match="must be UTF-8"):
        decode_examples(read_document(b'{"examples": [{"a\xff": 1}]}'))


def test_debug_text_is_bounded():
    assert debug_text({"a": [1, {"b": {}}], "c": "x"}) == (
        '{\n    "a": [1, {\n            "b": {}\n        }],\n    "c": "x"\n}'
    )
    assert len(debug_text(list(range(10**6)))) == 256
    assert len(debug_text("y" * 10**6)) == 256
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert debug_text(deep) == "[" * 256


@pytest.mark.parametrize("count", [1, 1000])
def test_a_number_too_big_is_found_among_few_values_and_many(count):
    with pytest.raises(ServingError, match="Number too big to be stored in double"):
        parse(b"[" + b"1.5," * count + b"1e999]")


@settings(max_examples=200)
@given(hnp.arrays(st.sampled_from([np.float32, np.float64]), st.sampled_from([5, 65])))
def test_number_text_reads_back_exactly_in_its_type(values):
    texts = decimals(values)
    # Few values and many are written in two ways, to the same text.
    assert texts == [decimals(value)[0] for value in values]
    with np.errstate(over="ignore"):
        back = np.array([float(text) for text in texts], np.float64).astype(values.dtype)
    np.testing.assert_array_equal(back, values)
    for text, value in zip(texts, values.tolist(), strict=True):
        if math.isfinite(value):
            assert "." in text or "e" in text
            assert json.loads(text) == float(text)


DTYPES = {np.float32: "DT_FLOAT", np.int64: "DT_INT64", np.uint8: "DT_UINT8", np.bool_: "DT_BOOL"}


@given(
    hnp.arrays(st.sampled_from(list(DTYPES)), hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)),
    st.booleans(),
)
def test_encode_then_decode(array, row):
    body = encode_predict({"t": array}, row=row)
    document = json.loads(body)
    key, request = ("predictions", "instances") if row else ("outputs", "inputs")
    again = json.dumps({request: document[key]}).encode()
    is_row, inputs = decode_predict(read_document(again), {"t": DTYPES[array.dtype.type]})
    assert is_row == row
    assert inputs["t"].dtype == array.dtype
    np.testing.assert_array_equal(inputs["t"], array)


def test_empty_dimensions():
    array = np.zeros((2, 0, 3), np.float32)
    assert json.loads(encode_predict({"t": array}, row=False)) == {"outputs": [[], []]}
    assert json.loads(encode_predict({"t": array}, row=True)) == {"predictions": [[], []]}


def test_several_outputs_in_rows():
    outputs = {"a": np.array([1, 2]), "b_bytes": np.array([b"x", b"\xff"], object)}
    rows = json.loads(encode_predict(outputs, row=True))["predictions"]
    assert rows == [{"a": 1, "b_bytes": {"b64": "eA=="}}, {"a": 2, "b_bytes": {"b64": "/w=="}}]


@given(st.binary())
def test_base64_as_anyone_writes_it(data):
    text = base64.b64encode(data).decode()
    assert decode_base64(text) == data
    assert decode_base64(text.rstrip("=")) == data
    assert decode_base64(" ".join(text)) == data


@given(st.text(alphabet="AZaz09+/=-_ \n\u00e9", max_size=14))
def test_base64_of_any_text_is_read_by_its_grammar(text):
    plain = "".join(text.split())
    match = re.fullmatch(r"([A-Za-z0-9+/]*)(={0,2})", plain)
    digits, padding = match.groups() if match else ("A", "")
    if len(digits) % 4 == 1 or (padding and len(digits + padding) % 4):
        with pytest.raises(ServingError, match="Unable to base64 decode"):
            decode_base64(text)
    else:
        assert decode_base64(text) == base64.b64decode(digits + "===")


@pytest.mark.parametrize("text", ["a", "ab=", "ab===", "a-b_", "abc!", "=", "ab=c", "é"])
def test_base64_that_is_refused(text):
    with pytest.raises(ServingError, match="Unable to base64 decode"):
        decode_base64(text)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[1]", "Is not object"),
        (b'{"instances": []}', "No values in 'instances' array"),
        (b'{"instances": [null]}', "JSON Value: null Type: Null is not of expected type: float"),
        (b'{"inputs": [1.0, null]}', "JSON Value: null Type: Null is not of expected type: float"),
        (b'{"instances": [[null]]}', "JSON Value: null Type: Null is not of expected type: float"),
        (b'{"instances": [true]}', "JSON Value: true Type: True is not of expected type: float"),
        (b'{"instances": [1, [2]]}', "Expecting shape [] but got: [1]"),
        (b'{"instances": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}", "at most 32 dimensions"),
    ],
)
def test_refusals_beyond_the_shared_cases(body, words):
    with pytest.raises(ServingError) as caught:
        decode_predict(read_document(body), {"x": "DT_FLOAT"})
    assert words in caught.value.message
    assert caught.value.code == "INVALID_ARGUMENT"


def test_error_body_keeps_any_text():
    assert json.loads(encode_error('a "b"\n\x00é')) == {"error": 'a "b"\n\x00é'}
