"""TF Serving's REST paths."""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from serving.server.errors import ServingError, invalid

#: Everything else is a bare 404.
_API = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<verb>classify|regress|predict)", re.IGNORECASE
)
_LOOK = re.compile(
    rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<verb>metadata))?", re.IGNORECASE
)
_MAX_VERSION = 2**63 - 1


class VersionOverflowError(ServingError):
    """A version beyond int64; TF Serving answers it with an empty body."""


@dataclass(frozen=True)
class Route:
    """What a path asks for.

    Attributes:
      name: the model, percent-decoded; empty when the path has none.
      version: or None.
      label: percent-decoded, or None.
      verb: as written in the path: `predict`, `classify`, `regress`, `metadata`, or empty for
        status.
    """

    name: str
    version: int | None
    label: str | None
    verb: str


def is_api(path: str) -> bool:
    """Whether the path belongs to the API at all."""
    return _API.fullmatch(path) is not None


def parse_route(method: str, path: str) -> Route | None:
    """The route of a request, None when no pattern fits.

    Args:
      method: `GET` or `POST`; no other has a route.
      path: as sent, still percent-encoded, so that a name may hold `/` and `:`.

    Raises:
      VersionOverflowError: the version does not fit int64.
    """
    pattern = {"POST": _CALL, "GET": _LOOK}.get(method)
    found = pattern.fullmatch(path) if pattern else None
    if not found:
        return None
    version = found["version"]
    # Without its zeros, and lengths first: Python refuses to read thousands of digits.
    digits = version and (version.lstrip("0") or "0")
    if digits is not None and (len(digits) > 19 or int(digits) > _MAX_VERSION):
        raise VersionOverflowError(
            "INVALID_ARGUMENT", f"Failed to convert version: {version} to numeric."
        )
    return Route(
        name=_decode(found["name"] or ""),
        version=None if digits is None else int(digits),
        label=None if found["label"] is None else _decode(found["label"]),
        verb=found["verb"] or "",
    )


def malformed(method: str, path: str) -> ServingError:
    """What every request that no route fits is answered; never 405."""
    return invalid(f"Malformed request: {method} {path}")


def _decode(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")
