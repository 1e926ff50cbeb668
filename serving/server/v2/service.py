"""The protocol's calls for REST and gRPC: readiness, metadata, inference."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Generic

import numpy as np

from serving.engines.saved_model import DEFAULT_SIGNATURE
from serving.server.errors import ServingError, invalid
from serving.server.extras.hooks import NO_HOOKS, Hooks
from serving.server.models.manager import ModelManager
from serving.server.models.servable import Servable
from serving.server.observability.health import Readiness
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import Steps, T
from serving.server.scheduling.dispatch import Dispatcher, OnDisconnect
from serving.server.v2.tensors import datatype_of, from_tensorflow

EXTENSIONS = ("binary_tensor_data",)
#: A request's parameter that names one of a SavedModel's signatures.
SIGNATURE_PARAMETER = "signature_name"
_API = "ModelInfer"


@dataclass(frozen=True)
class InferRequest:
    """A decoded request.

    Attributes:
      inputs: name -> array.
      outputs: names of the requested outputs; empty for all.
      signature: of the SavedModel.
      id: copied to the response.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...] = ()
    signature: str = DEFAULT_SIGNATURE
    id: str = ""


@dataclass(frozen=True)
class InferResponse:
    """The outputs of a model, and the version that computed them."""

    model: str
    version: int
    id: str
    outputs: Mapping[str, np.ndarray]


class OpenInference:
    """The calls; `infer` is a coroutine, `infer_here` blocks, the others return at once."""

    def __init__(
        self,
        models: ModelManager,
        metrics: Metrics,
        dispatcher: Dispatcher,
        *,
        hooks: Hooks = NO_HOOKS,
        readiness: Readiness | None = None,
    ) -> None:
        """Creates the calls.

        Args:
          models: the served models.
          metrics: count every request.
          dispatcher: runs the requests.
          hooks: optional features around a call.
          readiness: of the server; None uses that of `models` alone.
        """
        self._models = models
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._hooks = hooks
        self._readiness = readiness or Readiness(models)

    def server_ready(self) -> bool:
        """Whether there are models and all are ready, as the protocol requires."""
        return self._readiness.is_ready()

    def server_metadata(self) -> tuple[str, str, tuple[str, ...]]:
        """(name, version, extensions) of this server."""
        return "sightline", metadata.version("sightline"), EXTENSIONS

    def model_ready(self, model: str, version: str) -> bool:
        """Whether the version or label, or any version if it is empty, is loaded.

        Raises:
          ServingError: NOT_FOUND, no model of that name.
        """
        if not self._models.knows(model):
            raise ServingError("NOT_FOUND", f"no model {model!r}")
        try:
            with self._models.use(model, *parse_version(version)):
                return True
        except ServingError:
            return False

    def model_metadata(self, model: str, version: str) -> dict[str, Any]:
        """The protocol's metadata: versions, platform, inputs and outputs.

        The signature is `serving_default`, or the only one. In a shape, -1 is any size; (-1,) also
        stands for unknown rank.

        Raises:
          ServingError: no such model or version, or several signatures and none the default.
        """
        with self._models.use(model, *parse_version(version)) as servable:
            signatures = servable.engine.signatures
            only = next(iter(signatures.values())) if len(signatures) == 1 else None
            signature = signatures.get(DEFAULT_SIGNATURE, only)
            if signature is None:
                raise invalid(
                    f"model {model!r} has no signature {DEFAULT_SIGNATURE}, but {list(signatures)}"
                )
            return {
                "name": model,
                "versions": [str(v) for v in self._models.available().get(model, [])],
                "platform": _platform(servable),
                "inputs": _tensors(signature.inputs),
                "outputs": _tensors(signature.outputs),
            }

    async def infer(
        self, call: "InferCall[T]", *, headers: Mapping[str, str], timeout: float | None
    ) -> T:
        """The result of the call's `write`, for REST.

        Args:
          call: see `InferCall`.
          headers: of the request, by lower-case name.
          timeout: seconds; None sets no bound.

        Raises:
          ServingError: an invalid request, or the model refuses it.
        """
        with self._counted(call, "REST", headers) as steps:
            return await self._dispatcher.run(steps, timeout=timeout)

    def infer_here(
        self,
        call: "InferCall[T]",
        *,
        headers: Mapping[str, str],
        timeout: float | None,
        on_disconnect: OnDisconnect,
    ) -> T:
        """The same for gRPC, in the calling thread.

        Args:
          call: see `InferCall`.
          headers: of the request, by lower-case name.
          timeout: seconds; None sets no bound.
          on_disconnect: registers what to call when the client disconnects.

        Raises:
          ServingError: an invalid request, or the model refuses it.
        """
        with self._counted(call, "GRPC", headers) as steps:
            return self._dispatcher.run_here(steps, timeout=timeout, on_disconnect=on_disconnect)

    @contextmanager
    def _counted(
        self, call: "InferCall[T]", entry: str, headers: Mapping[str, str]
    ) -> Iterator[Steps[T]]:
        # Unknown names must not become metrics: clients can invent any number of them.
        name = call.model if self._models.knows(call.model) else ""
        with self._metrics.counting(name, _API, entry):
            yield self._hooks.traced(self._steps(call, headers), f"{_API} {name}", headers)

    def _steps(self, call: "InferCall[T]", headers: Mapping[str, str]) -> Steps[T]:
        request = call.read()
        chosen = self._hooks.choose_version(call.model, *parse_version(call.version), headers)
        with self._models.use(call.model, *chosen) as servable:
            _check_datatypes(servable, request)
            outputs = yield from self._hooks.call(
                "Predict", servable, request.signature, request.inputs, request.outputs
            )
            response = InferResponse(servable.name, servable.version, request.id, outputs)
        return call.write(request, response)


@dataclass(frozen=True)
class InferCall(Generic[T]):
    """An inference before decoding, which runs in a worker thread, as encoding does.

    Attributes:
      model: its name.
      version: a number, a label, or empty.
      read: decodes the request; may raise ServingError.
      write: encodes the response.
    """

    model: str
    version: str
    read: Callable[[], InferRequest]
    write: Callable[[InferRequest, InferResponse], T]


def parse_version(text: str) -> tuple[int | None, str | None]:
    """(version, label) of the protocol's version: the text of a number or of a label.

    Raises:
      ServingError: a number beyond 64 bits.
    """
    if not text:
        return None, None
    if not (text.isascii() and text.isdigit()):
        return None, text
    # The length is checked first: Python refuses to parse thousands of digits.
    digits = text.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) >= 2**63:
        raise invalid(f"the version {text[:40]} is beyond 64 bits")
    return int(digits), None


def _platform(servable: Servable) -> str:
    runtime = servable.engine.runtime.lower()
    return "tensorflow_savedmodel" if "lite" not in runtime else "tensorflow_lite"


def _tensors(infos: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "datatype": from_tensorflow(info.dtype),
            "shape": [-1] if info.shape is None else list(info.shape),
        }
        for name, info in infos.items()
    ]


def _check_datatypes(servable: Servable, request: InferRequest) -> None:
    signature = servable.engine.signatures.get(request.signature)
    for name, array in request.inputs.items():
        info = signature.inputs.get(name) if signature else None
        if info is not None and from_tensorflow(info.dtype) != datatype_of(array):
            raise invalid(
                f"input {name!r} is {datatype_of(array)}, the model takes "
                f"{from_tensorflow(info.dtype)}"
            )
