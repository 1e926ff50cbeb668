"""Compares a network split over devices with the whole network, as ratios within one run.

    figures = measure("vit_b16", stages=2, batch=32, micro_batch=8)
    Console().print(view(figures))

Without enough accelerators, the stages run on virtual devices of one processor, which shows that
outputs agree and how memory is divided, but no gain in speed.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from serving.benchmark.rounds import ratio_over_rounds
from serving.benchmark.variants import environment
from trainers.config import Config, DataConfig, ModelConfig, override


def measure(
    model: str,
    options: Sequence[str] = (),
    *,
    stages: int = 2,
    batch: int = 32,
    micro_batch: int = 8,
    size: int = 224,
    classes: int = 1000,
    rounds: int = 5,
) -> dict[str, Any]:
    """Figures of `model`, whole and split, on the same images.

    Args:
      model: a registered model; its weights are random.
      options: options of its builder, `key=value`.
      stages: number of devices; with fewer accelerators, virtual devices are used, which must be
        configured before TensorFlow starts.
      batch: images per call.
      micro_batch: images per call of a stage.
      size: side of the image in pixels.
      classes: number of logits.
      rounds: number of timed calls of each.

    Returns:
      JSON-able: `machine`, `model`, `image_size`, `batch`, `micro_batch`, `rounds`, `virtual`,
      `difference` (maximum, of outputs), `largest` (output), `bubble`, `stages` (the fields of
      `StageMemory` for each), `whole_images_per_second` and `split_images_per_second`, one value
      per round, and `ratio`, [value, low, high] of split to whole with a 95 % interval.

    Raises:
      SplitError: the model cannot be split into these stages.
      ValueError: `batch` or `rounds` is too small.
      RuntimeError: TensorFlow has already started with too few devices.
    """
    if batch < 1 or rounds < 2:
        raise ValueError(f"batch must be at least 1 and rounds at least 2, got {batch}, {rounds}")
    devices, virtual = _devices(stages)
    from trainers.distributed.model_parallel import Pipeline
    from trainers.models import build_model

    config = Config(name=model, data=DataConfig(image_size=(size, size)), model=ModelConfig(model))
    config = override(config, [f"model.options.{one}" for one in options])
    network = build_model(replace(config, name="benchmark"), classes)
    pipeline = Pipeline(network, devices, micro_batch=micro_batch)
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (batch, size, size, 3)).astype(np.float32)
    whole, split, rates = _alternate(network, pipeline, images, rounds)
    return {
        "machine": environment(),
        "model": model,
        "image_size": [size, size],
        "batch": batch,
        "micro_batch": micro_batch,
        "rounds": rounds,
        "virtual": virtual,
        "difference": float(np.max(np.abs(whole - split))),
        "largest": float(np.max(np.abs(whole))),
        "bubble": pipeline.bubble(batch),
        "stages": [asdict(stage) for stage in pipeline.memory()],
        "whole_images_per_second": rates[:, 0].tolist(),
        "split_images_per_second": rates[:, 1].tolist(),
        "ratio": list(ratio_over_rounds(rates[:, 1], rates[:, 0])),
    }


def view(figures: dict[str, Any]) -> RenderableType:
    """The figures of `measure` as tables."""
    title = (
        f"{figures['model']}, {figures['image_size'][0]} px, {figures['batch']} images in "
        f"micro-batches of {figures['micro_batch']}; memory counted, not measured"
    )
    shown = Table(
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    columns = ("device", "layers", "GMAC", "weights MB", "activations MB", "sent MB")
    for column in columns:
        shown.add_column(column, justify="left" if column == "device" else "right")
    for stage in figures["stages"]:
        shown.add_row(
            stage["device"],
            str(stage["layers"]),
            f"{stage['multiply_adds'] / 1e9:.3f}",
            *(
                f"{stage[key] / 1e6:,.2f}"
                for key in ("weights_bytes", "activation_bytes", "sent_bytes")
            ),
        )
    whole, split = (
        float(np.median(figures[f"{kind}_images_per_second"])) for kind in ("whole", "split")
    )
    value, low, high = figures["ratio"]
    lines = [
        f"outputs differ by at most {figures['difference']:.1e} (largest {figures['largest']:.2f})",
        f"images/s whole {whole:,.1f}, split {split:,.1f}: ratio {value:.2f} (95 % "
        f"interval {low:.2f} to {high:.2f}) over {figures['rounds']} alternating rounds",
        f"bubble: {100 * figures['bubble']:.0f} % of the time with equal stages",
    ]
    if figures["virtual"]:
        lines.append(
            "the devices are virtual devices of one processor: no gain in speed is possible"
        )
    return Group(shown, *lines)


def _devices(stages: int) -> tuple[list[str], bool]:
    """(device names, whether they share the processor)."""
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        if len(tf.config.list_physical_devices(kind)) >= stages:
            return [f"{kind}:{number}" for number in range(stages)], False
    if stages > 1:
        (processor,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * stages
        known = tf.config.get_logical_device_configuration(processor)
        if known is None or len(known) != stages:
            tf.config.set_logical_device_configuration(processor, parts)
    return [f"CPU:{number}" for number in range(stages)], True


def _alternate(
    network: Any, pipeline: Any, images: np.ndarray, rounds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The outputs whole and split, and (rounds, 2) images per second of each."""
    import tensorflow as tf

    device = pipeline.devices[0]
    forward = tf.function(lambda x: network(x, training=False), autograph=False)

    def whole(x: np.ndarray) -> np.ndarray:
        with tf.device(device):
            return forward(tf.constant(x)).numpy()

    outputs, rates = (whole(images), pipeline(images)), []
    for round_ in range(rounds):
        row = [0.0, 0.0]
        for which in (0, 1) if round_ % 2 else (1, 0):
            began = time.perf_counter()
            (whole, pipeline)[which](images)
            row[which] = len(images) / (time.perf_counter() - began)
        rates.append(row)
    return *outputs, np.array(rates)
