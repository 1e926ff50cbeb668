"""Latency of the study's models: engine alone and bytes to label, in alternating rounds.

Engine alone and bytes to label are defined in `serving.benchmark.variants`; the images are of the
test split. Both are for one image at a time and all cores. The
networks of the study are timed as well, at 224 px with random weights, which do not affect time.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from core.bundle import SAVED_MODEL, open_bundle
from core.processes import available_cores
from serving.benchmark.variants import environment, variant_files
from serving.engines.engine import BundleEngine, open_engine
from serving.protocol.types import predictions_from_scores

#: Networks of the study that are timed at its size: they differ in time by their name alone.
STUDY_MODELS = {"resnet50": "resnet50", "vit_b16": "vit_b16"}
_WARM_CALLS = 3
# Of the table of cost by size and batch: larger images are measured at half their size as well.
_LARGE_PX, _BATCHES, _SCALING_ROUNDS = 128, (1, 8), 4


def measure(
    bundles: dict[str, str], data: Path, *, rounds: int, calls: int, study_calls: int
) -> dict[str, Any]:
    """Seconds of calls.

    Args:
      bundles: name -> bundle.
      data: records with a test split.
      rounds: at least 2; in each, every variant is measured once.
      calls: of a variant in a round.
      study_calls: of a network of the study in a round; 0 leaves these out.

    Returns:
      `environment`; `variants`: `<name>/<variant>` -> `bytes` of its files, and
      `engine` and `label`, the (rounds, calls) seconds; `study`: name -> (rounds, calls) seconds.
    """
    images = _encoded(data, calls)
    found: dict[str, Any] = {"environment": environment(), "variants": {}, "study": {}}
    timed: dict[tuple[str, str], Callable[[int], object]] = {}
    with ExitStack() as stack:
        for name, path in bundles.items():
            bundle = open_bundle(path)
            for variant in (SAVED_MODEL, *(one.name for one in bundle.manifest.variants)):
                threads = available_cores()
                engine = stack.enter_context(open_engine(bundle, variant, threads=threads, size=1))
                key = f"{name}/{variant}"
                files = variant_files(bundle, variant)
                size = sum(file.stat().st_size for file in files)
                found["variants"][key] = {"bytes": size}
                timed[key, "engine"] = _engine_call(engine, images)
                timed[key, "label"] = _label_call(engine, images)
        seconds = _in_rounds(timed, rounds, calls)
    for (key, kind), values in seconds.items():
        found["variants"][key][kind] = values
    if study_calls:
        found["study"] = _study_networks(rounds, study_calls)
    return found


def scaling(configs: dict[str, dict[str, Any]], classes: int) -> dict[str, Any]:
    """How the cost of each network grows with image size and batch.

    Args:
      configs: role -> configuration.
      classes: number of logits.

    Returns:
      Role -> figures of `tfx_pipeline.benchmarks.scaling.measure`.
    """
    from tfx_pipeline.benchmarks.scaling import measure as grow

    found = {}
    for role, one in configs.items():
        side = int(one["data"]["image_size"][0])
        factors = (1, 2, 4) if side < _LARGE_PX else (0.5, 1)
        options = [f"{name}={json.dumps(value)}" for name, value in one["model"]["options"].items()]
        found[role] = grow(
            one["model"]["name"],
            options,
            sizes=[int(side * factor) for factor in factors],
            batches=_BATCHES,
            classes=classes,
            rounds=_SCALING_ROUNDS,
        )
    return found


def _encoded(data: Path, count: int) -> list[bytes]:
    """The bytes of the first images of the test split."""
    from trainers.bundles.build import record_image
    from trainers.data import pipeline

    records = pipeline.raw_examples(data, "test")
    return [record_image(record) for record, _ in zip(records, range(count), strict=False)]


def _engine_call(engine: BundleEngine, images: Sequence[bytes]) -> Callable[[int], object]:
    pixels = [engine.preprocess([image]) for image in images]
    return lambda at: engine.predict_images(pixels[at % len(pixels)])


def _label_call(engine: BundleEngine, images: Sequence[bytes]) -> Callable[[int], object]:
    labels, top_k = engine.bundle.labels, engine.bundle.manifest.top_k

    def call(at: int) -> object:
        scores = engine.predict_bytes([images[at % len(images)]])
        return predictions_from_scores(scores, labels, top_k)

    return call


def _in_rounds(
    timed: dict[Any, Callable[[int], object]], rounds: int, calls: int
) -> dict[Any, list[list[float]]]:
    """(rounds, calls) seconds of each; the order is reversed every round."""
    for call in timed.values():
        for at in range(_WARM_CALLS):
            call(at)
    found: dict[Any, list[list[float]]] = {key: [] for key in timed}
    for number in range(rounds):
        for key in list(timed) if number % 2 else list(timed)[::-1]:
            found[key].append([_seconds(timed[key], at) for at in range(calls)])
    return found


def _seconds(call: Callable[[int], object], at: int) -> float:
    began = time.perf_counter()
    call(at)
    return time.perf_counter() - began


def _study_networks(rounds: int, calls: int) -> dict[str, list[list[float]]]:
    """Seconds of the forward passes of `STUDY_MODELS` at 224 px and batch 1."""
    import tensorflow as tf

    from tfx_pipeline.study.cost import STUDY_CLASSES, STUDY_PX
    from trainers.config import Config, DataConfig, ModelConfig
    from trainers.models import build_model

    image = tf.constant(np.zeros((1, STUDY_PX, STUDY_PX, 3), np.float32))
    timed = {}
    for name, model in STUDY_MODELS.items():
        config = Config(
            name="study",
            data=DataConfig(image_size=(STUDY_PX, STUDY_PX)),
            model=ModelConfig(model),
        )
        timed[name] = _forward(build_model(config, STUDY_CLASSES), image)
    return _in_rounds(timed, rounds, calls)


def _forward(model: Any, image: Any) -> Callable[[int], object]:
    import tensorflow as tf

    run = tf.function(lambda images: model(images, training=False))
    return lambda at: run(image).numpy()
