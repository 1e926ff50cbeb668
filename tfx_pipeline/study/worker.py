"""The child processes of a study: `python -m tfx_pipeline.study.worker JOB.json`.

A job is a JSON file with `kind` and the arguments of the function of that kind in `_KINDS`.
Progress is written to standard output as JSON lines; results are files. TensorFlow is loaded here
and never in the parent, so that memory and threads of one step end with it.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.files import read_json, write_json, writing
from trainers.config import Config, from_dict
from trainers.data.features import DatasetInfo
from trainers.evaluation.predictions import Predictions

if TYPE_CHECKING:
    from trainers.training.epoch import Progress

# Nothing above loads TensorFlow, whose time counts.
_STARTED = time.monotonic()
# In a trained folder: the time of its processes until their last epoch.
_TIME_FILE = "time.json"
# Of the probe: untimed steps, then timed ones for so many seconds or steps.
_WARM_STEPS, _PROBE_S, _PROBE_STEPS = 3, 6.0, 40
# An epoch is expected to take at most this much longer than the mean of those before.
_EPOCH_SLACK = 1.1


def emit(**event: Any) -> None:
    """Writes one line of progress."""
    print(json.dumps(event), flush=True)


def save_predictions(path: Path, found: Predictions) -> None:
    """Writes ids, labels and scores as `.npz`, atomically."""
    with writing(path) as file:
        np.savez(file, ids=found.ids.astype(str), labels=found.labels, scores=found.scores)


def probe(configs: dict[str, Any], out: str) -> None:
    """Measures step and validation times: writes role -> seconds.

    Args:
      configs: role -> configuration.
      out: the JSON file: `start_s`, and for each role `build_s` until its first step, `step_s`,
        `steps` of an epoch, `predict_s` of an image and the images of `validation` and `test`.
    """
    import tensorflow as tf  # noqa: F401  # Its time is part of the start.

    from trainers.loop import fit  # noqa: F401

    found: dict[str, Any] = {"start_s": time.monotonic() - _STARTED}
    for role, raw in configs.items():
        emit(event="step", step=f"probe {role}")
        found[role] = _probe_one(from_dict(raw))
    write_json(Path(out), found)


def _probe_one(config: Config) -> dict[str, float]:
    from trainers.data import pipeline
    from trainers.training.forward import Forward

    began = time.monotonic()
    info = DatasetInfo.load(Path(config.data.dir))
    step = _train_step(config, info)
    batches = iter(pipeline.train_batches(config, info, epoch=0))
    steps = pipeline.steps_per_epoch(config, info)
    for _ in range(min(_WARM_STEPS, steps)):
        step(next(batches))
    step.totals.numpy()
    build_s = time.monotonic() - began
    timed, began = 0, time.monotonic()
    while timed < min(_PROBE_STEPS, max(steps - _WARM_STEPS, 1)):
        batch = next(batches, None)
        if batch is None or (timed and time.monotonic() - began > _PROBE_S):
            break
        step(batch)
        step.totals.numpy()
        timed += 1
    step_s = (time.monotonic() - began) / max(timed, 1)
    forward = Forward(step.model, config)
    images = np.zeros((forward.batch, *config.data.image_size, 3), np.uint8)
    forward(images)
    began = time.monotonic()
    forward(images)
    predict_s = (time.monotonic() - began) / len(images)
    counts = {name: info.splits[name].examples for name in ("validation", "test")}
    return {"build_s": build_s, "step_s": step_s, "steps": steps, "predict_s": predict_s, **counts}


def _train_step(config: Config, info: DatasetInfo) -> Any:
    import tensorflow as tf

    from trainers.keras import keras
    from trainers.optim import build_optimizer
    from trainers.registry import tasks
    from trainers.training.step import TrainStep

    keras.utils.set_random_seed(config.train.seed)
    task = tasks.get(config.task)
    model = task.build(config, info)
    optimizer = build_optimizer(config.optim, 1, model=model)
    return TrainStep(model, optimizer, task.loss(config), config, tf.distribute.get_strategy())


def train(config: dict[str, Any], out: str, seconds: float) -> None:
    """Trains into `out` for at most `seconds`, then predicts the test split.

    Training ends at the end of the last epoch that is expected to fit; at least one epoch is run.

    Args:
      config: of the run, with `data.dir`.
      out: the trained folder; `predictions.npz` and `run.json` are written too, the latter last.
      seconds: from the start of this process.
    """
    from trainers.loop import fit
    from trainers.training.evaluate import predict_trained
    from trainers.training.trained import save_trained

    folder = Path(out)
    earlier, clock = _time_spent(folder), EpochClock()

    def on_progress(at: "Progress") -> None:
        clock.at(at.step, at.steps)
        emit(event="progress", **asdict(at))

    def stop() -> bool:
        write_json(folder / _TIME_FILE, _time_with(earlier))
        return time.monotonic() - _STARTED + clock.next_s() * _EPOCH_SLACK > seconds

    trained = fit(
        from_dict(config),
        folder / "checkpoints",
        report=on_progress,
        announce=lambda line: emit(event="note", line=line),
        stop=stop,
    )
    save_trained(trained, folder)
    emit(event="step", step="predict the test split")
    found = predict_trained(trained, Path(trained.config.data.dir), "test")
    save_predictions(folder / "predictions.npz", found)
    epochs = {"epochs": len(trained.history), "planned": trained.config.train.epochs}
    write_json(folder / "run.json", {**epochs, **_time_with(earlier)})


class EpochClock:
    """The expected seconds of the next epoch, without what only the first step takes."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._steps = 0

    def at(self, step: int, steps: int) -> None:
        """Records that `step` of `steps` is done."""
        if self._first is None:
            self._first = (time.monotonic(), step)
        self._steps = steps

    def next_s(self) -> float:
        """Seconds of an epoch with its validation, from the one that ends now."""
        if self._first is None:
            return 0.0
        began, step = self._first
        self._first = None
        # An epoch that reports once is so short that its time does not matter.
        return (time.monotonic() - began) * self._steps / max(self._steps - step, 1)


def _time_spent(folder: Path) -> dict[str, float]:
    """The time of earlier processes, as of their last epoch."""
    path = folder / _TIME_FILE
    return read_json(path) if path.is_file() else {"seconds": 0.0, "cpu_seconds": 0.0}


def _time_with(earlier: dict[str, float]) -> dict[str, float]:
    """The time of earlier processes and of this one."""
    times = os.times()
    return {
        "seconds": earlier["seconds"] + time.monotonic() - _STARTED,
        "cpu_seconds": earlier["cpu_seconds"] + times.user + times.system,
    }


def compress(
    trained: str, out: str, methods: list[str], ptq: list[str], settings: dict[str, Any]
) -> None:
    """Builds the bundle `out` of a trained folder and predicts the test split with each variant.

    Args:
      trained: the folder.
      out: the bundle; predictions are in the folder `<out>.predictions`, `done.json` last.
      methods: compression methods.
      ptq: dtypes of quantization after training.
      settings: values of the configuration's `compress`.
    """
    from components.evaluation.predict_variants import predict_variant
    from core.bundle import SAVED_MODEL, open_bundle
    from trainers.bundles.build import build_bundle
    from trainers.training.trained import load_trained

    model = load_trained(Path(trained))
    config = replace(model.config, compress=replace(model.config.compress, **settings))
    build_bundle(
        replace(model, config=config),
        Path(out),
        methods=methods,
        ptq=ptq,
        report=lambda at: emit(event="progress", **asdict(at)),
        announce=lambda name: emit(event="step", step=name),
    )
    bundle = open_bundle(out)
    folder = Path(f"{out}.predictions")
    folder.mkdir(exist_ok=True)
    names = [SAVED_MODEL, *(variant.name for variant in bundle.manifest.variants)]
    for name in names:
        emit(event="step", step=f"predict with {name}")
        found = predict_variant(bundle, name, Path(config.data.dir), "test")
        save_predictions(folder / f"{name}.npz", found)
    sizes = {one.name: one.gzip_bytes for one in bundle.manifest.variants}
    write_json(folder / "done.json", {"variants": names, "gzip_bytes": sizes, **settings})


def cost(models: list[dict[str, Any]], out: str) -> None:
    """Counts parameters and multiply-adds; see `tfx_pipeline.study.cost`."""
    from tfx_pipeline.study.cost import count

    rows = []
    for model in models:
        emit(event="step", step=f"count {model['name']}")
        rows.append(count(**model))
    write_json(Path(out), rows)


def timing(bundles: dict[str, str], data: str, out: str, settings: dict[str, int]) -> None:
    """Measures latencies; see `tfx_pipeline.study.timing`."""
    from tfx_pipeline.study.timing import measure

    write_json(Path(out), measure(bundles, Path(data), **settings))


def scaling(configs: dict[str, Any], classes: int, out: str) -> None:
    """Measures cost by image size and batch; see `tfx_pipeline.study.timing.scaling`."""
    from tfx_pipeline.study import timing as timings

    write_json(Path(out), timings.scaling(configs, classes))


def report(folder: str) -> None:
    """Writes the report of a study's folder; see `tfx_pipeline.study.report`."""
    from tfx_pipeline.study.report import write_report

    write_report(Path(folder))


_KINDS: dict[str, Callable[..., None]] = {
    one.__name__: one for one in (probe, train, compress, cost, timing, scaling, report)
}


def main(job: Path) -> None:
    """Runs the job of a file."""
    given = read_json(job)
    _KINDS[given.pop("kind")](**given)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
