"""TF Serving's operations, written once for the blocking and the asyncio client.

An operation is a generator that yields requests, receives their responses and returns the result.
`sync.py` and `aio.py` differ only in how they wait for a response.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from serving.client.errors import ClientError
from serving.protocol.types import ModelVersion, Signature

T = TypeVar("T")

#: Yields requests of its transport, receives their responses, returns the result.
Steps: TypeAlias = Generator[Any, Any, T]
#: Output name -> one value per image: lists over REST, arrays over gRPC.
Columns: TypeAlias = Mapping[str, Sequence[Any] | np.ndarray]
#: Values of one feature of a tf.Example: all ints, all floats, or all text or bytes.
FeatureValue: TypeAlias = (
    int | float | str | bytes | Sequence[int] | Sequence[float] | Sequence[str | bytes] | np.ndarray
)
#: A tf.Example by feature name, or serialized.
Example: TypeAlias = Mapping[str, FeatureValue] | bytes


@dataclass(frozen=True)
class ModelSpec:
    """A model on the server: its newest version, a given version, or the version with a label."""

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError(
                f"give `version` or `label`, not both: got {self.version} and {self.label!r}"
            )

    def __str__(self) -> str:
        if self.label is not None:
            return f"{self.model} labeled {self.label}"
        return self.model if self.version is None else f"{self.model} version {self.version}"


class Api(Protocol):
    """TF Serving's operations over one transport."""

    def images(self, encoded: list[bytes], spec: ModelSpec, signature: str) -> Steps[Columns]:
        """The outputs of a signature that takes encoded images."""
        ...

    def run(
        self, inputs: Mapping[str, np.ndarray], spec: ModelSpec, signature: str
    ) -> Steps[dict[str, np.ndarray]]:
        """Predict: any signature, arrays in and out."""
        ...

    def classify(
        self, examples: Sequence[Example], spec: ModelSpec, signature: str
    ) -> Steps[list[list[tuple[str, float]]]]:
        """Classify: (label, score) pairs of each example."""
        ...

    def regress(
        self, examples: Sequence[Example], spec: ModelSpec, signature: str
    ) -> Steps[np.ndarray]:
        """Regress: (B,) float32."""
        ...

    def status(self, spec: ModelSpec) -> Steps[list[ModelVersion]]:
        """The model's versions on the server, newest first."""
        ...

    def metadata(self, spec: ModelSpec) -> Steps[dict[str, Any]]:
        """TF Serving's metadata response, as its REST API formats it."""
        ...


class Transport(Protocol):
    """Sends the requests that the `Api` of the same transport yields."""

    def send(self, request: Any, timeout_s: float) -> Any:
        """The response to one attempt; raises `errors.Failure`."""
        ...

    def close(self) -> None:
        """Closes the connections."""
        ...


@dataclass(frozen=True)
class Done:
    """The result of an operation that has finished."""

    result: Any


def advance(steps: Steps[Any], response: Any = None) -> Any:
    """The operation's next request, or `Done`.

    Args:
      steps: the operation.
      response: to the previous request; None at the start.
    """
    try:
        return steps.send(response)
    except StopIteration as end:
        return Done(end.value)


def signature_of(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The map of signatures in a metadata response.

    Raises:
      ClientError: the response has no signatures.
    """
    try:
        return metadata["metadata"]["signature_def"]["signature_def"]
    except (KeyError, TypeError) as error:
        raise ClientError(f"not a metadata response: {str(metadata)[:200]}") from error


def read_signatures(api: Api, spec: ModelSpec) -> Steps[dict[str, Signature]]:
    """The model's signatures by name."""
    found = signature_of((yield from api.metadata(spec)))
    return {name: Signature.from_json(entry) for name, entry in found.items()}
