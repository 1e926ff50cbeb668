"""Any SavedModel, run in a graph session as TF Serving runs it.

TF1 and TF2 models load alike, declared shapes are left to the graph to refuse, a call costs tens
of microseconds, and closing gives the memory back. TensorFlow is imported at the first load.
"""

import functools
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import bundle as bundles
from core.image_header import ImageError, check_image
from serving.engines.empty_batch import empty_outputs
from serving.engines.graph_import import Build, build_here, open_session
from serving.protocol.types import STATUS_CODES

#: The signature of a request that names none.
DEFAULT_SIGNATURE = "serving_default"
#: Feature of `predict_examples` that holds the image.
_IMAGE_FEATURE = "image/encoded"
#: Sets of outputs for which a compiled run is kept; beyond it the cache starts anew.
_MAX_CALLABLES = 64


class EngineError(ValueError):
    """A model that cannot be loaded or run.

    Attributes:
      code: the gRPC status name of the fault, e.g. `INVALID_ARGUMENT` for a bad input.
    """

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature.

    Attributes:
      tensor: name in the graph, e.g. `serving_default_x:0`.
      dtype: TensorFlow's enum name, e.g. `DT_FLOAT`.
      shape: -1 where unknown; None for unknown rank.
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    """A named way to call a SavedModel; `proto` is its `SignatureDef`."""

    name: str
    method_name: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    proto: Any


def load_saved_model(
    version_dir: Path | str,
    *,
    threads: int = 0,
    intra_op: int = 0,
    inter_op: int = 0,
    run_timeout_ms: int = 0,
    build: Build = build_here,
) -> "SavedModelEngine":
    """The SavedModel in `version_dir`, its variables restored and its initializers run.

    Args:
      version_dir: any folder with `saved_model.pb` that has the tag `serve`.
      threads: of the model's own pool; 0 shares TensorFlow's pools with all other models.
      intra_op: threads of the shared pool for one operation, as TF Serving's flag sets it; the
        first model of a process decides. 0 is one a core.
      inter_op: threads of the shared pool for operations at a time; likewise.
      run_timeout_ms: after which a run fails; 0 sets no bound. TensorFlow stops it in a loop, such
        as the one that decodes images; operations in a row are ended, and then it fails.
      build: runs what takes long of the load, and later of the first run of a signature.

    Raises:
      EngineError: nothing there, or TensorFlow refuses it; the code says which.
    """
    path = Path(version_dir)
    if not (path / bundles.SAVED_MODEL_FILE).is_file():
        raise EngineError(f"{path} holds no {bundles.SAVED_MODEL_FILE}", "NOT_FOUND")
    tf = import_tensorflow()
    options = tf.compat.v1.ConfigProto()
    if threads:
        options.intra_op_parallelism_threads = threads
        options.inter_op_parallelism_threads = 1
        options.use_per_session_threads = True
    else:
        options.intra_op_parallelism_threads = intra_op
        options.inter_op_parallelism_threads = inter_op
    try:
        session, meta_graph = open_session(path, options, tags=["serve"], build=build)
    except tf.errors.OpError as error:
        raise EngineError(f"cannot load {path}: {error.message}", _code_name(error)) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineError(f"cannot load {path}: {error}", "FAILED_PRECONDITION") from error
    signature_defs = dict(meta_graph.signature_def)
    return SavedModelEngine(
        path, session, signature_defs, run_timeout_ms=run_timeout_ms, build=build
    )


class SavedModelEngine:
    """A loaded SavedModel; every method may be called from any thread.

    Attributes:
      path: the folder it came from.
      signatures: by name, those that can be called.
      signature_defs: every `SignatureDef` proto, the initializer's too.
      runtime: what computes, as TF Serving's metrics name it.
    """

    runtime = "TF1"

    def __init__(
        self,
        path: Path,
        session: Any,
        signature_defs: dict[str, Any],
        *,
        run_timeout_ms: int = 0,
        build: Build = build_here,
    ) -> None:
        self.path = path
        self.signature_defs = signature_defs
        self.signatures = {
            name: read_signature(name, proto)
            for name, proto in signature_defs.items()
            if not name.startswith("__saved_model")
        }
        self._session = session
        self._run_timeout_ms = run_timeout_ms
        self._build = build
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = {}
        # Another's `image_bytes` may be anything; a bundle's are what ingest and training take.
        self._takes_images = (path / bundles.MANIFEST_FILE).is_file()
        self._lock = threading.Lock()

    def run(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Output name -> array of one signature.

        Args:
          signature: its name, e.g. `serving_default`.
          inputs: one array for each input of the signature, in its dtype; strings are object
            arrays of bytes.
          outputs: names to compute; all of them when None.

        Raises:
          EngineError: an unknown signature, input or output, or what the graph itself refuses,
            e.g. bytes that are no image.
        """
        feeds, tensors = self.prepare(signature, inputs, outputs)
        fetched = self.run_tensors(feeds, list(tensors.values()))
        return {name: fetched[tensor] for name, tensor in tensors.items()}

    def prepare(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """The two halves of what `run_tensors` takes: (graph tensor -> array, output -> tensor).

        Args:
          signature: as for `run`, and so are the others.
          inputs: a bundle's images are checked here, before they may share a batch.
          outputs: all of them when None.

        Raises:
          EngineError: an unknown signature, input or output, or an image that is none.
        """
        prepared = bind_signature(self, signature, inputs, outputs)
        if self._takes_images:
            _check_images(signature, inputs)
        return prepared

    def run_tensors(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Graph tensor name -> array; what `run` and a server's combined requests build on.

        Raises:
          EngineError: what the graph refuses, a run that was stopped for its length, or the
            engine is closed.
        """
        tf = import_tensorflow()
        # A session refuses to fetch one tensor twice, and two outputs may share one.
        names = tuple(dict.fromkeys(fetches))
        if self._takes_images:
            # Bundles of earlier versions fail on an empty batch where oneDNN is on.
            empty = empty_outputs(self.signatures.values(), feeds, names)
            if empty is not None:
                return empty
        try:
            values = self._callable(tuple(feeds), names)(*feeds.values())
        except tf.errors.DeadlineExceededError as error:
            limit = f"a run may take {self._run_timeout_ms} ms; send fewer rows at a time"
            words = f"{error.message}; {limit}" if self._run_timeout_ms else error.message
            raise EngineError(words, "DEADLINE_EXCEEDED") from error
        except tf.errors.OpError as error:
            raise EngineError(error.message, _code_name(error)) from error
        except RuntimeError as error:
            raise EngineError(f"{self.path}: {error}", "UNAVAILABLE") from error
        except (TypeError, ValueError) as error:
            raise EngineError(str(error)) from error
        return {name: _array(value) for name, value in zip(names, values, strict=True)}

    def _callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Any:
        key = (feeds, fetches)
        # Without the lock: what is compiled already does not wait for another's compilation.
        found = self._callables.get(key)
        if found is not None:
            return found
        with self._lock:
            session = self._session
            if session is None:
                raise RuntimeError("the model is closed")
            if key not in self._callables:
                from tensorflow.core.protobuf.config_pb2 import CallableOptions, RunOptions

                if len(self._callables) >= _MAX_CALLABLES:
                    self._callables.clear()
                limits = RunOptions(timeout_in_ms=self._run_timeout_ms)
                options = CallableOptions(feed=feeds, fetch=fetches, run_options=limits)
                # Session.run would refuse shapes other than the placeholder's, which TF Serving
                # does not, and costs five times as much a call.
                self._callables[key] = self._build(
                    lambda: session._make_callable_from_options(options)
                )
            return self._callables[key]

    def close(self) -> None:
        """Frees the model's memory; later calls raise `EngineError`."""
        with self._lock:
            session, self._session = self._session, None
            self._callables.clear()
            if session is not None:
                session.close()


def _array(value: Any) -> np.ndarray:
    """What a session returns, as an array: a scalar comes as a plain value."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, object if isinstance(value, (bytes, str)) else None)


def bind_signature(
    engine: Any,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] | None,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Inputs and outputs of a signature under their tensors' names.

    Args:
      engine: anything with `path` and `signatures`.
      signature: one of those.
      inputs: input name -> array.
      outputs: names; all of them when None.

    Returns:
      (tensor -> array, output name -> tensor).

    Raises:
      EngineError: an unknown signature, input or output; says which there are.
    """
    if signature not in engine.signatures:
        known = ", ".join(sorted(engine.signatures))
        raise EngineError(f"{engine.path} has no signature {signature!r}; it has {known}")
    spec = engine.signatures[signature]
    if set(inputs) != set(spec.inputs):
        raise EngineError(
            f"signature {signature!r} takes {sorted(spec.inputs)}, got {sorted(inputs)}"
        )
    names = list(spec.outputs) if outputs is None else list(outputs)
    unknown = sorted(set(names) - set(spec.outputs))
    if unknown:
        raise EngineError(
            f"signature {signature!r} has no output {unknown}, it has {sorted(spec.outputs)}"
        )
    feeds = {spec.inputs[name].tensor: value for name, value in inputs.items()}
    return feeds, {name: spec.outputs[name].tensor for name in names}


def _check_images(signature: str, inputs: Mapping[str, np.ndarray]) -> None:
    """Refuses what the graph would not decode, or would decode to other pixels, before it runs.

    Raises:
      EngineError: names the first such image and the reason.
    """
    in_examples = signature == bundles.SIGNATURE_EXAMPLES
    for name, values in inputs.items():
        if not in_examples and name != bundles.INPUT_BYTES:
            continue
        for position, data in enumerate(np.ravel(values)):
            if not isinstance(data, bytes):
                return  # Not strings at all; the graph says so.
            where = f"{name}[{position}]"
            try:
                check_image(encoded_image(where, data) if in_examples else data)
            except ImageError as error:
                raise EngineError(f"{where}: {error}") from error


def encoded_image(where: str, serialized: bytes) -> bytes:
    """The image of a serialized tf.Example, as `predict_examples` takes it.

    Raises:
      EngineError: not a tf.Example, or not one with a single image; begins with `where`.
    """
    # Protobuf is no dependency of a reader of bundles.
    from serving.protocol import wire

    try:
        images = wire.example_strings(serialized, _IMAGE_FEATURE)
    except ValueError as error:
        raise EngineError(f"{where} is {error}") from error
    if len(images) != 1:
        raise EngineError(f"{where} must have one {_IMAGE_FEATURE}, has {len(images)}")
    return images[0]


@functools.cache  # A run asks for it; filters of warnings are no work for every request.
def import_tensorflow() -> Any:
    """TensorFlow, without the lines it and its dependencies print while they load."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import tensorflow as tf

    return tf


def _code_name(error: Any) -> str:
    code = error.error_code
    return STATUS_CODES[code] if 0 < code < len(STATUS_CODES) else "UNKNOWN"


def read_signature(name: str, proto: Any) -> Signature:
    """The `Signature` of a `SignatureDef`."""
    return Signature(
        name=name,
        method_name=proto.method_name,
        inputs={key: _tensor_info(proto.inputs[key]) for key in sorted(proto.inputs)},
        outputs={key: _tensor_info(proto.outputs[key]) for key in sorted(proto.outputs)},
        proto=proto,
    )


def _tensor_info(info: Any) -> TensorInfo:
    from tensorflow.core.framework.types_pb2 import DataType

    dims = info.tensor_shape
    shape = None if dims.unknown_rank else tuple(int(dim.size) for dim in dims.dim)
    return TensorInfo(tensor=info.name, dtype=DataType.Name(info.dtype), shape=shape)
