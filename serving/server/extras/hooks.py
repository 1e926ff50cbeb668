"""What a server does beside answering: steer a canary's share, log, shadow, trace.

The front ends run every call of a model through `Hooks`, which does nothing of it by default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from serving.server.models.manager import Servable
from serving.server.scheduling.calls import Outputs, Steps, T


@dataclass(frozen=True)
class Exchange:
    """A call of a model that was answered.

    Attributes:
      api: `Predict`, `Classify`, `Regress` or `MultiInference`.
      servable: the version that answered; it may be gone when this is read.
      signature: the name as asked for, may be empty.
      request: of Predict the inputs, name -> array; of Classify and Regress the `Input` proto; of
        MultiInference the request proto. Not to be changed.
      response: of Predict the outputs, name -> array; else the result's proto. Not to be changed.
      output_filter: of Predict.
    """

    api: str
    servable: Servable
    signature: str
    request: Any
    response: Any
    output_filter: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """About how much memory it keeps."""
        if self.api != "Predict":
            return self.request.ByteSize() + self.response.ByteSize()
        arrays = map(np.asarray, (*self.request.values(), *self.response.values()))
        return sum(map(_array_bytes, arrays))


def _array_bytes(array: np.ndarray) -> int:
    strings = array.dtype.kind == "O"
    return sum(map(len, array.ravel().tolist())) if strings else array.nbytes


class Watcher(Protocol):
    """Is told of every answered call, in the thread that answers: it must return at once."""

    def __call__(self, exchange: Exchange) -> None:
        """Takes note."""
        ...


class Steerer(Protocol):
    """Chooses a version for requests that name none."""

    def choose(self, model: str, headers: Mapping[str, str]) -> tuple[int | None, str | None]:
        """(version, label), at most one of them; neither leaves the choice to the server."""
        ...


class Tracer(Protocol):
    """Records what a request spends its time on."""

    def traced(self, steps: Steps[T], name: str, headers: Mapping[str, str]) -> Steps[T]:
        """The same steps, recorded."""
        ...


class Hooks:
    """A server's canary, watchers and tracer; every method may be called from any thread."""

    def __init__(
        self,
        *,
        canary: Steerer | None = None,
        watchers: Sequence[Watcher] = (),
        tracer: Tracer | None = None,
    ) -> None:
        self._canary = canary
        self._watchers = tuple(watchers)
        self._tracer = tracer

    @property
    def read_headers(self) -> bool:
        """Whether any of them looks at what a client sent beside its request."""
        return self._canary is not None or self._tracer is not None

    def steer(
        self, model: str, version: int | None, label: str | None, headers: Mapping[str, str]
    ) -> tuple[int | None, str | None]:
        """The (version, label) to serve: the request's own if it names one, else the canary's."""
        if self._canary is None or version is not None or label:
            return version, label
        return self._canary.choose(model, headers)

    def traced(self, steps: Steps[T], name: str, headers: Mapping[str, str]) -> Steps[T]:
        """The steps of a request, recorded as a span called `name` under the client's own."""
        return steps if self._tracer is None else self._tracer.traced(steps, name, headers)

    def predict(
        self,
        servable: Servable,
        signature: str,
        inputs: Mapping[str, Any],
        output_filter: Sequence[str] = (),
    ) -> Steps[Outputs]:
        """`inference.predict`, watched."""
        from serving.server.models import inference

        outputs = yield from inference.predict(servable, signature, inputs, output_filter)
        kept = tuple(output_filter)
        self._tell(Exchange("Predict", servable, signature, inputs, outputs, kept))
        return outputs

    def classify(self, servable: Servable, signature: str, examples: Any) -> Steps[Any]:
        """`inference.classify`, watched."""
        from serving.server.models import inference

        result = yield from inference.classify(servable, signature, examples)
        self._tell(Exchange("Classify", servable, signature, examples, result))
        return result

    def regress(self, servable: Servable, signature: str, examples: Any) -> Steps[Any]:
        """`inference.regress`, watched."""
        from serving.server.models import inference

        result = yield from inference.regress(servable, signature, examples)
        self._tell(Exchange("Regress", servable, signature, examples, result))
        return result

    def multi_inference(self, servable: Servable, request: Any) -> Steps[Any]:
        """`inference.multi_inference`, watched."""
        from serving.server.models import inference

        response = yield from inference.multi_inference(servable, request)
        self._tell(Exchange("MultiInference", servable, "", request, response))
        return response

    def _tell(self, exchange: Exchange) -> None:
        for watcher in self._watchers:
            watcher(exchange)


#: Nothing beside answering.
NO_HOOKS = Hooks()
