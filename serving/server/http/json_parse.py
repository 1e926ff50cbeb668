r"""Parses JSON as RapidJSON does: NaN and Inf, any depth, the first of equal keys.

The standard library parses most documents at C speed. Documents that it refuses (deep nesting,
`Inf`, errors, lone surrogates) are parsed by an iterative parser with RapidJSON's error messages.
It is slow, so the number of its values is limited.
"""

import json
import re
from itertools import islice
from math import isinf
from typing import Any

from serving.server.errors import ServingError, invalid

#: Characters of a value in TF Serving's errors.
_DEBUG_LIMIT = 256

#: Maximum number of values of the slow parser, above RapidJSON's maximum depth of 500,000.
_MAX_SLOW_VALUES = 600_000

#: Maximum memory of one request's lists, objects and values.
MAX_PARSED_BYTES = 512 * 2**20
#: Approximate memory of each in CPython, with the list's buffer, and a key and its value.
_LIST_BYTES, _OBJECT_BYTES, _ITEM_BYTES = 88, 240, 16

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]*)?")
_NON_FINITE = re.compile(r"(-?)(NaN|Infinity|Inf)")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
#: One escape, or both of a surrogate pair; `lone` matches half a pair.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|"
    r"(?P<lone>u[dD][89a-fA-F])|.)",
    re.DOTALL,
)
_LITERALS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
_ESCAPES = {
    '"': '"',
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}
_TYPE_NAMES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


def parse(body: bytes) -> Any:
    """The first JSON value in `body`; bytes that are not UTF-8 become surrogate escapes.

    Raises:
      ServingError: not JSON, with RapidJSON's message and the byte offset.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    # Before parsing: an empty list of two bytes takes 64 bytes of memory.
    _check_memory(body)
    text = body.decode("utf-8", "surrogateescape")
    if not _has_lone_surrogate(text):
        is_short = body.count(b",") < _FEW_NUMBERS
        decoder = _CHECKING_DECODER if is_short or _may_be_too_big(body) else _DECODER
        try:
            start = _SPACE.match(text)
            value, _ = decoder.raw_decode(text, start.end() if start else 0)
            return value
        except (ValueError, RecursionError):
            pass
    # One character per byte, so that positions are RapidJSON's offsets.
    return _SlowParser(body.decode("latin-1")).document()


def _check_memory(body: bytes) -> None:
    """Raises an error for JSON whose lists, objects and values would take too much memory."""
    if len(body) * _OBJECT_BYTES <= MAX_PARSED_BYTES:
        return  # Even if each byte began an object. Counting takes as long as parsing an image.
    lists, objects, items = map(body.count, (b"[", b"{", b","))
    needed = _LIST_BYTES * lists + _OBJECT_BYTES * objects + _ITEM_BYTES * items
    if needed > MAX_PARSED_BYTES:
        raise invalid(
            f"JSON Parse error: {lists} lists, {objects} objects and {items} commas take more than "
            f"{MAX_PARSED_BYTES} bytes of memory; send fewer rows, images as base64, or use gRPC"
        )


def _has_lone_surrogate(text: str) -> bool:
    """Whether half an escaped pair lacks the other half, or there are too many escapes to check."""
    if not _SURROGATE_ESCAPE.search(text):
        return False
    escapes = _ESCAPE.finditer(text)
    if any(escape["lone"] for escape in islice(escapes, _MAX_SLOW_VALUES)):
        return True
    return next(escapes, None) is not None


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        members.setdefault(key, value)
    return members


def _may_be_too_big(body: bytes) -> bool:
    """Whether a number may be too big for a double, which the decoder would read as infinity.

    Such a number has an exponent of three digits, or more than 200 digits. Base64 text matches too,
    but then there are few numbers to check.
    """
    shape = body.translate(_SHAPE, b"+")
    return b"e000" in shape or _MANY_DIGITS in shape


def _double(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(f"{text} is too big")
    return value


def _integer(text: str) -> int:
    if len(text) >= len(_MANY_DIGITS):
        raise ValueError(f"{text} may be too big")
    return int(text)


#: Every digit as 0, every exponent as e.
_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
_MANY_DIGITS = b"0" * 200
#: Up to this number of commas, checking every number costs less than scanning the body.
_FEW_NUMBERS = 100

_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins)
#: Calling a Python function for each number doubles the time.
_CHECKING_DECODER = json.JSONDecoder(
    object_pairs_hook=_first_wins, parse_float=_double, parse_int=_integer
)


class _SlowParser:
    """Parses one document without recursion; each character of `text` stands for one byte."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._values = 0

    def document(self) -> Any:
        self._skip_space()
        if self._at >= len(self._text):
            raise self._error("The document is empty.")
        # Open containers, innermost last, each with the key of its next value.
        containers: list[Any] = []
        keys: list[str] = []
        while True:
            self._values += 1
            if self._values > _MAX_SLOW_VALUES:
                raise invalid(
                    f"JSON Parse error: there is an error, `Inf`, half a surrogate pair or deep "
                    f"nesting in more than {_MAX_SLOW_VALUES} values; send fewer, or plain JSON"
                )
            opened = self._open()
            if opened is not None and not self._closes_at_once(opened):
                containers.append(opened)
                keys.append(self._member_name() if isinstance(opened, dict) else "")
                continue
            value = self._scalar() if opened is None else opened
            while containers and self._add(containers[-1], keys, value):
                value = containers.pop()
                keys.pop()
            if not containers:
                return value

    def _open(self) -> Any:
        char = self._peek()
        if char not in ("[", "{"):
            return None
        self._at += 1
        self._skip_space()
        return [] if char == "[" else {}

    def _closes_at_once(self, opened: Any) -> bool:
        if self._peek() != ("]" if isinstance(opened, list) else "}"):
            return False
        self._at += 1
        return True

    def _add(self, container: Any, keys: list[str], value: Any) -> bool:
        """Adds `value`; True when the container ends after it, False when another value follows."""
        self._skip_space()
        is_list = isinstance(container, list)
        if is_list:
            container.append(value)
        else:
            container.setdefault(keys[-1], value)
        char = self._peek()
        if char == ("]" if is_list else "}"):
            self._at += 1
            return True
        if char != ",":
            where = "']' after an array element" if is_list else "'}' after an object member"
            raise self._error(f"Missing a comma or {where}.")
        self._at += 1
        self._skip_space()
        if not is_list:
            keys[-1] = self._member_name()
        return False

    def _member_name(self) -> str:
        if self._peek() != '"':
            raise self._error("Missing a name for object member.")
        name = self._string()
        self._skip_space()
        if self._peek() != ":":
            raise self._error("Missing a colon after a name of object member.")
        self._at += 1
        self._skip_space()
        return name

    def _scalar(self) -> Any:
        char = self._peek()
        if char == '"':
            return self._string()
        if char in _LITERALS:
            word, value = _LITERALS[char]
            if not self._text.startswith(word, self._at):
                raise self._error("Invalid value.")
            self._at += len(word)
            return value
        return self._number()

    def _number(self) -> int | float:
        special = _NON_FINITE.match(self._text, self._at)
        if special:
            self._at = special.end()
            return float(special[1] + ("nan" if special[2] == "NaN" else "inf"))
        found = _NUMBER.match(self._text, self._at)
        if not found:
            raise self._error("Invalid value.")
        self._at = found.end()
        fraction, exponent = found[1], found[2]
        if fraction == ".":
            raise self._error("Miss fraction part in number.")
        if exponent and not exponent[-1].isdigit():
            raise self._error("Miss exponent in number.")
        # In RapidJSON a whole number beyond 64 bits is a double.
        if fraction is None and exponent is None and len(found[0]) <= 20:
            whole = int(found[0])
            if -(2**63) <= whole < 2**64:
                return whole
        value = float(found[0])
        if isinf(value):
            self._at = found.start()
            raise self._error("Number too big to be stored in double.")
        return value

    def _string(self) -> str:
        begin = self._at
        self._at += 1
        pieces: list[bytes] = []
        while True:
            plain = _PLAIN.match(self._text, self._at)
            if plain:
                pieces.append(plain[0].encode("latin-1"))
                self._at = plain.end()
            char = self._peek()
            if char == '"':
                self._at += 1
                return b"".join(pieces).decode("utf-8", "surrogateescape")
            if char == "\\":
                pieces.append(self._escape().encode("utf-8"))
            elif char:
                raise self._error("Invalid encoding in string.")
            else:
                self._at = begin
                raise self._error("Missing a closing quotation mark in string.")

    def _escape(self) -> str:
        char = self._text[self._at + 1 : self._at + 2]
        if char in _ESCAPES:
            self._at += 2
            return _ESCAPES[char]
        if char != "u":
            raise self._error("Invalid escape character in string.")
        code = self._hex()
        if 0xD800 <= code <= 0xDFFF:
            low = self._hex() if self._text.startswith("\\u", self._at) else 0
            if code >= 0xDC00 or not 0xDC00 <= low <= 0xDFFF:
                raise self._error("The surrogate pair in string is invalid.")
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        return chr(code)

    def _hex(self) -> int:
        digits = self._text[self._at + 2 : self._at + 6]
        if not re.fullmatch(r"[0-9a-fA-F]{4}", digits):
            raise self._error("Incorrect hex digit after \\u escape in string.")
        self._at += 6
        return int(digits, 16)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip_space(self) -> None:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at

    def _error(self, words: str) -> ServingError:
        return invalid(f"JSON Parse error: {words} at offset: {self._at}")


def type_name(value: Any) -> str:
    """RapidJSON's name of the value's type, for errors."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    return _TYPE_NAMES[type(value)]


def debug_text(value: Any) -> str:
    """The first 256 characters of `value` for errors: objects indented, arrays on one line."""
    pieces: list[str] = []
    length = 0
    stack: list[tuple[str, Any, int]] = [("", value, 0)]
    while stack and length < _DEBUG_LIMIT:
        before, item, depth = stack.pop()
        pieces.append(before)
        if item is not _NOTHING:
            text, inside = _shallow(item, depth)
            pieces.append(text)
            stack.extend(reversed(inside))
        length = sum(map(len, pieces[-2:])) + length
    return "".join(pieces)[:_DEBUG_LIMIT]


_NOTHING = object()


def _shallow(value: Any, depth: int) -> tuple[str, list[tuple[str, Any, int]]]:
    """The text that starts `value`, and the rest as (text before, value or nothing, depth)."""
    if isinstance(value, list):
        shown = list(islice(value, _DEBUG_LIMIT))
        inside = [(", " if i else "", item, depth + 1) for i, item in enumerate(shown)]
        return "[", [*inside, ("]", _NOTHING, depth)]
    if isinstance(value, dict):
        if not value:
            return "{}", []
        margin = "\n" + " " * 4 * (depth + 1)
        shown = list(islice(value.items(), _DEBUG_LIMIT))
        inside = [
            (f"{',' if i else ''}{margin}{_scalar_text(key)}: ", item, depth + 1)
            for i, (key, item) in enumerate(shown)
        ]
        return "{", [*inside, ("\n" + " " * 4 * depth + "}", _NOTHING, depth)]
    return _scalar_text(value), []


def _scalar_text(value: Any) -> str:
    if isinstance(value, str):
        value = value[:_DEBUG_LIMIT]
    return json.dumps(value, ensure_ascii=False)
