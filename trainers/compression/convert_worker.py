"""The process that runs the TFLite converter: `python -m trainers.compression.convert_worker JOBS`.

`trainers.compression.convert` starts it and writes JOBS. A job that raises is reported and the next
one runs; a job that kills the process leaves no report, from which the parent process knows.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core.files import read_json, write_bytes, write_json

_REASON_CHARACTERS = 2000


def main(arguments: list[str]) -> int:
    """Runs every job of the JSON file named in `arguments`; returns 0 even if jobs failed."""
    (request,) = arguments
    for job in read_json(request):
        try:
            report = {"error": "", "kernels": _convert(job)}
        except Exception as error:  # Any error of the converter is the result of the job.
            reason = f"{type(error).__name__}: {error}"
            report = {"error": reason[-_REASON_CHARACTERS:]}
        write_json(job["report"], report)
    return 0


def _convert(job: dict[str, Any]) -> dict[str, int]:
    """Writes one TFLite file and returns its kernel dtypes."""
    from trainers.compression.batch import any_batch
    from trainers.compression.tflite_file import append_softmax, attach_labels, kernel_dtypes

    content = append_softmax(_converter(job, job["dtype"]).convert())
    kernels = kernel_dtypes(content)
    if job["dtype"] == "int8" and set(kernels) != {"int8"}:
        raise ValueError(
            f"not a full int8 model, its kernels are {kernels}; annotate the layers in front of "
            "them for quantization, or give calibration images"
        )
    if job["dtype"] == "int8" and job["calibration"] is not None:
        content = _refined(content, job)
    content = any_batch(content)
    if job["labels"]:
        content = attach_labels(content, job["labels"])
    write_bytes(job["output"], content)
    return kernels


def _refined(content: bytes, job: dict[str, Any]) -> bytes:
    """The calibrated int8 model with smaller errors against the float one.

    Returns:
      The file with pixels normalized in float and its biases corrected.
    """
    from trainers.compression.bias_correction import correct_biases
    from trainers.compression.float_input import normalize_in_float

    floats = _converter(job, "fp32").convert()
    content = normalize_in_float(content, floats)
    return correct_biases(content, floats, _calibration_images(job["calibration"]))


def _converter(job: dict[str, Any], dtype: str) -> Any:
    """The TFLiteConverter of the job's model, set up for `dtype`."""
    import tensorflow as tf

    from core.bundle import SIGNATURE_TENSOR

    converter = tf.lite.TFLiteConverter.from_saved_model(
        job["saved_model"], signature_keys=[SIGNATURE_TENSOR]
    )
    if dtype != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if dtype == "int8":
        aware = _is_quantization_aware(job["saved_model"])
        if aware == (job["calibration"] is not None):
            raise ValueError(
                "a model with FakeQuant operations brings its ranges: leave `calibration` out; its "
                "compression method sets needs_calibration=False"
                if aware
                else "int8 of a float model needs `calibration`, an .npy file of uint8 images; its "
                "compression method sets needs_calibration=True"
            )
        if not aware:
            converter.representative_dataset = _representative(job["calibration"])
    return converter


def _is_quantization_aware(saved_model: str) -> bool:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(Path(saved_model, "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return any(node.op.startswith("FakeQuant") for node in nodes)


def _representative(path: str) -> Callable[[], Iterator[dict[str, Any]]]:
    images = _calibration_images(path)
    return lambda: ({"images": images[index : index + 1]} for index in range(len(images)))


def _calibration_images(path: str) -> Any:
    """At least one image, (M, H, W, 3) uint8, memory-mapped."""
    import numpy as np

    images = np.load(path, mmap_mode="r")
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(
            f"{path} must hold uint8 (M, H, W, 3) images, got {images.dtype} {images.shape}"
        )
    return images


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
