"""LiteRT with the interface of `SavedModelEngine`, for any `.tflite` and for bundle variants."""

import contextlib
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from core import bundle as bundles
from serving.engines.engine import BundleEngine, open_interpreter
from serving.engines.litert_interpreter import NamedInterpreter, tensor_specs
from serving.engines.litert_memory import estimate
from serving.engines.saved_model import (
    DEFAULT_SIGNATURE,
    EngineError,
    bind_signature,
    encoded_image,
)
from serving.engines.signatures import GraphSignature, read_signature

_PREDICT = "tensorflow/serving/predict"
#: Metadata name of the SignatureDef in files of early converters.
_METADATA = b"signature_defs_metadata"


class LiteRtEngine:
    """Interpreters of one `.tflite` file.

    The signature is the file's, or `serving_default` with the names of its tensors.

    Attributes:
      path: of the version's folder.
      signatures: one, by name.
      signature_defs: the same as `SignatureDef`.
      runtime: name of the runtime in TF Serving's metrics.
    """

    runtime = "TFLite"

    def __init__(self, file: Path, *, size: int = 1, threads: int = 1) -> None:
        """Loads `size` interpreters of `threads` threads each.

        Raises:
          EngineError: LiteRT cannot run the model, or it has several signatures.
        """
        self.path = file.parent
        interpreters = [open_interpreter(file, threads) for _ in range(size)]
        name, proto = _signature_def(file, interpreters[0])
        self.signature_defs = {name: proto}
        self.signatures = {name: read_signature(name, proto)}
        self._free: queue.SimpleQueue[NamedInterpreter] = queue.SimpleQueue()
        self._open = partial(open_interpreter, file, threads)
        self._memory = estimate(file)
        for interpreter in interpreters:
            self._free.put(NamedInterpreter(interpreter, self._memory))
        self._workers = ThreadPoolExecutor(size, thread_name_prefix="litert")
        self._one_row = _takes_one_row(interpreters[0])
        self._inputs, self._outputs = tensor_specs(interpreters[0])
        self._closed = False

    def prepare(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """See `SavedModelEngine.bind`; rejects shapes and types that the file does not declare."""
        prepared = bind_signature(self, signature, inputs, outputs)
        self._check(prepared[0])
        return prepared

    def run_tensors(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Tensor name -> array; a model that takes single rows computes several rows in parallel.

        Raises:
          EngineError: the type or shape is wrong, or the engine is closed.
        """
        if self._closed:
            raise EngineError(f"{self.path}: the model is closed", "UNAVAILABLE")
        # LiteRT ends the process at a shape that the graph does not accept.
        self._check(feeds)
        if any(array.ndim and len(array) == 0 for array in feeds.values()):
            return self._empty(fetches)
        rows = self._rows(feeds)
        if rows is None:
            return self._one(feeds, fetches)
        answers = list(self._workers.map(lambda row: self._one(row, fetches), rows))
        return {name: np.concatenate([answer[name] for answer in answers]) for name in fetches}

    def _check(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Raises EngineError for the first input that an interpreter must not receive."""
        names = {
            info.tensor: key for s in self.signatures.values() for key, info in s.inputs.items()
        }
        for tensor, array in feeds.items():
            spec, name = self._inputs[tensor], names.get(tensor, tensor)
            if not spec.takes(array.dtype):
                raise EngineError(f"input {name!r} must be {spec.dtype}, got {array.dtype}")
            if not spec.fits(array.shape):
                raise EngineError(
                    f"input {name!r} must have shape {spec.text}, got {list(array.shape)}"
                )
        sizes = {len(array) for t, array in feeds.items() if self._inputs[t].has_rows}
        if len(sizes) > 1:
            raise EngineError(f"the inputs have {sorted(sizes)} rows; send as many of each")

    def _empty(self, fetches: Sequence[str]) -> dict[str, np.ndarray]:
        """The outputs for no rows, without LiteRT, because some kernels divide by the rows."""
        for name in fetches:
            shape = self._outputs[name].shape
            if not shape or min(shape[1:], default=0) < 0:
                raise EngineError(f"output {name!r} has no shape without rows; send at least one")
        specs = {name: self._outputs[name] for name in fetches}
        return {name: np.zeros((0, *spec.shape[1:]), spec.dtype) for name, spec in specs.items()}

    def _rows(self, feeds: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]] | None:
        sizes = {len(array) if array.ndim else 1 for array in feeds.values()}
        ranks = {name: array.ndim for name, array in feeds.items()}
        if len(sizes) != 1 or sizes & {0, 1} or ranks != self._one_row:
            return None
        count = sizes.pop()
        return [{k: array[row : row + 1] for k, array in feeds.items()} for row in range(count)]

    def _one(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> dict[str, Any]:
        interpreter = self._free.get()
        try:
            return interpreter.run(feeds, fetches)
        except (ValueError, RuntimeError, KeyError) as error:
            raise EngineError(f"{self.path}: {error}") from error
        finally:
            self._free.put(self._renewed(interpreter) if interpreter.is_used_up else interpreter)

    def _renewed(self, interpreter: "NamedInterpreter") -> "NamedInterpreter":
        """A new interpreter for one that grew or failed; LiteRT does not shrink."""
        with contextlib.suppress(EngineError):
            return NamedInterpreter(self._open(), self._memory)
        return interpreter

    def close(self) -> None:
        """Frees the idle interpreters."""
        self._closed = True
        self._workers.shutdown(wait=False)
        while not self._free.empty():
            self._free.get_nowait()


def _takes_one_row(interpreter: Any) -> dict[str, int]:
    """Input -> rank if every input is declared with exactly one row; else empty."""
    shapes = {d["name"]: d["shape_signature"] for d in interpreter.get_input_details()}
    if all(len(shape) and shape[0] == 1 for shape in shapes.values()):
        return {name: len(shape) for name, shape in shapes.items()}
    return {}


def _signature_def(file: Path, interpreter: Any) -> tuple[str, Any]:
    """The signature name and `SignatureDef` of a file, with LiteRT's tensor names."""
    inputs = {detail["name"]: detail for detail in interpreter.get_input_details()}
    outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
    listed = interpreter.get_signature_list()
    if len(listed) > 1:
        raise EngineError(f"{file}: Multiple SignatureDefs found in TfLite model")
    if listed:
        name = next(iter(listed))
        runner = interpreter.get_signature_runner(name)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        return name, _proto(inputs, outputs, {})
    name, aliases = DEFAULT_SIGNATURE, {}
    stored = _stored_signature(file)
    if stored is not None:
        infos = [*stored.inputs.items(), *stored.outputs.items()]
        # Early converters dropped the ":0" of TensorFlow's tensor names.
        aliases = {info.name.partition(":")[0]: alias for alias, info in infos}
    return name, _proto(inputs, outputs, aliases)


def _proto(
    inputs: Mapping[str, Any], outputs: Mapping[str, Any], aliases: Mapping[str, str]
) -> Any:
    proto = meta_graph_pb2.SignatureDef(method_name=_PREDICT)
    for target, details in ((proto.inputs, inputs), (proto.outputs, outputs)):
        for name, detail in details.items():
            info = target[aliases.get(name, name)]
            info.name = detail["name"]
            info.dtype = _data_type(detail["dtype"])
            for size in detail["shape_signature"]:
                info.tensor_shape.dim.add(size=int(size))
    return proto


def _data_type(dtype: Any) -> int:
    kind = np.dtype(dtype)
    if kind.kind in "SO":
        return types_pb2.DT_STRING
    name = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}.get(kind.name)
    return types_pb2.DataType.Value(f"DT_{name or kind.name.upper()}")


def _stored_signature(file: Path) -> Any:
    """The `SignatureDef` in the file's metadata; None if there is none."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import flexbuffers

    model: Any = schema.Model.GetRootAs(file.read_bytes(), 0)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() != _METADATA:
            continue
        stored = flexbuffers.GetRoot(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()).AsMap
        if len(stored) > 1:
            raise EngineError(f"{file}: Multiple SignatureDefs found in TfLite model")
        serialized = stored.Values[0].AsStringBytes
        return meta_graph_pb2.SignatureDef.FromString(bytes(serialized))
    return None


class VariantEngine:
    """A TFLite variant of a bundle with the signatures of its SavedModel.

    The graph of the SavedModel decodes images, so that the pixels are identical.

    Attributes:
      path: of the bundle's folder.
      signatures: the four of the bundle.
      signature_defs: of the SavedModel.
      runtime: name of the runtime in TF Serving's metrics.
    """

    runtime = "TFLite"

    def __init__(self, engine: BundleEngine) -> None:
        """Loads the SavedModel for decoding.

        Raises:
          EngineError: it cannot be loaded, or two of its signatures share an input.
        """
        self._engine = engine
        self._saved_model = engine.saved_model
        self.path = self._saved_model.path
        self._compute = {
            bundles.SIGNATURE_BYTES: self._bytes,
            bundles.SIGNATURE_PREPROCESS: self._preprocess,
            bundles.SIGNATURE_TENSOR: self._tensor,
            bundles.SIGNATURE_EXAMPLES: self._examples,
        }
        self.signatures: dict[str, GraphSignature] = {
            name: signature
            for name, signature in self._saved_model.signatures.items()
            if name in self._compute
        }
        self.signature_defs = {name: s.proto for name, s in self.signatures.items()}
        self._by_input = {
            next(iter(signature.inputs.values())).tensor: name
            for name, signature in self.signatures.items()
        }
        if len(self._by_input) != len(self.signatures):
            raise EngineError(
                f"{self.path}: two signatures share an input tensor", "FAILED_PRECONDITION"
            )
        self._labels = np.array([label.encode() for label in engine.bundle.labels], object)
        self._top_k = min(engine.bundle.manifest.top_k, len(self._labels))

    def prepare(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """See `SavedModelEngine.bind`."""
        bind_signature(self, signature, inputs, outputs)
        return self._saved_model.prepare(signature, inputs, outputs)

    def run_tensors(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Graph tensor name -> array, of one signature.

        Raises:
          EngineError: an image cannot be decoded, or the shape or type of pixels is wrong.
        """
        ((tensor, value),) = feeds.items()
        name = self._by_input[tensor]
        outputs = self._compute[name](value)
        tensors = {key: info.tensor for key, info in self.signatures[name].outputs.items()}
        return {tensors[k]: array for k, array in outputs.items() if tensors[k] in fetches}

    def _bytes(self, encoded: np.ndarray) -> dict[str, np.ndarray]:
        scores = self._engine.predict_images(self._preprocess(encoded)["images"])
        # The lower class is first for equal scores, as in tf.math.top_k.
        classes = np.argsort(-scores, axis=1, kind="stable")[:, : self._top_k]
        return {
            "scores": np.take_along_axis(scores, classes, axis=1),
            "classes": classes.astype(np.int32),
            "labels": self._labels[classes],
        }

    def _preprocess(self, encoded: np.ndarray) -> dict[str, np.ndarray]:
        inputs = {bundles.INPUT_BYTES: encoded}
        return self._saved_model.run(bundles.SIGNATURE_PREPROCESS, inputs)

    def _tensor(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"scores": self._engine.predict_images(images)}

    def _examples(self, serialized: np.ndarray) -> dict[str, np.ndarray]:
        encoded = np.empty(serialized.shape, object)
        encoded[:] = [encoded_image(f"examples[{i}]", data) for i, data in enumerate(serialized)]
        return self._bytes(encoded)

    def close(self) -> None:
        """Frees the interpreters and the SavedModel."""
        self._engine.close()
