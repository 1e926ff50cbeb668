"""Builds a draft bundle from a trained model: SavedModel, TFLite variants, manifest.

build_bundle(load_trained(Path("work/digits_cnn")), Path("draft"), methods=("prune", "qat"))
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from core import bundle
from core.files import replacing_folder
from trainers.bundles.saved_model import (
    ConvertedFile,
    describe_variant,
    seal_draft,
    write_saved_model,
    write_warmup,
)
from trainers.compression import FLOAT, Method, sparsity
from trainers.compression.convert import ConversionJob, convert_all, require, save_for_conversion
from trainers.compression.rewrites import in_order
from trainers.data import pipeline
from trainers.data.features import IMAGE, DatasetError, DatasetInfo
from trainers.keras import keras
from trainers.loop import FineTuner
from trainers.optim import compression_rate
from trainers.registry import compressors
from trainers.training.epoch import Report
from trainers.training.trained import Trained

#: The float TFLite file of every bundle; all others are compared with it.
FLOAT_VARIANT = "none_fp32"


def build_bundle(
    trained: Trained,
    out: Path,
    *,
    methods: Sequence[str] = (),
    ptq: Sequence[str] = ("dynamic",),
    report: Report | None = None,
    announce: Callable[[str], None] | None = None,
    on_model: Callable[[str, keras.Model], None] | None = None,
) -> bundle.Manifest:
    """Writes a draft bundle of `trained` to `out`, complete or not at all.

    Args:
      trained: its `config.data.dir` contains the records, for fine-tuning and calibration.
      out: the folder of the draft; an existing one is replaced.
      methods: registered compression methods; if one starts from another, that one runs too.
      ptq: dtypes of variants that are quantized after training, of `dynamic` and `int8`.
      report: training progress while fine-tuning.
      announce: called with the name of each step.
      on_model: called with the name and the Keras model of each method that changes weights,
        before conversion: the float forward pass of its variants.

    Raises:
      UnknownNameError: no such method or rewrite.
      DatasetError: the classes of the records, or their order, differ from those of the model.
      ConversionError: TFLite refused a variant; names it and the reason.
    """
    _check_classes(trained)
    say = announce or (lambda step: None)
    wanted = [_method(name) for name in _in_order(methods)]
    for name in ("none", "ptq", *(method.name for method in wanted)):
        in_order(_rewrites(trained, name))
    with replacing_folder(out) as draft:
        # On the disk of `out`; the temporary folder of the system may be too small.
        work = draft / ".work"
        work.mkdir()
        say("export")
        write_saved_model(trained.model, trained.config, trained.info, draft)
        count = trained.config.export.warmup_requests
        write_warmup(_some_images(trained, count), trained.config.name, draft)
        models = _compressed(trained, wanted, report, say)
        for method in wanted:
            if on_model is not None and not method.has_trained_weights:
                on_model(method.name, models[method.name])
        say("convert")
        files = _converted(trained, models, wanted, ptq, draft=draft, work=work)
        shutil.rmtree(work)
        manifest = seal_draft(draft, trained, files, recommended=FLOAT_VARIANT)
    return manifest


def _check_classes(trained: Trained) -> None:
    """Checks that labels of the records mean the same classes as in training."""
    now = DatasetInfo.load(Path(trained.config.data.dir))
    if (now.classes, now.label_offset) != (trained.info.classes, trained.info.label_offset):
        raise DatasetError(
            f"{trained.config.data.dir} has other classes, or the same in another order, than "
            f"when {trained.config.name} was trained; train it again, or restore those records"
        )


def _in_order(methods: Iterable[str]) -> list[str]:
    """`methods` and the methods that they start from, each after its start."""
    ordered: list[str] = []

    def add(name: str, after: tuple[str, ...] = ()) -> None:
        if name in after:
            chain = " -> ".join((*after, name))
            raise ValueError(
                f"compression methods start from each other: {chain}; change one start"
            )
        start = compressors.get(name).start
        if start != FLOAT:
            add(start, (*after, name))
        if name not in ordered:
            ordered.append(name)

    for name in methods:
        add(name)
    return ordered


def _method(name: str) -> Method:
    method = compressors.get(name)
    if method.name != name:
        raise ValueError(
            f"the compression method registered as {name!r} ({compressors.origin(name)}) calls "
            f"itself {method.name!r}; give both the same name"
        )
    return method


def _compressed(
    trained: Trained, wanted: list[Method], report: Report | None, say: Callable[[str], None]
) -> dict[str, keras.Model]:
    models = {FLOAT: trained.model}
    fine_tune = FineTuner(trained.config, trained.info, report)
    rate = compression_rate(trained.config)
    settings = replace(trained.config.compress, learning_rate=rate)
    for method in wanted:
        say(method.name)
        keras.utils.set_random_seed(trained.config.train.seed)
        start = models[method.start]
        models[method.name] = method.run(start, fine_tune, settings)
        if not method.changes_weights and not _same_weights(models[method.name], start):
            raise ValueError(
                f"the compression method {method.name!r} changed weights, and its variants would "
                "be compared with the wrong model; state changes_weights=True in its Method"
            )
    return models


def _same_weights(model: keras.Model, other: keras.Model) -> bool:
    pairs = zip(model.get_weights(), other.get_weights(), strict=False)
    return model is other or (
        len(model.weights) == len(other.weights) and all(np.array_equal(*pair) for pair in pairs)
    )


def _converted(
    trained: Trained,
    models: dict[str, keras.Model],
    wanted: list[Method],
    ptq: Sequence[str],
    *,
    draft: Path,
    work: Path,
) -> list[ConvertedFile]:
    plan = [("none", "fp32", FLOAT), *(("ptq", dtype, FLOAT) for dtype in ptq)]
    # `none` and `ptq` are methods too: listed in `wanted`, they add nothing twice.
    plan += [(m.name, dtype, m.name) for m in wanted for dtype in m.dtypes]
    plan = list({(method, dtype): (method, dtype, key) for method, dtype, key in plan}.values())
    saved = {key: save_for_conversion(model, work / key) for key, model in models.items()}
    images = None
    if any(dtype == "int8" for _, dtype, _ in plan):
        images = work / "calibration.npy"
        count = trained.config.compress.calibration_images
        np.save(images, pipeline.calibration_images(trained.config, trained.info, count))
    jobs = [
        ConversionJob(
            name=f"{method}_{dtype}",
            saved_model=saved[key],
            dtype=dtype,
            output=draft / bundle.tflite_file(f"{method}_{dtype}"),
            labels=trained.info.classes,
            calibration=images if dtype == "int8" and _is_calibrated(method) else None,
            samples=images,
            rewrites=_rewrites(trained, method),
        )
        for method, dtype, key in plan
    ]
    results = convert_all(jobs)
    require(results)
    zeros = {key: sparsity(model) for key, model in models.items()}
    return [
        ConvertedFile(
            describe_variant(one.job.output, one.job.name, sparsity=zeros[key]),
            figures=one.figures,
            rewrites=one.rewrites,
        )
        for one, (_, _, key) in zip(results, plan, strict=True)
    ]


def _rewrites(trained: Trained, method: str) -> tuple[str, ...]:
    return (*trained.config.compress.rewrites, *compressors.get(method).rewrites)


def _is_calibrated(method: str) -> bool:
    return compressors.get(method).needs_calibration


def _some_images(trained: Trained, count: int) -> list[bytes]:
    """The encoded bytes of the first `count` validation examples."""
    records = pipeline.raw_examples(trained.config.data.dir, "validation")
    return [record_image(data) for data, _ in zip(records, range(count), strict=False)]


def record_image(serialized: bytes) -> bytes:
    """The encoded image inside a serialized tf.Example."""
    example = tf.train.Example.FromString(serialized)
    return example.features.feature[IMAGE].bytes_list.value[0]
