"""The protocol's calls, whichever way they came: readiness, metadata, inference."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Generic

import numpy as np

from serving.engines.saved_model import DEFAULT_SIGNATURE
from serving.server.errors import ServingError, invalid
from serving.server.extras.hooks import NO_HOOKS, Hooks
from serving.server.models.manager import ModelManager, Servable
from serving.server.observability.health import Readiness
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import Steps, T
from serving.server.scheduling.dispatch import Dispatcher, OnGone
from serving.server.v2.tensors import datatype_of, from_tensorflow

EXTENSIONS = ("binary_tensor_data",)
#: A request's parameter that names one of a SavedModel's signatures.
SIGNATURE_PARAMETER = "signature_name"
_API = "ModelInfer"


@dataclass(frozen=True)
class InferRequest:
    """What is asked of a model.

    Attributes:
      inputs: name -> array.
      outputs: names to answer with; empty for all.
      signature: of the SavedModel.
      id: comes back with the answer.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...] = ()
    signature: str = DEFAULT_SIGNATURE
    id: str = ""


@dataclass(frozen=True)
class InferAnswer:
    """What a model says, and which version of it."""

    model: str
    version: int
    id: str
    outputs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TensorMetadata:
    """An input or output; -1 is any size, and of unknown rank the shape is just that."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelMetadata:
    """A model's versions and the inputs and outputs of one signature."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...] = field(default=())
    outputs: tuple[TensorMetadata, ...] = field(default=())


class OpenInference:
    """The calls; `infer` is awaited, `infer_here` blocks, the others answer at once."""

    def __init__(
        self,
        models: ModelManager,
        metrics: Metrics,
        dispatcher: Dispatcher,
        *,
        hooks: Hooks = NO_HOOKS,
        readiness: Readiness | None = None,
    ) -> None:
        """Takes what the server is made of.

        Args:
          models: those served.
          metrics: get every request.
          dispatcher: gives them places to run in.
          hooks: what is done beside answering.
          readiness: of the server; None is that of `models` alone.
        """
        self._models = models
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._hooks = hooks
        self._readiness = readiness or Readiness(models)

    def server_ready(self) -> bool:
        """Whether all models are ready, as the protocol has it; not so when there is none."""
        return self._readiness.is_ready()

    def server_metadata(self) -> tuple[str, str, tuple[str, ...]]:
        """(name, version, extensions) of this server."""
        return "sightline", metadata.version("sightline"), EXTENSIONS

    def model_ready(self, model: str, version: str) -> bool:
        """Whether a version, a label, or with an empty version any of them, can be asked.

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

    def model_metadata(self, model: str, version: str) -> ModelMetadata:
        """The inputs and outputs of `serving_default`, or of the only signature.

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
            return ModelMetadata(
                name=model,
                versions=tuple(str(v) for v in self._models.available().get(model, [])),
                platform=_platform(servable),
                inputs=_tensors(signature.inputs),
                outputs=_tensors(signature.outputs),
            )

    async def infer(
        self, call: "InferCall[T]", *, headers: Mapping[str, str], timeout: float | None
    ) -> T:
        """What the call's `write` makes of the answer, for REST.

        Args:
          call: see there.
          headers: of the request, by lower-case name.
          timeout: seconds; None sets no bound.

        Raises:
          ServingError: whatever is wrong with the request, or the model refuses.
        """
        with self._counted(call, "REST", headers) as steps:
            return await self._dispatcher.run(steps, timeout=timeout)

    def infer_here(
        self,
        call: "InferCall[T]",
        *,
        headers: Mapping[str, str],
        timeout: float | None,
        on_gone: OnGone,
    ) -> T:
        """The same for gRPC, in the calling thread.

        Args:
          call: see there.
          headers: of the request, by lower-case name.
          timeout: seconds; None sets no bound.
          on_gone: tells when the client goes away.

        Raises:
          ServingError: whatever is wrong with the request, or the model refuses.
        """
        with self._counted(call, "GRPC", headers) as steps:
            return self._dispatcher.run_here(steps, timeout=timeout, on_gone=on_gone)

    @contextmanager
    def _counted(
        self, call: "InferCall[T]", entry: str, headers: Mapping[str, str]
    ) -> Iterator[Steps[T]]:
        # Names that clients make up must not become metrics.
        name = call.model if self._models.knows(call.model) else ""
        with self._metrics.counting(name, _API, entry):
            yield self._hooks.traced(self._steps(call, headers), f"{_API} {name}", headers)

    def _steps(self, call: "InferCall[T]", headers: Mapping[str, str]) -> Steps[T]:
        request = call.read()
        chosen = self._hooks.steer(call.model, *parse_version(call.version), headers)
        with self._models.use(call.model, *chosen) as servable:
            _check_datatypes(servable, request)
            outputs = yield from self._hooks.predict(
                servable, request.signature, request.inputs, request.outputs
            )
            answer = InferAnswer(servable.name, servable.version, request.id, outputs)
        return call.write(request, answer)


@dataclass(frozen=True)
class InferCall(Generic[T]):
    """An inference before it is decoded: decoding and encoding are work for a thread.

    Attributes:
      model: its name.
      version: a number, a label, or empty.
      read: the request, decoded; may raise ServingError.
      write: encodes the answer.
    """

    model: str
    version: str
    read: Callable[[], InferRequest]
    write: Callable[[InferRequest, InferAnswer], T]


def parse_version(text: str) -> tuple[int | None, str | None]:
    """(version, label) of the protocol's version, which is text: a number or one of our labels.

    Raises:
      ServingError: a number beyond 64 bits.
    """
    if not text:
        return None, None
    if not (text.isascii() and text.isdigit()):
        return None, text
    # Without its zeros, and lengths first: Python refuses to read thousands of digits.
    digits = text.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) >= 2**63:
        raise invalid(f"the version {text[:40]} is beyond 64 bits")
    return int(digits), None


def _platform(servable: Servable) -> str:
    runtime = servable.engine.runtime.lower()
    return "tensorflow_savedmodel" if "lite" not in runtime else "tensorflow_lite"


def _tensors(infos: Mapping[str, Any]) -> tuple[TensorMetadata, ...]:
    return tuple(
        TensorMetadata(name, from_tensorflow(info.dtype), _shape(info.shape))
        for name, info in infos.items()
    )


def _shape(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    return (-1,) if shape is None else shape


def _check_datatypes(servable: Servable, request: InferRequest) -> None:
    signature = servable.engine.signatures.get(request.signature)
    for name, array in request.inputs.items():
        info = signature.inputs.get(name) if signature else None
        if info is not None and from_tensorflow(info.dtype) != datatype_of(array):
            raise invalid(
                f"input {name!r} is {datatype_of(array)}, the model takes "
                f"{from_tensorflow(info.dtype)}"
            )
