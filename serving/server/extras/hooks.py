"""The optional features around a call of a model: canary, request log, shadow traffic, traces.

REST, gRPC and V2 run every call through `Hooks`, which does nothing else by default.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from serving.server.extras.tracing import OpenTelemetry
from serving.server.extras.traffic import Canary
from serving.server.models import inference
from serving.server.models.servable import Servable
from serving.server.scheduling.calls import Steps, T


@dataclass(frozen=True)
class Exchange:
    """The request and the response of a call of a model. Neither may be changed.

    Attributes:
      api: `Predict`, `Classify`, `Regress` or `MultiInference`.
      servable: the version that ran; it may be unloaded by now.
      signature: the requested name, may be empty.
      request: the inputs of Predict, name -> array; the `Input` proto of Classify and Regress; the
        request proto of MultiInference.
      response: the outputs of Predict, name -> array; otherwise the proto of the result.
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
        """The approximate memory of request and response."""
        if self.api != "Predict":
            return self.request.ByteSize() + self.response.ByteSize()
        arrays = map(np.asarray, (*self.request.values(), *self.response.values()))
        return sum(map(_array_bytes, arrays))


def _array_bytes(array: np.ndarray) -> int:
    strings = array.dtype.kind == "O"
    return sum(map(len, array.ravel().tolist())) if strings else array.nbytes


#: Receives every successful exchange, in the thread of the request: it must not block.
Observer: TypeAlias = Callable[[Exchange], None]


class Hooks:
    """The canary, observers and tracer of a server; every method is thread-safe."""

    def __init__(
        self,
        *,
        canary: Canary | None = None,
        observers: Sequence[Observer] = (),
        tracer: OpenTelemetry | None = None,
    ) -> None:
        self._canary = canary
        self._observers = tuple(observers)
        self._tracer = tracer

    @property
    def reads_headers(self) -> bool:
        """Whether any hook needs the headers or metadata of a request."""
        return self._canary is not None or self._tracer is not None

    def choose_version(
        self, model: str, version: int | None, label: str | None, headers: Mapping[str, str]
    ) -> tuple[int | None, str | None]:
        """The (version, label) to serve: those of the request, or else the canary's choice."""
        if self._canary is None or version is not None or label:
            return version, label
        return self._canary.choose(model, headers)

    def traced(self, steps: Steps[T], name: str, headers: Mapping[str, str]) -> Steps[T]:
        """The steps of a request, recorded as a span called `name` under the client's span."""
        return steps if self._tracer is None else self._tracer.traced(steps, name, headers)

    def call(
        self,
        api: str,
        servable: Servable,
        signature: str,
        request: Any,
        output_filter: Sequence[str] = (),
    ) -> Steps[Any]:
        """The response of `serving.server.models.inference`, passed to the observers.

        Args:
          api: see `Exchange`, as the other arguments.
          servable: the version, kept loaded.
          signature: empty for the default.
          request: the inputs or the proto.
          output_filter: of Predict.

        Raises:
          ServingError: an invalid request, or the model refuses it.
        """
        kept = tuple(output_filter)
        if api == "Predict":
            response = yield from inference.predict(servable, signature, request, kept)
        elif api == "Classify":
            response = yield from inference.classify(servable, signature, request)
        elif api == "Regress":
            response = yield from inference.regress(servable, signature, request)
        else:
            response = yield from inference.multi_inference(servable, request)
        for observe in self._observers:
            observe(Exchange(api, servable, signature, request, response, kept))
        return response


NO_HOOKS = Hooks()
