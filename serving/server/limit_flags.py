"""The flags of `serving.limits.Limits`."""

import argparse
import contextlib
import dataclasses

from serving.limits import DEFAULT_LIMITS, Limits

_HELP = {
    "max_header_bytes": "of a REST request's line and headers, or a gRPC call's metadata",
    "max_inflated_bytes": "of a REST body without its gzip",
    "max_repeated_bytes": "that a gRPC request's single values may be repeated to",
    "max_body_bytes_in_flight": "of all REST bodies together, and of all gRPC messages",
    "max_connections": "of REST; 0 is half of the process's descriptors",
    "idle_timeout_s": "before a connection without a request is closed",
}


def add_limit_flags(parser: argparse.ArgumentParser) -> None:
    """The flags, each with its default."""
    group = parser.add_argument_group("limits (all our own)")
    for field in dataclasses.fields(Limits):
        default = getattr(DEFAULT_LIMITS, field.name)
        kind = _seconds if isinstance(default, float) else _size
        least = "" if field.name == "max_connections" else f"; default {default:g}"
        flag, text = flag_name(field.name), f"{_HELP[field.name]}{least}"
        group.add_argument(flag, type=kind, default=default, dest=field.name, help=text)


def flag_name(field: str) -> str:
    """The flag of a field, e.g. `--idle_timeout_seconds`."""
    return "--" + (field.removesuffix("_s") + "_seconds" if field.endswith("_s") else field)


def read_limits(flags: argparse.Namespace) -> Limits:
    """The limits of a parser with `add_limit_flags`."""
    names = [field.name for field in dataclasses.fields(Limits)]
    return Limits(**{name: getattr(flags, name) for name in names})


def _size(text: str) -> int:
    if not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"a whole number of at least 0, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    value = seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"seconds above 0, got {text!r}")
    return value


def seconds(text: str) -> float:
    """Of a flag: a number of at least 0.

    Raises:
      argparse.ArgumentTypeError: anything else.
    """
    value = -1.0
    with contextlib.suppress(ValueError):
        value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"seconds of at least 0, got {text!r}")
    return value
