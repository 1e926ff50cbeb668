"""What a transport offers the clients: each operation once, whoever waits for the answers.

An operation is a generator: it yields requests, is sent their answers and returns the result. So
`sync.py` and `aio.py` differ only in how they wait.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from serving.client.errors import ClientError
from serving.protocol.types import ModelVersion, Signature

T = TypeVar("T")

#: Yields requests of its transport, is sent their answers, returns the result.
Steps: TypeAlias = Generator[Any, Any, T]
#: Output name -> one value an image: lists over REST, arrays over gRPC.
Columns: TypeAlias = Mapping[str, Sequence[Any] | np.ndarray]
#: Values of one feature of a tf.Example: all ints, all floats, or all text or bytes.
FeatureValue: TypeAlias = (
    int | float | str | bytes | Sequence[int] | Sequence[float] | Sequence[str | bytes] | np.ndarray
)
#: A tf.Example by feature name, or serialized.
Example: TypeAlias = Mapping[str, FeatureValue] | bytes


@dataclass(frozen=True)
class Target:
    """Which model answers: the newest version, one version, or the one with a label."""

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

    def images(self, coded: list[bytes], target: Target, signature: str) -> Steps[Columns]:
        """The outputs of a signature that takes encoded images."""
        ...

    def run(
        self, inputs: Mapping[str, np.ndarray], target: Target, signature: str
    ) -> Steps[dict[str, np.ndarray]]:
        """Predict: any signature, arrays in and out."""
        ...

    def classify(
        self, examples: Sequence[Example], target: Target, signature: str
    ) -> Steps[list[list[tuple[str, float]]]]:
        """Classify: (label, score) pairs of each example."""
        ...

    def regress(
        self, examples: Sequence[Example], target: Target, signature: str
    ) -> Steps[np.ndarray]:
        """Regress: (B,) float32."""
        ...

    def status(self, target: Target) -> Steps[list[ModelVersion]]:
        """The versions that the server knows of, newest first."""
        ...

    def metadata(self, target: Target) -> Steps[dict[str, Any]]:
        """TF Serving's metadata answer, as its REST API writes it."""
        ...


class Transport(Protocol):
    """Sends what the API of the same transport yields."""

    def send(self, request: Any, timeout_s: float) -> Any:
        """The answer to one try; raises `errors.Failure`."""
        ...

    def close(self) -> None:
        """Ends the connections."""
        ...


@dataclass(frozen=True)
class Done:
    """The result of an operation that has no further request."""

    result: Any


def advance(steps: Steps[Any], answer: Any = None) -> Any:
    """The operation's next request, or `Done`.

    Args:
      steps: the operation.
      answer: to the request before; None at the start.
    """
    try:
        return steps.send(answer)
    except StopIteration as end:
        return Done(end.value)


def signature_of(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The signatures' map inside a metadata answer.

    Raises:
      ClientError: it is no such answer.
    """
    try:
        return metadata["metadata"]["signature_def"]["signature_def"]
    except (KeyError, TypeError) as error:
        raise ClientError(f"not a metadata answer: {str(metadata)[:200]}") from error


def read_signatures(api: Api, target: Target) -> Steps[dict[str, Signature]]:
    """What can be asked of the model, by signature name."""
    found = signature_of((yield from api.metadata(target)))
    return {name: Signature.from_json(entry) for name, entry in found.items()}
