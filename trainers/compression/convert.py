"""Keras models to TFLite files, in a worker process: the converter can abort its whole process.

Every file has one input `images` uint8 (1, H, W, 3) RGB in [0, 255] and one output `scores`
float32 (1, N), softmax; the signature is `predict_tensor`. Cast, normalization and softmax are
inside, `labels.txt` is attached.

    saved = save_for_conversion(model, work / "qat")
    results = convert_all([ConversionJob("qat_int8", saved, "int8", out / "model_qat_int8.tflite")])

TensorFlow takes seconds to import, so one worker runs all jobs; if it dies, the current job is
reported and a new worker runs the remaining ones.
"""

import json
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from core.bundle import SIGNATURE_TENSOR, gzip_size
from core.processes import exit_reason, module_command, start, stop, tail
from trainers.compression import DTYPES
from trainers.compression.rewrites import in_order
from trainers.config import CompressConfig
from trainers.keras import keras

_REASON_LINES = 6


class ConversionError(RuntimeError):
    """One or more models could not be converted; the message names each with its reason."""


@dataclass(frozen=True)
class ConversionJob:
    """One TFLite file to make.

    Attributes:
      name: in results and errors, e.g. `pqat_int8`.
      saved_model: a folder that `save_for_conversion` wrote.
      dtype: `fp32`; `dynamic`, int8 kernels with float activations; `int8`, both.
      output: the file; its folder must exist.
      labels: class names to attach, in label order; may be empty.
      calibration: an .npy file of uint8 (M, H, W, 3) images that set the ranges of `int8`. None for
        a model from quantization-aware training, which includes its ranges.
      samples: an .npy file of such images to measure the file on; by default those of
        `calibration`. Without any, rewrites on trial are not applied.
      rewrites: registered rewrites of the file; see `trainers.compression.rewrites`.
    """

    name: str
    saved_model: Path
    dtype: str
    output: Path
    labels: tuple[str, ...] = ()
    calibration: Path | None = None
    samples: Path | None = None
    rewrites: tuple[str, ...] = CompressConfig().rewrites


@dataclass(frozen=True)
class ConversionResult:
    """The result of a job.

    Attributes:
      job: the job.
      error: why there is no file; empty on success.
      size_bytes: of the file.
      gzip_bytes: of the file after gzip -9.
      kernels: dtype -> number of convolutions and fully connected layers; see
        `tflite_file.kernel_dtypes`.
      figures: `partitions` of LiteRT's CPU delegate (None if unknown) and `snr_db` against the
        float network on the samples (None without any).
      rewrites: what each rewrite did; see `apply_rewrites`.
    """

    job: ConversionJob
    error: str = ""
    size_bytes: int = 0
    gzip_bytes: int = 0
    kernels: dict[str, int] | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    rewrites: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the file was written."""
        return not self.error


def save_for_conversion(model: keras.Model, directory: Path) -> Path:
    """Writes the SavedModel for a worker: uint8 (1, H, W, 3) -> float32 (1, N) logits.

    Args:
      model: as `build_model` or a compression method returns it.
      directory: created; an earlier SavedModel there is replaced.

    Returns:
      `directory`.
    """
    shape = (1, *model.input_shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8, name="images")])
    def logits(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model(tf.cast(images, tf.float32), training=False)}

    module = tf.Module()
    # The variables, not the model: saving a Keras model traces every layer several times over.
    module.weights = list(model.weights)
    module.logits = logits
    tf.saved_model.save(module, str(directory), signatures={SIGNATURE_TENSOR: logits})
    return directory


def convert_all(jobs: Sequence[ConversionJob]) -> list[ConversionResult]:
    """Converts each job and returns the results in order; a failed job writes nothing.

    Args:
      jobs: may be empty.

    Returns:
      One result per job. The `error` of a failed one has the last lines of the converter, or the
      signal that killed it.

    Raises:
      ValueError: a job's dtype or rewrite is unknown, or two jobs write one file.
    """
    _check(jobs)
    results: dict[int, ConversionResult] = {}
    with tempfile.TemporaryDirectory(prefix="sightline-convert-") as folder:
        work = Path(folder)
        while len(results) < len(jobs):
            todo = [index for index in range(len(jobs)) if index not in results]
            status, reason = _run_worker(jobs, todo, work)
            for index in todo:
                report = work / f"{index}.json"
                if report.is_file():
                    results[index] = _result(jobs[index], json.loads(report.read_text("utf-8")))
                    continue
                if status == 0:
                    raise RuntimeError(f"the conversion worker ended without doing {jobs[index]}")
                results[index] = ConversionResult(jobs[index], error=reason)
                break
    return [results[index] for index in range(len(jobs))]


def require(results: Sequence[ConversionResult]) -> None:
    """Checks that all conversions succeeded.

    Raises:
      ConversionError: names every job that failed, and why.
    """
    failed = [result for result in results if not result.ok]
    if failed:
        lines = "\n".join(f"  {result.job.name}: {result.error}" for result in failed)
        raise ConversionError(f"{len(failed)} of {len(results)} conversions failed:\n{lines}")


def _check(jobs: Sequence[ConversionJob]) -> None:
    outputs = [job.output.absolute() for job in jobs]
    for job, output in zip(jobs, outputs, strict=True):
        if job.dtype not in DTYPES:
            raise ValueError(
                f"conversion {job.name!r}: dtype must be one of {', '.join(DTYPES)}, "
                f"got {job.dtype!r}"
            )
        in_order(job.rewrites)
        if outputs.count(output) > 1:
            raise ValueError(f"conversion {job.name!r}: another job writes {output} too")


def _run_worker(jobs: Sequence[ConversionJob], todo: list[int], work: Path) -> tuple[int, str]:
    """Runs a worker for the jobs `todo`, which reports each to `work/<index>.json`.

    Returns:
      (exit status, why it ended); a negative status is a signal.
    """
    request = work / "request.json"
    listed = [{"report": str(work / f"{i}.json"), **asdict(jobs[i])} for i in todo]
    request.write_text(json.dumps(listed, default=str), encoding="utf-8")
    log = work / "stderr.log"
    command = module_command(
        "trainers.compression.convert_worker", str(request), end_with_parent=signal.SIGKILL
    )
    with log.open("wb") as stderr:
        process = start(command, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            status = process.wait()
        finally:
            stop(process, grace_s=0, by=signal.SIGKILL)
    reason = f"the converter {exit_reason(status)}"
    return status, "\n".join([reason, *tail(log, _REASON_LINES)])


def _result(job: ConversionJob, report: dict) -> ConversionResult:
    if report["error"]:
        return ConversionResult(job, error=report["error"])
    return ConversionResult(
        job,
        size_bytes=job.output.stat().st_size,
        gzip_bytes=gzip_size(job.output),
        kernels=report["kernels"],
        figures=report["figures"],
        rewrites=report["rewrites"],
    )
