"""The process that runs the TFLite converter: `python -m trainers.compression.convert_worker JOBS`.

`trainers.compression.convert` starts it and writes JOBS. A job that raises is reported and the next
one runs; a job that kills the process leaves no report, from which the parent process knows.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.files import read_json, write_bytes, write_json

if TYPE_CHECKING:
    from trainers.compression.rewrites import Conversion

_REASON_CHARACTERS = 2000


def main(arguments: list[str]) -> int:
    """Runs every job of the JSON file named in `arguments`; returns 0 even if jobs failed."""
    (request,) = arguments
    for job in read_json(request):
        try:
            report = {"error": "", **_convert(job)}
        except Exception as error:  # Any error of the converter is the result of the job.
            reason = f"{type(error).__name__}: {error}"
            report = {"error": reason[-_REASON_CHARACTERS:]}
        write_json(job["report"], report)
    return 0


def _convert(job: dict[str, Any]) -> dict[str, Any]:
    """Writes one TFLite file and returns its `kernels`, `figures` and `rewrites`."""
    from trainers.compression.apply_rewrites import apply_rewrites
    from trainers.compression.batch import any_batch
    from trainers.compression.rewrites import in_order
    from trainers.compression.tflite_file import append_softmax, attach_labels, kernel_dtypes

    content = append_softmax(_converter(job, job["dtype"]).convert())
    kernels = kernel_dtypes(content)
    if job["dtype"] == "int8" and set(kernels) != {"int8"}:
        raise ValueError(
            f"not a full int8 model, its kernels are {kernels}; annotate the layers in front of "
            "them for quantization, or give calibration images"
        )
    conversion = _conversion(job)
    content, records = apply_rewrites(content, in_order(job["rewrites"]), conversion)
    content = any_batch(content)
    figures = _figures(content, conversion)
    if job["labels"]:
        content = attach_labels(content, job["labels"])
    write_bytes(job["output"], content)
    return {"kernels": kernels, "figures": figures, "rewrites": records}


def _conversion(job: dict[str, Any]) -> "Conversion":
    """What rewrites may use besides the file."""
    from trainers.compression.measure import SAMPLES
    from trainers.compression.rewrites import Conversion

    source = job["samples"] or job["calibration"]
    calibration, samples = (
        None if path is None else _calibration_images(path) for path in (job["calibration"], source)
    )
    return Conversion(
        job["name"],
        job["dtype"],
        functools.cache(lambda: _converter(job, "fp32").convert()),
        lambda: _float_outputs(job["saved_model"], source),
        tuple(job["labels"]),
        calibration,
        None if samples is None else samples[:SAMPLES],
    )


# Jobs of the same network follow each other.
@functools.lru_cache(maxsize=1)
def _float_outputs(saved_model: str, samples: str) -> Any:
    """(M, ...) float32: the outputs of a SavedModel of `save_for_conversion` for the samples."""
    import numpy as np
    import tensorflow as tf

    from core.bundle import SIGNATURE_TENSOR
    from trainers.compression.measure import SAMPLES

    images = _calibration_images(samples)[:SAMPLES]

    run = tf.saved_model.load(saved_model).signatures[SIGNATURE_TENSOR]
    rows = [next(iter(run(images=tf.constant(image[None])).values())) for image in images]
    return np.concatenate([row.numpy() for row in rows])


def _figures(content: bytes, conversion: "Conversion") -> dict[str, Any]:
    """The partitions and the signal-to-noise ratio of the finished file; None where unknown."""
    from trainers.compression.delegate import DelegateError, partitions
    from trainers.compression.measure import snr_db

    try:
        count = partitions(content).count
    except DelegateError:
        count = None
    snr = None
    if conversion.samples is not None:
        snr = round(snr_db(content, conversion.samples, conversion.reference()), 2)
    return {"partitions": count, "snr_db": snr}


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
