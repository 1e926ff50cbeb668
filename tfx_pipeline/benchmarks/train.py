"""Compares the training steps of networks, as ratios within one run.

    figures = measure("resnet50", ["variant=v1", "bias=true"], against="keras_resnet50",
                      data=Path("data/pets"), size=224, batch=16, rounds=10)
    Console().print(table(figures))

All contenders run the same step (`trainers.training.step`) with the same optimizer and loss on
batches of one input pipeline, which reads and augments real images. Blocks of a few steps alternate
between them, in an order that is reversed every round, so that changes of the machine's speed
affect all; a ratio compares two blocks of the same round.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from core.processes import ChildError, module_command, output_of, peak_memory_bytes
from serving.benchmark.rounds import ratio_over_rounds
from serving.benchmark.variants import environment
from trainers.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    from_dict,
    override,
    to_dict,
)
from trainers.data.features import DATASET_FILE, DatasetError, DatasetInfo
from trainers.registry import models

AUGMENT = ("random_resized_crop", "flip")
_WARM_STEPS = 2
_MEMORY_STEPS = 3

Batch = tuple[Any, ...]


def measure(
    model: str,
    options: Sequence[str] = (),
    *,
    against: str,
    data: Path,
    size: int = 224,
    batch: int = 16,
    rounds: int = 10,
    steps: int = 4,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Step times, input stalls and peak memory of `model` and of `against`.

    Args:
      model: a registered model.
      options: options of its builder, `key=value`; the model without them is also measured.
      against: the registered model that is the denominator of ratios.
      data: records, or a folder of images by class, which is ingested first.
      size: side of the image in pixels.
      batch: images per step.
      rounds: number of rounds, at least 2.
      steps: steps per round and contender, at least 1.
      on_round: called after each round with its number, from 1.

    Returns:
      JSON-able: `machine`, `model`, `against`, `image_size`, `batch`, `rounds`, `steps`;
      `contenders`, name -> `step_seconds` and `wait_seconds` (means per round: computing, and
      waiting for the batch), `stall` (the share of time spent waiting), `peak_mb`,
      `multiply_adds`, and `ratio`, [value, low, high] of step times to `against` with a 95 %
      interval.

    Raises:
      DatasetError: no images, or less than one batch of them.
      ValueError: `rounds` or `steps` out of range.
      UnknownNameError: no such model.
    """
    if rounds < 2 or steps < 1:
        raise ValueError(f"rounds must be at least 2 and steps at least 1, got {rounds}, {steps}")
    with tempfile.TemporaryDirectory(prefix="sightline-benchmark-") as work:
        configs = _contenders(_config(_records(data, Path(work)), size, batch), model, options)
        configs |= _contenders(configs[next(iter(configs))], against, ())
        seconds, work_of = _alternate(
            configs, against, rounds=rounds, steps=steps, on_round=on_round
        )
        found = {
            name: {
                **_times(seconds[name]),
                "ratio": list(ratio_over_rounds(seconds[name][:, 0], seconds[against][:, 0])),
                "peak_mb": _peak_mb(config),
                "multiply_adds": work_of[name],
            }
            for name, config in configs.items()
        }
    return {
        "machine": environment(),
        "model": model,
        "against": against,
        "image_size": [size, size],
        "batch": batch,
        "rounds": rounds,
        "steps": steps,
        "contenders": found,
    }


def table(figures: dict[str, Any]) -> Table:
    """One row per contender of `measure`."""
    machine, height = figures["machine"], figures["image_size"][0]
    title = (
        f"{machine['cpu']}, {machine['cores']} cores; {height} px, {figures['batch']} images a "
        f"step; {figures['rounds']} alternating rounds of {figures['steps']} steps"
    )
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", "ms a step", "images/s", f"of {figures['against']}", "95 % interval"):
        shown.add_column(column, justify="right" if column else "left")
    for column in ("waits for input", "peak MB", "GMAC"):
        shown.add_column(column, justify="right")
    for name, row in figures["contenders"].items():
        step = float(np.median(row["step_seconds"]))
        value, low, high = row["ratio"]
        shown.add_row(
            name,
            f"{1e3 * step:,.1f}",
            f"{figures['batch'] / step:,.1f}",
            f"{value:.3f}",
            f"{low:.3f} to {high:.3f}" if name != figures["against"] else "",
            f"{100 * row['stall']:.1f} %",
            f"{row['peak_mb']:,.0f}",
            f"{row['multiply_adds'] / 1e9:.2f}",
        )
    return shown


def _records(data: Path, work: Path) -> Path:
    if (data / DATASET_FILE).is_file():
        DatasetInfo.load(data).check_task("classification", "the benchmark of training steps")
        return data
    if not data.is_dir():
        raise DatasetError(
            f"{data} is not a folder; use records of `sightline ingest`, or DIR/<class>/*.jpg"
        )
    from tfx_pipeline.ingest import ingest

    ingest("folder", work / "records", where=data, split="train", shards=4)
    return work / "records"


def _config(records: Path, size: int, batch: int) -> Config:
    return Config(
        name="benchmark",
        data=DataConfig(
            dir=str(records), image_size=(size, size), augment=AUGMENT, on_error="skip"
        ),
        optim=OptimConfig("sgd", learning_rate=0.01, schedule="constant"),
        train=TrainConfig(global_batch=batch),
    )


def _contenders(base: Config, model: str, options: Sequence[str]) -> dict[str, Config]:
    """Name -> configuration: with the options and, if there are any, without."""
    models.get(model)
    plain = replace(base, model=ModelConfig(name=model))
    if not options:
        return {model: plain}
    changed = override(plain, [f"model.options.{one}" for one in options])
    return {f"{model} {' '.join(options)}": changed, model: plain}


def _alternate(
    configs: dict[str, Config],
    against: str,
    *,
    rounds: int,
    steps: int,
    on_round: Callable[[int], None] | None,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Name -> (rounds, 2) mean seconds of a step and of waiting for its batch; name -> MACs."""
    from trainers.profiling.complexity import complexity

    made = {name: _step(config) for name, config in configs.items()}
    batches = _batches(configs[against])
    for step in made.values():
        _block(step, batches, _WARM_STEPS)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for round_ in range(rounds):
        for name in list(made) if round_ % 2 else list(made)[::-1]:
            found[name].append(_block(made[name], batches, steps))
        if on_round:
            on_round(round_ + 1)
    work = {name: complexity(step.model).multiply_adds for name, step in made.items()}
    return {name: np.array(rows) for name, rows in found.items()}, work


def _step(config: Config) -> Any:
    import tensorflow as tf

    from trainers.keras import keras
    from trainers.optim import build_optimizer
    from trainers.registry import tasks
    from trainers.training.step import TrainStep

    keras.utils.set_random_seed(config.train.seed)
    task = tasks.get(config.task)
    model = task.build(config, DatasetInfo.load(Path(config.data.dir)))
    optimizer = build_optimizer(config.optim, 1, model=model)
    return TrainStep(model, optimizer, task.loss(config), config, tf.distribute.get_strategy())


def _batches(config: Config) -> Iterator[Batch]:
    """An endless stream of training batches."""
    from trainers.data import pipeline

    info, epoch = DatasetInfo.load(Path(config.data.dir)), 0
    while True:
        yield from pipeline.train_batches(config, info, epoch=epoch)
        epoch += 1


def _block(step: Any, batches: Iterator[Batch], count: int) -> tuple[float, float]:
    """Mean seconds of a step, and of waiting for its batch, over `count` steps."""
    computing = waiting = 0.0
    for _ in range(count):
        began = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        step(batch)
        step.totals.numpy()  # The call may return before the step has finished.
        waiting += ready - began
        computing += time.perf_counter() - ready
    return computing / count, waiting / count


def _times(seconds: np.ndarray) -> dict[str, Any]:
    return {
        "step_seconds": seconds[:, 0].tolist(),
        "wait_seconds": seconds[:, 1].tolist(),
        "stall": float(seconds[:, 1].sum() / seconds.sum()),
    }


def _peak_mb(config: Config) -> float:
    """Peak memory in MB of a child process that runs a few steps."""
    command = module_command("tfx_pipeline.benchmarks.train", options=("-W", "ignore"))
    try:
        printed = output_of(
            command, text=json.dumps(to_dict(config)), changes={"TF_CPP_MIN_LOG_LEVEL": "3"}
        )
    except ChildError as error:
        raise DatasetError(f"training {config.model.name} failed: {error}") from None
    return float(printed.split()[-1])


def _print_peak_memory(config: Config) -> None:
    """Runs a few steps and prints the peak memory of this process in MB."""
    _block(_step(config), _batches(config), _MEMORY_STEPS)
    print(peak_memory_bytes() / 1e6)


if __name__ == "__main__":
    _print_peak_memory(from_dict(json.load(sys.stdin)))
