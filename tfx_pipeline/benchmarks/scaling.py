"""How the cost of a network grows with image size and batch, as ratios within one run.

    figures = measure("vit_s16", sizes=(96, 160, 224), batches=(1, 4, 16))
    Console().print(table(figures))

Multiply-adds and memory are counted; time is of the TensorFlow graph on pixels in memory ("engine
alone"), with random weights. All cells are timed in every round, in an order that is reversed each
time, and a ratio compares two blocks of the same round.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from serving.benchmark.errors import BenchmarkError
from serving.benchmark.rounds import ratio_over_rounds
from serving.benchmark.variants import environment
from trainers.config import Config, ConfigError, DataConfig, ModelConfig, override
from trainers.registry import models

if TYPE_CHECKING:
    from trainers.keras import keras

#: What the fields of a cell mean.
DEFINITIONS = {
    "multiply_adds": "of one image; two FLOPs each",
    "attention_share": "share of multiply_adds in scores and weighted sums, 2 N^2 d per layer",
    "engine_ms": "time of one batch, pixels to logits; one value per round",
    "images_per_second": "batch / median of engine_ms",
    "memory_mb": "weights, and batch times the largest sum of live layer outputs; counted",
    "time_ratio": "engine_ms over that of the first cell, with its 95 % interval",
    "work_ratio": "multiply-adds of the batch over those of the first cell",
}
#: Length of a timed block, unless one call takes longer.
_BLOCK_SECONDS = 0.05
_MOST_CALLS = 20


def measure(
    model: str,
    options: Sequence[str] = (),
    *,
    sizes: Sequence[int] = (96, 160, 224),
    batches: Sequence[int] = (1, 4, 16),
    classes: int = 1000,
    rounds: int = 5,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Work, time and memory of `model` at every size and batch.

    Args:
      model: a registered model; its weights are random.
      options: options of its builder, `key=value`.
      sizes: sides of the image in pixels, at least one.
      batches: images per call, at least one.
      classes: number of logits.
      rounds: timed blocks of each cell, at least 2.
      on_round: called after each round with its number, from 1.

    Returns:
      JSON-able: `machine`, `model`, `options`, `classes`, `rounds`, `definitions`; `cells`, sizes
      in the given order and batches within, each with `image_size`, `batch`, `parameters`
      (trainable), `attention_layers` and the fields of `DEFINITIONS`.

    Raises:
      BenchmarkError: a size, batch or number of rounds is out of range, or is given twice.
      ConfigError: the model does not support an option or a size.
      UnknownNameError: no such model.
    """
    for name, values in (("sizes", sizes), ("batches", batches)):
        if not values or min(values) < 1 or len(set(values)) < len(values):
            raise BenchmarkError(f"{name} must be distinct and at least 1, got {list(values)}")
    if rounds < 2:
        raise BenchmarkError(f"rounds must be at least 2, got {rounds}")
    models.get(model)
    cells = [
        cell
        for size in sizes
        for cell in _cells(_network(model, options, size, classes), size, batches)
    ]
    seconds = _alternate([cell.call for cell in cells], rounds, on_round)
    return {
        "machine": environment(),
        "model": model,
        "options": list(options),
        "classes": classes,
        "rounds": rounds,
        "definitions": DEFINITIONS,
        "cells": [
            cell.facts | _times(cell, cells[0], row, seconds[0])
            for cell, row in zip(cells, seconds, strict=True)
        ],
    }


def table(figures: dict[str, Any]) -> Table:
    """One row per cell of `measure`."""
    machine, first = figures["machine"], figures["cells"][0]
    name = " ".join((figures["model"], *figures["options"]))
    title = (
        f"{name}, {figures['classes']:,} classes; {machine['cpu']}, {machine['cores']} cores; "
        f"{figures['rounds']} alternating rounds; ratios to {first['image_size'][0]} px, batch "
        f"{first['batch']}; memory counted, not measured"
    )
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    columns = ("px", "batch", "GMAC/image", "attention", "ms", "img/s", "time", "95 % interval")
    for column in (*columns, "work", "MB"):
        shown.add_column(column, justify="right")
    for cell in figures["cells"]:
        value, low, high = cell["time_ratio"]
        has_attention = cell["attention_layers"] > 0
        shown.add_row(
            str(cell["image_size"][0]),
            str(cell["batch"]),
            f"{cell['multiply_adds'] / 1e9:.3f}",
            f"{100 * cell['attention_share']:.1f} %" if has_attention else "",
            f"{np.median(cell['engine_ms']):,.2f}",
            f"{cell['images_per_second']:,.1f}",
            f"{value:.2f}x",
            f"{low:.2f} to {high:.2f}" if cell is not first else "",
            f"{cell['work_ratio']:.2f}x",
            f"{cell['memory_mb']:,.1f}",
        )
    return shown


@dataclass(frozen=True)
class _Cell:
    """A size and batch: what is counted, and a call."""

    facts: dict[str, Any]
    call: Callable[[], object]

    @property
    def work(self) -> int:
        """Multiply-adds of the batch."""
        return self.facts["batch"] * self.facts["multiply_adds"]


def _network(model: str, options: Sequence[str], size: int, classes: int) -> "keras.Model":
    from trainers.models import build_model

    config = Config(
        name="benchmark", data=DataConfig(image_size=(size, size)), model=ModelConfig(model)
    )
    config = override(config, [f"model.options.{one}" for one in options])
    try:
        return build_model(replace(config, name="benchmark"), classes)
    except ConfigError as error:
        raise ConfigError(f"{model} at {size} px: {error}") from error


def _cells(network: "keras.Model", size: int, batches: Sequence[int]) -> list[_Cell]:
    import tensorflow as tf

    from trainers.profiling.complexity import attention_cost, complexity
    from trainers.profiling.model_graph import activations

    cost, attention = complexity(network), attention_cost(network)
    live = activations(network).peak
    forward = tf.function(lambda images: network(images, training=False), autograph=False)
    noise = np.random.default_rng(0)

    def cell(batch: int) -> _Cell:
        images = tf.constant(noise.integers(0, 256, (batch, size, size, 3)).astype(np.float32))
        facts = {
            "image_size": [size, size],
            "batch": batch,
            "parameters": cost.trainable_parameters,
            "multiply_adds": cost.multiply_adds,
            "attention_layers": attention.layers,
            "attention_share": attention.products / max(cost.multiply_adds, 1),
            "memory_mb": (4 * cost.parameters + batch * live) / 1e6,
        }
        return _Cell(facts, lambda: forward(images).numpy())

    return [cell(batch) for batch in batches]


def _alternate(
    calls: Sequence[Callable[[], object]], rounds: int, on_round: Callable[[int], None] | None
) -> np.ndarray:
    """(calls, rounds) mean seconds of a call."""
    counts = []
    for call in calls:
        call()  # Traces the graph.
        counts.append(int(np.clip(_BLOCK_SECONDS / _block(call, 1), 1, _MOST_CALLS)))
    found = np.zeros((len(calls), rounds))
    for round_ in range(rounds):
        order = range(len(calls)) if round_ % 2 else reversed(range(len(calls)))
        for index in order:
            found[index, round_] = _block(calls[index], counts[index])
        if on_round:
            on_round(round_ + 1)
    return found


def _block(call: Callable[[], object], count: int) -> float:
    """Mean seconds of `count` calls."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def _times(cell: _Cell, first: _Cell, seconds: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    return {
        "engine_ms": (1e3 * seconds).tolist(),
        "images_per_second": float(cell.facts["batch"] / np.median(seconds)),
        "time_ratio": list(ratio_over_rounds(seconds, base)),
        "work_ratio": cell.work / max(first.work, 1),
    }
