"""Pipeline parallelism: a network split into stages over several devices.

    stages = split(model, 2)
    pipeline = Pipeline(model, ["GPU:0", "GPU:1"], micro_batch=8)
    logits = pipeline(images)

While the second stage processes a micro-batch, the first processes the next one (Huang et al.
2019, arXiv 1811.06965, section 2.3, without the backward pass). Results equal those of the whole
model up to the last bits, which depend on the batch size that a kernel gets.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.keras import keras
from trainers.profiling.complexity import call_multiply_adds
from trainers.profiling.model_graph import (
    Call,
    Tensor,
    activations,
    live_tensors,
    model_calls,
    output_keys,
)

# The allowed load of a stage, relative to the most even split, for a cut with fewer bytes: a tenth
# of imbalance costs less than sending twice the bytes.
_SLACK = 1.1


class SplitError(ValueError):
    """A model that cannot be split; the message has the possible numbers of stages."""


@dataclass(frozen=True)
class StageMemory:
    """The computed load of one stage on its device.

    Attributes:
      device: of the stage.
      layers: number of layers.
      multiply_adds: per image.
      weights_bytes: of its variables.
      activation_bytes: peak of layer outputs that are alive at once, per micro-batch.
      sent_bytes: sent to the next stage per micro-batch; for the last stage, the outputs.
    """

    device: str
    layers: int
    multiply_adds: int
    weights_bytes: int
    activation_bytes: int
    sent_bytes: int


def split(
    model: keras.Model, stages: int, *, devices: Sequence[str] | None = None
) -> list[keras.Model]:
    """`model` as consecutive functional models with copies of its weights.

    The stages have about equal multiply-adds, within a tenth of the most even split, with the
    fewest bytes between stages. All tensors that a later stage or the caller needs cross a cut, so
    a stage takes and returns a list of tensors or one tensor.

    Args:
      model: functional, with static image size.
      stages: number of stages, at least 1.
      devices: of the variables of each stage; None leaves the choice to TensorFlow.

    Returns:
      `stages` models; the first has the inputs of `model`, the last its outputs.

    Raises:
      SplitError: fewer than one stage, or more than the model has cut points.
      ValueError: the model is not functional.
    """
    if devices is not None and len(devices) != stages:
        raise SplitError(f"{stages} stages need as many devices, got {len(devices)}: {devices}")
    calls = model_calls(model)
    live = live_tensors(model, calls)
    sources = sum(not call.inputs for call in calls)
    ends = [*_cuts(model, calls, live, stages), len(calls)]
    made: list[keras.Model] = []
    taken = [tensor for call in calls[:sources] for tensor in call.outputs]
    start = sources
    for index, end in enumerate(ends):
        given = list(live[end - 1]) if end < len(calls) else []
        keys = [tensor.key for tensor in given] or list(output_keys(model))
        device = devices[index] if devices else ""
        with tf.device(device or None):
            made.append(_stage(calls[start:end], taken, keys, name=f"stage{index + 1}"))
        taken, start = given, end
    return made


class Pipeline:
    """Runs a split model over several devices.

    Args:
      model: functional; its weights are copied, so it may be dropped afterwards.
      devices: one per stage, e.g. `("GPU:0", "GPU:1")`.
      micro_batch: images per micro-batch, at least 1.

    Raises:
      SplitError: a micro-batch below 1, an unknown device, or a model that cannot be split.
    """

    def __init__(self, model: keras.Model, devices: Sequence[str], *, micro_batch: int) -> None:
        if micro_batch < 1:
            raise SplitError(f"micro_batch must be at least 1, got {micro_batch}")
        _check_devices(devices)
        self.devices, self.micro_batch = tuple(devices), micro_batch
        self.stages = split(model, len(devices), devices=devices)
        self._single = len(model.outputs) == 1 and not isinstance(model.output, (list, tuple))
        self._run = [
            _compiled(stage, device) for stage, device in zip(self.stages, devices, strict=True)
        ]

    def __call__(self, images: np.ndarray | tf.Tensor) -> Any:
        """The outputs of the whole model in inference.

        Args:
          images: (B, H, W, 3) with any B >= 1; the last micro-batch may be smaller.

        Returns:
          float32 array (B, N), or a list of arrays if the model has several outputs.

        Raises:
          ValueError: there are no images, or they have another size than the model's.
        """
        wanted = tuple(self.stages[0].inputs[0].shape[1:])
        if not len(images) or tuple(images.shape[1:]) != wanted:
            raise ValueError(
                f"the model takes one image or more of shape {wanted}, got {tuple(images.shape)}"
            )
        parts = [[np.asarray(part) for part in outputs] for outputs in self._outputs(images)]
        whole = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return whole[0] if self._single else whole

    def memory(self) -> list[StageMemory]:
        """The load of each stage on its device."""
        return [
            _memory(stage, device, self.micro_batch)
            for stage, device in zip(self.stages, self.devices, strict=True)
        ]

    def bubble(self, batch: int) -> float:
        """The fraction of time in which a device is idle, for `batch` images and equal stages.

        (K - 1) / (M + K - 1) for K stages and M micro-batches (Huang et al. 2019, section 2.3).
        """
        idle = len(self.stages) - 1
        return idle / (-(-batch // self.micro_batch) + idle)

    def _outputs(self, images: np.ndarray | tf.Tensor) -> list[list[tf.Tensor]]:
        """The last stage's outputs of every micro-batch, in order."""
        workers = [ThreadPoolExecutor(1, f"stage{n + 1}") for n in range(len(self._run))]
        done: list[list[tf.Tensor]] = []
        running: deque[Future] = deque()
        try:
            for start in range(0, len(images), self.micro_batch):
                value: Any = [images[start : start + self.micro_batch]]
                for worker, run in zip(workers, self._run, strict=True):
                    value = worker.submit(_after, value, run)
                running.append(value)
                # A stage that is faster than the next must not accumulate results.
                if len(running) > len(workers) + 1:
                    done.append(running.popleft().result())
            done += [future.result() for future in running]
        finally:
            for worker in workers:
                worker.shutdown(cancel_futures=True)
        return done


def _after(value: Any, run: Any) -> list[tf.Tensor]:
    """`run` on the result of the previous stage; waiting here keeps micro-batches in order."""
    return run(value.result() if isinstance(value, Future) else value)


def _compiled(stage: keras.Model, device: str) -> Any:
    """A function from a list of tensors to a list of tensors, on `device`."""
    signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in stage.inputs]

    @tf.function(input_signature=signature, autograph=False)
    def forward(*tensors: tf.Tensor) -> list[tf.Tensor]:
        with tf.device(device):
            outputs = stage(tensors[0] if len(tensors) == 1 else list(tensors), training=False)
        return tf.nest.flatten(outputs)

    # Traced now, since Keras cannot trace in several threads at once. The concrete function has no
    # lock, which an error in the first call of `forward` would leave locked.
    traced = forward.get_concrete_function()

    def run(tensors: list[Any]) -> list[tf.Tensor]:
        with tf.device(device):
            here = [
                tf.identity(tf.cast(tensor, spec.dtype))
                for tensor, spec in zip(tensors, signature, strict=True)
            ]
            return traced(*here)

    return run


def _check_devices(devices: Sequence[str]) -> None:
    if not devices:
        raise SplitError("model parallelism needs at least one device, got none")
    known = [device.name for device in tf.config.list_logical_devices()]
    short = [name.removeprefix("/device:") for name in known]
    for device in devices:
        if device.upper().removeprefix("/").removeprefix("DEVICE:") not in short:
            raise SplitError(f"no device named {device!r} (known: {', '.join(short)})")


def _cuts(
    model: keras.Model, calls: list[Call], live: list[tuple[Tensor, ...]], stages: int
) -> list[int]:
    """`stages - 1` ascending numbers of calls before each cut."""
    sources = sum(not call.inputs for call in calls)
    points = [
        index
        for index in range(sources + 1, len(calls))
        if all(None not in tensor.shape and tensor.bytes for tensor in live[index - 1])
    ]
    if not 1 <= stages <= len(points) + 1:
        raise SplitError(
            f"{model.name!r} can be split into 1 to {len(points) + 1} stages, got {stages}"
        )
    work = np.cumsum([0, *(call_multiply_adds(call) for call in calls)])
    at = np.array([0, *points, len(calls)])
    sent = np.array([0.0, *(sum(t.bytes for t in live[point - 1]) for point in points), 0.0])
    done = work[at].astype(np.float64)
    best = _even_load(done, stages)
    return [int(at[index]) for index in _cheapest(done, sent, stages, best * _SLACK)]


def _even_load(done: np.ndarray, stages: int) -> float:
    """The lowest possible load of the busiest stage; `done` is the work before each cut point."""
    least = done[1:].copy()
    for _ in range(stages - 1):
        least = np.array(
            [
                np.min(np.maximum(least[:end], done[end + 1] - done[1 : end + 1]), initial=np.inf)
                for end in range(len(least))
            ]
        )
    return float(least[-1])


def _cheapest(done: np.ndarray, sent: np.ndarray, stages: int, limit: float) -> list[int]:
    """Indices of the inner cuts with the fewest bytes sent and no stage load above `limit`."""
    points = len(done)
    cost = np.full((stages + 1, points), np.inf)
    before = np.zeros((stages + 1, points), np.int64)
    cost[0, 0] = 0.0
    for stage in range(1, stages + 1):
        for end in range(stage, points):
            options = np.where(done[end] - done[:end] <= limit, cost[stage - 1, :end], np.inf)
            before[stage, end] = int(np.argmin(options))
            cost[stage, end] = options[before[stage, end]] + sent[end]
    path = [points - 1]
    for stage in range(stages, 1, -1):
        path.append(int(before[stage, path[-1]]))
    return path[:0:-1]


def _stage(
    calls: list[Call], taken: Sequence[Tensor], keys: list[str], *, name: str
) -> keras.Model:
    """A new model of the `calls`, from the tensors `taken` to those named by `keys`."""
    made: dict[str, Any] = {
        tensor.key: keras.Input(tensor.shape, dtype=tensor.dtype) for tensor in taken
    }
    inputs = list(made.values())
    copies: dict[int, keras.layers.Layer] = {}
    for call in calls:
        if id(call.layer) not in copies:
            copies[id(call.layer)] = _fresh(call.layer)
        # `map_arguments` takes from the ends of these lists.
        uses = len(call.node.flat_input_ids)
        arguments = {key: [made[key]] * uses for key in call.node.flat_input_ids}
        args, kwargs = call.node.map_arguments(arguments)
        outputs = tf.nest.flatten(copies[id(call.layer)](*args, **kwargs))
        made.update(zip(call.node.flat_output_ids, outputs, strict=True))
    outputs = [made[key] for key in keys]
    stage = keras.Model(inputs, outputs[0] if len(outputs) == 1 else outputs, name=name)
    for call in calls:
        copies[id(call.layer)].set_weights(call.layer.get_weights())
    return stage


def _fresh(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The same layer without weights or connections."""
    if isinstance(layer, keras.Model):
        return keras.models.clone_model(layer)
    return type(layer).from_config(layer.get_config())


def _memory(stage: keras.Model, device: str, micro_batch: int) -> StageMemory:
    calls = model_calls(stage)
    made = {tensor.key: tensor.bytes for call in calls for tensor in call.outputs}
    return StageMemory(
        device=device,
        layers=sum(bool(call.inputs) for call in calls),
        multiply_adds=sum(call_multiply_adds(call) for call in calls),
        weights_bytes=sum(
            weight.dtype.size * weight.shape.num_elements() for weight in stage.weights
        ),
        activation_bytes=micro_batch * activations(stage).peak,
        sent_bytes=micro_batch * sum(made[key] for key in dict.fromkeys(output_keys(stage))),
    )
