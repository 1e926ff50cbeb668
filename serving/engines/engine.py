"""Predictions of a bundle's variants: TensorFlow for SavedModels, LiteRT for `.tflite`.

    with open_engine("bundles/digits_cnn", "ptq_int8") as engine:
        scores = engine.predict_bytes([jpeg])          # (1, N)

TensorFlow is imported when a SavedModel is opened; a LiteRT variant with pixels as input does not
need it.
"""

import contextlib
import os
import queue
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from core import bundle as bundles
from core.processes import available_cores
from serving.engines.saved_model import EngineError, SavedModelEngine, load_saved_model

__all__ = [
    "BundleEngine",
    "EngineError",
    "LiteRtPool",
    "SavedModelEngine",
    "check_images",
    "load_saved_model",
    "open_engine",
    "open_interpreter",
]

_QUIET = threading.Lock()


class LiteRtPool:
    """Interpreters of one `.tflite` file, which compute several images in parallel.

    The file has the signature of a bundle: one uint8 (1, H, W, 3) input, one float32 (1, N) output.

    Attributes:
      image_size: (H, W) in pixels.
      num_classes: N.
    """

    def __init__(self, tflite_path: Path | str, *, size: int = 0, threads: int = 1) -> None:
        """Loads `size` interpreters (0: one per core) of `threads` threads each, with XNNPACK.

        Raises:
          EngineError: the file does not exist or has another signature.
        """
        path = Path(tflite_path)
        if not path.is_file():
            raise EngineError(f"{path} does not exist", "NOT_FOUND")
        count = size or available_cores()
        interpreters = [open_interpreter(path, threads) for _ in range(count)]
        self._input, self._output = _check_contract(path, interpreters[0])
        _, height, width, _ = (int(n) for n in self._input["shape"])
        self.image_size = (height, width)
        self.num_classes = int(self._output["shape"][-1])
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for interpreter in interpreters:
            self._free.put(interpreter)
        self._workers = (
            ThreadPoolExecutor(count, thread_name_prefix="litert") if count > 1 else None
        )

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Scores of `images`, in their order; safe to call from any thread.

        Args:
          images: (B, H, W, 3) uint8, RGB in [0, 255].

        Returns:
          (B, N) float32; (0, N) for an empty batch.

        Raises:
          EngineError: the shape or dtype is wrong.
        """
        images = check_images(images, self.image_size)
        if len(images) == 0:
            return np.zeros((0, self.num_classes), np.float32)
        if len(images) == 1 or self._workers is None:
            rows = [self._one(image) for image in images]
        else:
            rows = list(self._workers.map(self._one, images))
        return np.stack(rows)

    def _one(self, image: np.ndarray) -> np.ndarray:
        interpreter = self._free.get()
        try:
            interpreter.set_tensor(self._input["index"], image[np.newaxis])
            interpreter.invoke()
            return interpreter.get_tensor(self._output["index"])[0]
        finally:
            self._free.put(interpreter)

    def close(self) -> None:
        """Stops the workers; the interpreters are freed when they are no longer used."""
        if self._workers is not None:
            self._workers.shutdown(wait=False)


class BundleEngine:
    """Scores of all classes for images, from one variant of a bundle."""

    def __init__(
        self,
        bundle: bundles.Bundle,
        variant: str,
        *,
        threads: int,
        size: int,
        decoder: SavedModelEngine | None = None,
    ) -> None:
        self.bundle = bundle
        self.variant = variant
        self._threads = threads
        self._decoder = decoder
        self._pool = None
        if variant != bundles.SAVED_MODEL:
            path = bundle.tflite_path(variant)
            self._pool = LiteRtPool(path, size=size, threads=threads or 1)

    @cached_property
    def saved_model(self) -> SavedModelEngine:
        """The bundle's float model, loaded at its first use.

        For a TFLite variant it only preprocesses, in TensorFlow's shared pools: a limit of threads
        is for the network.
        """
        if self._decoder is not None:
            return self._decoder
        threads = self._threads if self.variant == bundles.SAVED_MODEL else 0
        return load_saved_model(self.bundle.path, threads=threads)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the input of `predict_images`."""
        return int(self.bundle.manifest.input["height"]), int(self.bundle.manifest.input["width"])

    def predict_images(self, images: np.ndarray) -> np.ndarray:
        """Softmax scores over all classes.

        Args:
          images: (B, H, W, 3) uint8, RGB in [0, 255], preprocessed as `preprocess` does.

        Returns:
          (B, N) float32 in [0, 1].

        Raises:
          EngineError: the shape or dtype is wrong, or the model fails.
        """
        images = check_images(images, self.image_size)
        if self._pool is not None:
            return self._pool.predict(images)
        return self.saved_model.run(bundles.SIGNATURE_TENSOR, {"images": images})["scores"]

    def preprocess(self, images: Sequence[bytes]) -> np.ndarray:
        """(B, H, W, 3) uint8 pixels of encoded images, by the SavedModel's own graph.

        Raises:
          EngineError: an image is not a JPEG, PNG, BMP or GIF that TensorFlow decodes.
        """
        encoded = np.array([bytes(image) for image in images], dtype=object)
        outputs = self.saved_model.run(bundles.SIGNATURE_PREPROCESS, {bundles.INPUT_BYTES: encoded})
        return outputs["images"]

    def predict_bytes(self, images: Sequence[bytes]) -> np.ndarray:
        """(B, N) float32 scores of encoded images; see `preprocess` and `predict_images`."""
        if len(images) == 0:
            return np.zeros((0, self.bundle.manifest.num_classes), np.float32)
        return self.predict_images(self.preprocess(images))

    def close(self) -> None:
        """Frees the loaded models."""
        if self._pool is not None:
            self._pool.close()
        if "saved_model" in self.__dict__ and self._decoder is None:
            self.saved_model.close()

    def __enter__(self) -> "BundleEngine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_engine(
    bundle: bundles.Bundle | Path | str,
    variant: str = bundles.SAVED_MODEL,
    *,
    threads: int = 0,
    size: int = 0,
    decoder: SavedModelEngine | None = None,
) -> BundleEngine:
    """The engine of one variant.

    Args:
      bundle: an open bundle, or the folder of a model or of one version.
      variant: `saved_model` or a TFLite variant's name, e.g. `ptq_int8`.
      threads: for the network in one run; 0 is all cores for the SavedModel and one for each
        interpreter.
      size: TFLite interpreters; 0 is one per core.
      decoder: the bundle's SavedModel, which preprocesses instead of one that this engine loads; it
        stays open.

    Raises:
      BundleError: no such bundle or variant.
      EngineError: the file cannot be loaded.
    """
    opened = bundle if isinstance(bundle, bundles.Bundle) else bundles.open_bundle(bundle)
    return BundleEngine(opened, variant, threads=threads, size=size, decoder=decoder)


def check_images(images: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """`images` unchanged if it is (B, H, W, 3) uint8 of that size.

    Raises:
      EngineError: the shape or dtype is wrong.
    """
    height, width = image_size
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, 3):
        raise EngineError(
            f"images must be uint8 (B, {height}, {width}, 3), got {images.dtype} {images.shape}"
        )
    return images


def open_interpreter(path: Path, threads: int) -> Any:
    """A LiteRT interpreter of the file with allocated tensors.

    Raises:
      EngineError: LiteRT cannot run the model.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        with _without_info_lines():
            interpreter = Interpreter(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"cannot load {path}: {error}", "FAILED_PRECONDITION") from error
    return interpreter


def _check_contract(path: Path, interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    images, scores = inputs[0], outputs[0]
    fits = (
        len(inputs) == len(outputs) == 1
        and images["dtype"] is np.uint8
        and len(images["shape"]) == 4
        and (images["shape"][0], images["shape"][-1]) == (1, 3)
        and scores["dtype"] is np.float32
        and len(scores["shape"]) == 2
    )
    if not fits:
        raise EngineError(
            f"{path} must map uint8 (1, H, W, 3) to float32 (1, N), it maps "
            f"{[(d['dtype'].__name__, d['shape'].tolist()) for d in inputs]} to "
            f"{[(d['dtype'].__name__, d['shape'].tolist()) for d in outputs]}",
            "FAILED_PRECONDITION",
        )
    return images, scores


@contextlib.contextmanager
def _without_info_lines() -> Iterator[None]:
    """Suppresses the `INFO:` lines that LiteRT writes to file descriptor 2; it has no switch."""
    with _QUIET, tempfile.TemporaryFile() as captured:
        saved = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            captured.seek(0)
            rest = [line for line in captured if not line.startswith(b"INFO:")]
            if rest:
                os.write(2, b"".join(rest))
