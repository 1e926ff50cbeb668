"""What a server told of its models' signatures, for as long as it can be relied on."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.client.api import Target, signature_of
from serving.client.errors import ClientError
from serving.protocol.types import Signature

#: Seconds after which a model without a fixed version is asked about again: by then another one may
#: be the newest, and an answer does not say which version gave it.
KEPT_S = 60.0


@dataclass(frozen=True)
class _Told:
    version: str
    at: float
    signatures: dict[str, Signature]


class Signatures:
    """Signatures by model; any thread may use it."""

    def __init__(self) -> None:
        self._told: dict[Target, _Told] = {}

    def get(self, target: Target, name: str) -> Signature | None:
        """What is known of it; None where the server is to be asked."""
        told = self._told.get(target)
        if told is None:
            return None
        if target.version is None and time.monotonic() - told.at > KEPT_S:
            return None
        return told.signatures.get(name)

    def learn(self, target: Target, name: str, metadata: Mapping[str, Any]) -> Signature:
        """The signature in a metadata answer, which is kept.

        Raises:
          ClientError: no such answer, or no such signature in it.
        """
        found = signature_of(metadata)
        if name not in found:
            raise ClientError(
                f"{target} has no signature {name!r}; it has {', '.join(sorted(found))}"
            )
        signature, version = Signature.from_json(found[name]), _version(metadata)
        known = self._told.get(target)
        others = known.signatures if known is not None and known.version == version else {}
        self._told[target] = _Told(version, time.monotonic(), {**others, name: signature})
        return signature

    def heard_metadata(self, target: Target, metadata: Mapping[str, Any]) -> None:
        """Forgets what another version than the one in this answer had."""
        self.heard_version(target, _version(metadata))

    def heard_version(self, target: Target, version: str) -> None:
        """Forgets what another version had."""
        told = self._told.get(target)
        if told is not None and told.version != version:
            self._told.pop(target, None)


def _version(metadata: Mapping[str, Any]) -> str:
    spec = metadata.get("model_spec")
    return str(spec.get("version", "")) if isinstance(spec, Mapping) else ""
