"""Runs any SavedModel in a graph session, as TF Serving does.

TF1 and TF2 models load in the same way, the graph validates shapes, a call has tens of microseconds
of overhead, and closing releases the memory. TensorFlow is imported at the first load.
"""

import functools
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import bundle as bundles
from core.image_header import ImageError, check_image
from serving.engines.graph_import import Build, build_here, open_session
from serving.engines.signatures import empty_outputs, read_signature
from serving.protocol.types import STATUS_CODES

#: Default signature of a request.
DEFAULT_SIGNATURE = "serving_default"
#: Feature of the image in `predict_examples`.
_IMAGE_FEATURE = "image/encoded"
#: Cached compiled runs, one per set of outputs; the cache is cleared beyond it.
_MAX_CALLABLES = 64
#: Values of `RunOptions.inter_op_thread_pool`.
_CALLERS_THREAD, _SESSIONS_POOL = -1, 0


class EngineError(ValueError):
    """A model cannot be loaded or run.

    Attributes:
      code: gRPC status name, e.g. `INVALID_ARGUMENT` for a bad input.
    """

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message)
        self.code = code


def load_saved_model(
    version_dir: Path | str,
    *,
    threads: int = 0,
    intra_op: int = 0,
    inter_op: int = 0,
    run_timeout_ms: int = 0,
    build: Build = build_here,
) -> "SavedModelEngine":
    """The SavedModel in `version_dir`, with restored variables after its initializers.

    Args:
      version_dir: a folder with a `saved_model.pb` with the tag `serve`.
      threads: for one operation, in a separate pool; each run schedules its operations in its
        caller's thread, so that callers run in parallel. 0 shares TensorFlow's pools with all other
        models.
      intra_op: threads of the shared pool per operation, as in TF Serving's flag, set by the first
        model of a process. 0 is one per core.
      inter_op: threads of the shared pool for parallel operations; likewise.
      run_timeout_ms: timeout of a run; 0 is none. TensorFlow stops within a loop, such as that of
        image decoding; otherwise the run fails after its operations have finished.
      build: runs the slow parts of the load, and later of the first run of a signature.

    Raises:
      EngineError: there is no model, or TensorFlow rejects it; see `code`.
    """
    path = Path(version_dir)
    if not (path / bundles.SAVED_MODEL_FILE).is_file():
        raise EngineError(f"{path} has no {bundles.SAVED_MODEL_FILE}", "NOT_FOUND")
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
        path,
        session,
        signature_defs,
        run_timeout_ms=run_timeout_ms,
        in_caller=bool(threads),
        build=build,
    )


class SavedModelEngine:
    """A loaded SavedModel; safe to use from several threads.

    Attributes:
      path: of its folder.
      signatures: callable signatures by name.
      signature_defs: all `SignatureDef` protos, including the initializer's.
      runtime: name of the runtime in TF Serving's metrics.
    """

    runtime = "TF1"

    def __init__(
        self,
        path: Path,
        session: Any,
        signature_defs: dict[str, Any],
        *,
        run_timeout_ms: int = 0,
        in_caller: bool = False,
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
        # One thread for all runs would serialize them, and more would exceed `threads` in one run.
        self._pool = _CALLERS_THREAD if in_caller else _SESSIONS_POOL
        self._build = build
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = {}
        # Only in a bundle is `image_bytes` certain to be an encoded image.
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
          signature: signature name, e.g. `serving_default`.
          inputs: one array for each input of the signature, in its dtype; strings are object
            arrays of bytes.
          outputs: names to compute; None is all.

        Raises:
          EngineError: an unknown signature, input or output, or the graph fails, e.g. for bytes
            that are not an image.
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
        """Arguments of `run_tensors`: (graph tensor -> array, output name -> tensor).

        Args:
          signature: as in `run`.
          inputs: as in `run`; images of a bundle are validated before they are batched.
          outputs: as in `run`.

        Raises:
          EngineError: an unknown signature, input or output, or an invalid image.
        """
        prepared = bind_signature(self, signature, inputs, outputs)
        if self._takes_images:
            _check_images(signature, inputs)
        return prepared

    def run_tensors(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Graph tensor name -> array, for `run` and batched requests of a server.

        Raises:
          EngineError: the graph fails, the run timed out, or the engine is closed.
        """
        tf = import_tensorflow()
        # A session cannot fetch one tensor twice, and two outputs may share one.
        names = tuple(dict.fromkeys(fetches))
        if self._takes_images:
            # Bundles of earlier versions fail on an empty batch where oneDNN is on.
            empty = empty_outputs(self.signatures.values(), feeds, names)
            if empty is not None:
                return empty
        try:
            values = self._callable(tuple(feeds), names)(*feeds.values())
        except tf.errors.DeadlineExceededError as error:
            limit = f"the limit of a run is {self._run_timeout_ms} ms; send fewer rows per request"
            message = f"{error.message}; {limit}" if self._run_timeout_ms else error.message
            raise EngineError(message, "DEADLINE_EXCEEDED") from error
        except tf.errors.OpError as error:
            raise EngineError(error.message, _code_name(error)) from error
        except RuntimeError as error:
            raise EngineError(f"{self.path}: {error}", "UNAVAILABLE") from error
        except (TypeError, ValueError) as error:
            raise EngineError(str(error)) from error
        return {name: _array(value) for name, value in zip(names, values, strict=True)}

    def _callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Any:
        key = (feeds, fetches)
        # Without the lock, so that compiled runs do not wait for a compilation.
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
                how = RunOptions(
                    timeout_in_ms=self._run_timeout_ms, inter_op_thread_pool=self._pool
                )
                options = CallableOptions(feed=feeds, fetch=fetches, run_options=how)
                # Session.run rejects other shapes than the placeholder's, which TF Serving does
                # not, and a call takes five times as long.
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
    """A result of a session as an array; scalars are plain values."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, object if isinstance(value, (bytes, str)) else None)


def bind_signature(
    engine: Any,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] | None,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Inputs and outputs of a signature by tensor name.

    Args:
      engine: has `path` and `signatures`.
      signature: name of one of them.
      inputs: input name -> array.
      outputs: names; None is all.

    Returns:
      (tensor -> array, output name -> tensor).

    Raises:
      EngineError: an unknown signature, input or output; the message has the known ones.
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
    """Rejects images that the graph cannot decode, or would decode to other pixels.

    Raises:
      EngineError: the message has the first such image and the reason.
    """
    in_examples = signature == bundles.SIGNATURE_EXAMPLES
    for name, values in inputs.items():
        if not in_examples and name != bundles.INPUT_BYTES:
            continue
        for position, data in enumerate(np.ravel(values)):
            if not isinstance(data, bytes):
                return  # Not strings, which the graph rejects.
            where = f"{name}[{position}]"
            try:
                check_image(encoded_image(where, data) if in_examples else data)
            except ImageError as error:
                raise EngineError(f"{where}: {error}") from error


def encoded_image(where: str, serialized: bytes) -> bytes:
    """The image in a serialized tf.Example of `predict_examples`.

    Raises:
      EngineError: not a tf.Example, or not one image; the message starts with `where`.
    """
    # Reading a bundle must not need protobuf.
    from serving.protocol import wire

    try:
        images = wire.example_strings(serialized, _IMAGE_FEATURE)
    except ValueError as error:
        raise EngineError(f"{where} is {error}") from error
    if len(images) != 1:
        raise EngineError(f"{where} must have one {_IMAGE_FEATURE}, has {len(images)}")
    return images[0]


@functools.cache  # Called in each run, and setting warning filters is slow.
def import_tensorflow() -> Any:
    """TensorFlow, imported without the lines that it and its dependencies print."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import tensorflow as tf

    return tf


def _code_name(error: Any) -> str:
    code = error.error_code
    return STATUS_CODES[code] if 0 < code < len(STATUS_CODES) else "UNKNOWN"
