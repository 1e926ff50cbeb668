"""The options of a job, which are the keyword arguments of its function."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfx_pipeline.ingest.source import IngestError
from trainers.registry import nearest

_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


def bind(
    job: str, function: Callable[..., Any], given: Mapping[str, Any] | Sequence[str]
) -> dict[str, Any]:
    """`given` as keyword arguments for the function of a job.

    Args:
      job: the registered name, for messages.
      function: the job.
      given: values by name, or `key=value` strings.

    Raises:
      IngestError: an unknown option (names the nearest ones) or a value of the wrong type.
    """
    known = describe(function)
    pairs = given.items() if isinstance(given, Mapping) else [_pair(one) for one in given]
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key not in known:
            hint = nearest(key, list(known)) if known else "it has no options"
            raise IngestError(f"`{job}` has no option {key!r}; {hint}")
        found[key] = _typed(f"{job} option {key}", value, type(known[key]))
    return found


def describe(function: Callable[..., Any]) -> dict[str, Any]:
    """The options of a job and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise IngestError(f"{text!r} is not `key=value`, e.g. captions=true")
    return key.strip(), value.strip()


def _typed(what: str, value: Any, kind: type) -> Any:
    """`value` converted to `kind`: text, a number or a Boolean."""
    if isinstance(value, kind) and not (kind is not bool and isinstance(value, bool)):
        return value
    text = str(value)
    if kind is bool and text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    if kind is str:
        return text
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    wanted = "true or false" if kind is bool else typing.cast(type, kind).__name__
    raise IngestError(f"{what} takes {wanted}, got {value!r}")
