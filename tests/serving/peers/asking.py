"""Common parts of the clients' scripts: the test data, and a transcript of calls and results.

Only the standard library, because it runs in the environment of every client.
"""

import json
import math
import platform
import re
import sys
import textwrap
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

#: (3, 1) inputs of half_plus_two, and the expected outputs.
X = [[1.0], [2.0], [-5.5]]
Y = [[x / 2 + 2 for x in row] for row in X]

#: A client's own type -> function that formats it for the transcript.
SHOWN = {}

_LONGEST_BYTES = 24
_LONGEST_MESSAGE = 160
_LONGEST_LINE = 600


def read_facts():
    """The data of the test, as attributes.

    `grpc` and `rest`: host:port. `photo`: the bytes of a real JPEG. `text_image`: a BMP whose
    bytes are ASCII, as text. `folder`: for temporary files. `answers`: the bundle's outputs in
    TensorFlow, by the images' names.
    """
    facts = SimpleNamespace(**json.loads(Path(sys.argv[1]).read_text()))
    facts.photo = Path(facts.photo).read_bytes()
    facts.text_image = Path(facts.text_image).read_bytes().decode()
    return facts


def check(got, expected):
    """Raises AssertionError unless the values are equal, floats within a relative 1e-5.

    Arrays count as lists, and bytes as text.
    """
    assert _same(_plain(got), expected), f"got {brief(got)}, not {brief(expected)}"


def _same(got, expected):
    if isinstance(expected, dict):
        keys = isinstance(got, dict) and got.keys() == expected.keys()
        return keys and all(_same(got[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return (
            isinstance(got, list) and len(got) == len(expected) and all(map(_same, got, expected))
        )
    if isinstance(expected, float):
        return isinstance(got, (int, float)) and math.isclose(got, expected, rel_tol=1e-5)
    return type(got) is type(expected) and got == expected


def _plain(value):
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def brief(value):
    """A value on one line, for the transcript."""
    for kind, show in SHOWN.items():
        if isinstance(value, kind):
            return show(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return f"{value:.1f}" if value.is_integer() else f"{value:.6g}"
    if isinstance(value, bytes) and len(value) > _LONGEST_BYTES:
        return f"<{len(value)} bytes>"
    if isinstance(value, str) and not value.isprintable():
        return f"<{len(value)} characters>"
    if isinstance(value, Mapping):
        # The order of a protobuf map differs between processes.
        items = sorted((repr(key), brief(one)) for key, one in value.items())
        return "{" + ", ".join(f"{key}: {one}" for key, one in items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(brief, value)) + "]"
    if hasattr(value, "DESCRIPTOR"):
        return f"<{type(value).__name__} {' '.join(str(value).split())[:_LONGEST_MESSAGE]}>"
    # Memory addresses differ between runs.
    return re.sub(r" at 0x\w+", "", repr(value))


def brief_error(error):
    """The name and text of an exception; for gRPC, whose text varies, its code and details."""
    text = str(error)
    if callable(getattr(error, "details", None)):
        text = f"{error.code().name}: {error.details()}"
    cause = f" <- {brief_error(error.__cause__)}" if error.__cause__ is not None else ""
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}{cause}"


class Transcript:
    """Calls a client and prints the call and its result."""

    def __init__(self, facts, *packages):
        """Prints the versions first.

        Args:
          facts: its addresses are printed as the default ones of a server.
          packages: names of packages whose versions are printed.
        """
        self._addresses = {facts.grpc: "localhost:8500", facts.rest: "localhost:8501"}
        versions = [f"{name} {metadata.version(name)}" for name in packages]
        self.print("# " + ", ".join([f"Python {platform.python_version()}", *versions]))

    def __call__(self, call, *args, **kwargs):
        """The result of the call."""
        self._print_call(call, args, kwargs)
        result = call(*args, **kwargs)
        self.print(brief(result))
        return result

    def refused(self, error, call, *args, **kwargs):
        """The exception of this type, which the call must raise."""
        self._print_call(call, args, kwargs)
        try:
            result = call(*args, **kwargs)
        except error as raised:
            self.print(f"!! {brief_error(raised)}")
            return raised
        raise AssertionError(f"no {error.__name__}, but the result {brief(result)}")

    def print(self, text):
        """Prints a line of the transcript."""
        for address, usual in self._addresses.items():
            text = text.replace(address, usual)
        if len(text) > _LONGEST_LINE:
            text = text[:_LONGEST_LINE] + " ..."
        print(textwrap.fill(text, 98, subsequent_indent="    ", break_on_hyphens=False))

    def _print_call(self, call, args, kwargs):
        given = [brief(one) for one in args] + [f"{k}={brief(v)}" for k, v in kwargs.items()]
        self.print(f">>> {call.__qualname__}({', '.join(given)})")
