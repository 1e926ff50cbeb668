"""One run's whole configuration: frozen dataclasses, dotted overrides, a hash.

    config = override(recipe("digits_cnn"), ["train.epochs=5", "optim.learning_rate=0.02"])

Standard library only: reading a configuration never loads TensorFlow.
"""

import hashlib
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from trainers.config_keys import comma_parts, implied, with_young_keys
from trainers.registry import nearest

_Settings = TypeVar("_Settings")


class ConfigError(ValueError):
    """A key or value the configuration does not take; the message gives the remedy."""


@dataclass(frozen=True)
class DataConfig:
    """What is read and how it becomes pixels.

    Attributes:
      dir: folder holding `dataset.json` and `Split-*`.
      image_size: (height, width) in pixels that the network sees.
      crop_fraction: evaluation keeps this central part of each side, in (0, 1], then resizes; with
        `fit=crop`, of each side of the largest box of the network's aspect.
      resize: `antialias` (triangle filter, as Pillow's BILINEAR) or `bilinear` (four pixels each,
        as versions before this key), in training, evaluation and the exported graph.
      fit: how images of another aspect than `image_size` fit: `crop` or `stretch`.
      mean: per-channel mean on the [0, 255] scale, subtracted inside the model's graph.
      std: per-channel deviation on the same scale, divided by inside the model's graph.
      augment: training augmentations in order, e.g. `flip` or `rotate(15)`; `mixup(0.2)` and
        `cutmix(1.0)` mix pairs of images and make the labels soft.
      on_error: `raise` stops at a bad record, `skip` counts it.
      max_skipped: with `skip`, more than this many bad records is an error after all.
      cache: where decoded uint8 images are kept between epochs: `auto` (in memory where they fit
        `cache_mb` and no random crop needs the original), `memory`, `disk` or `none`.
      cache_dir: for `disk`; `.cache` in `dir` where empty.
      cache_mb: the budget of `auto`, in MiB.
      host_sharding: with several hosts, `examples` (every host reads all bytes and decodes its
        part; the global batch is the same for any number of hosts) or `files` (every host reads
        its own shards only).
      service: address of a tf.data service, e.g. `grpc://host:5050`, that prepares training
        batches; empty prepares them in the trainer's process.
      max_boxes: detection batches hold this many objects an image.
    """

    dir: str = ""
    image_size: tuple[int, int] = (224, 224)
    crop_fraction: float = 0.875
    resize: str = "antialias"
    fit: str = "crop"
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    augment: tuple[str, ...] = ()
    on_error: str = "raise"
    max_skipped: int = 10
    cache: str = "auto"
    cache_dir: str = ""
    cache_mb: int = 256
    host_sharding: str = "examples"
    service: str = ""
    max_boxes: int = 100


@dataclass(frozen=True)
class ModelConfig:
    """Which network.

    Attributes:
      name: a registered model, e.g. `cnn`, `resnet20`, `resnet50`, `vit_s16`.
      dropout: rate before the classifier, in [0, 1).
      init: weights to start from: `pretrained` (ImageNet's, from a package of the extra `weights`),
        a folder of `sightline train`, or a `.safetensors`, `.npz`, `.pth` or `.h5` file of an
        architecture that matches; empty starts from random weights.
      options: further keyword arguments of that model's builder, e.g. `{"width": 32}`.
    """

    name: str = "cnn"
    dropout: float = 0.0
    init: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule.

    Attributes:
      name: `sgd` (with momentum), `adam`, `adamw` or `lamb`.
      learning_rate: peak, for `reference_batch` images a step.
      reference_batch: the global batch that `learning_rate` and `warmup_steps` are stated for; both
        are scaled when `train.global_batch` differs, as `scaling` says. 0 takes them as they are.
      scaling: `linear` (Goyal et al. 2017, s2.1) or `sqrt` (You et al. 2020, s4 of LAMB).
      momentum: of sgd, and the first moment's decay of the others.
      beta_2: the second moment's decay of adam, adamw and lamb.
      epsilon: added to the root of the second moment.
      nesterov: sgd looks ahead.
      schedule: `step` (divide by 10 at each of `step_fractions`), `cosine` or `constant`.
      step_fractions: fractions of the run after which `step` divides by 10.
      final_fraction: the part of the peak where `cosine` ends.
      warmup_steps: linear from 0 to the peak.
      warmup_limit: the warm-up is shortened to this part of the run where `warmup_steps` is more;
        an override of `warmup_steps` alone sets it to 1, which shortens nothing.
      weight_decay: decoupled for adamw and lamb, L2 in the loss for sgd and adam.
      decay_all: decay biases, norms, positions and tokens too, which recipes rarely want.
      layer_decay: each layer's rate is this factor of the one above it, 1 is off (Clark et al.
        2020; Bao et al. 2022, s3.2): for fine-tuning.
      clip_norm: global gradient norm limit; 0 is off.
    """

    name: str = "sgd"
    learning_rate: float = 0.1
    reference_batch: int = 0
    scaling: str = "linear"
    momentum: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    nesterov: bool = False
    schedule: str = "cosine"
    step_fractions: tuple[float, ...] = (0.3, 0.6, 0.9)
    final_fraction: float = 0.0
    warmup_steps: int = 0
    warmup_limit: float = 0.1
    weight_decay: float = 5e-4
    decay_all: bool = False
    layer_decay: float = 1.0
    clip_norm: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """The loop.

    Attributes:
      epochs: passes over the training images; 0 takes the weights of `model.init` as they are.
      global_batch: images a step over all replicas.
      accumulate: a step's gradient is summed over this many equal parts of each replica's batch, so
        that a batch that memory does not hold can be trained; batch norm sees one part.
      loss: `softmax` cross-entropy, or `bce`, one sigmoid a class (Wightman et al. 2021, s3.1).
      label_smoothing: in [0, 1).
      ema: decay a step of the moving average of weights that is evaluated and kept; 0 is off.
      seed: of weights, order, augmentation and dropout.
      early_stop: stop after this many epochs without a better validation top-1; 0 never.
      freeze_epochs: train only the classifier at first, for this many epochs.
      head: the classifier that training starts from where `model.init` has none for these classes:
        `fresh` (random) or `probe` (a linear probe on the frozen features, see
        `trainers.training.probe_stage`; then fine-tuning that could not be better than it is skipped).
      save_steps: keep the state within an epoch every so many steps; 0 only at its end.
      deterministic: bitwise equal reruns on the same machine, slower.
      precision: `float32`, `bfloat16` or `float16` (with loss scaling) arithmetic; weights stay
        float32.
      xla: compile the step with XLA.
      sync_batch_norm: batch norms take their statistics over all replicas, so that the number of
        replicas changes nothing.
      tensorboard: write event files beside the checkpoints.
      strategy: `one` (one device), `mirrored`, `multi_worker` or `tpu`.
      devices: how many GPUs to demand (0 takes what is there, CPUs too).
      tpu: the TPU's name or address.
    """

    epochs: int = 30
    global_batch: int = 128
    accumulate: int = 1
    loss: str = "softmax"
    label_smoothing: float = 0.0
    ema: float = 0.0
    seed: int = 0
    early_stop: int = 0
    freeze_epochs: int = 0
    head: str = "fresh"
    save_steps: int = 500
    deterministic: bool = False
    precision: str = "float32"
    xla: bool = False
    sync_batch_norm: bool = False
    tensorboard: bool = False
    strategy: str = "one"
    devices: int = 0
    tpu: str = ""


@dataclass(frozen=True)
class DistillConfig:
    """Learning from a teacher (Hinton et al. 2015, arXiv 1503.02531).

    Attributes:
      teacher: a bundle's version folder or a folder of `sightline train`; empty is no teacher.
      mode: `soft` (the teacher's softened probabilities), `hard` (its decision) or `token` (its
        decision, for the distillation token of a `deit_*`: Touvron et al. 2021, s4).
      weight: of the teacher's part of the loss, in [0, 1]; the labels have the rest.
      temperature: softens both sides of `soft`, above 0.
      cache_dir: keeps the teacher's answers for runs with the same data, seed and augmentation;
        empty asks the teacher at every step.
    """

    teacher: str = ""
    mode: str = "soft"
    weight: float = 0.5
    temperature: float = 3.0
    cache_dir: str = ""


@dataclass(frozen=True)
class CompressConfig:
    """What compression methods get.

    Attributes:
      sparsity: final fraction of zero weights for `prune` and `pqat`, in [0, 1).
      prune_epochs: epochs of fine-tuning while pruning.
      qat_epochs: epochs of quantisation-aware fine-tuning.
      rate_fraction: peak of the fine-tuning schedules (cosine, same optimizer), as a fraction of
        the peak that training had.
      learning_rate: that peak itself; 0 takes `rate_fraction`. An override of `rate_fraction`
        alone sets it to 0.
      calibration_images: training images that calibrate int8 ranges.
    """

    sparsity: float = 0.8
    prune_epochs: int = 8
    qat_epochs: int = 4
    rate_fraction: float = 0.1
    learning_rate: float = 0.0
    calibration_images: int = 256


@dataclass(frozen=True)
class ExportConfig:
    """What the bundle offers.

    Attributes:
      top_k: classes that `serving_default` returns, capped at the number of classes.
      warmup_requests: how many evaluation images become warm-up requests.
    """

    top_k: int = 5
    warmup_requests: int = 4


@dataclass(frozen=True)
class EvalConfig:
    """How evaluation runs; the batch size never changes a metric."""

    batch: int = 256


@dataclass(frozen=True)
class Config:
    """Everything that decides a trained model. `name` is also the bundle's name."""

    name: str
    task: str = "classification"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    compress: CompressConfig = field(default_factory=CompressConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def override(config: _Settings, assignments: Iterable[str]) -> _Settings:
    """`config` with `section.key=value` assignments applied, values as JSON or bare words.

    Args:
      config: a `Config`, or any other dataclass whose sections are dataclasses.
      assignments: applied in order; `trainers.config_keys` says which keys set another one too.

    Raises:
      ConfigError: not of that form, an unknown key (the nearest are named), or a wrong type.
    """
    for assignment in implied(assignments):
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"{assignment!r} is not `key=value`, e.g. train.epochs=5")
        config = _assign(config, key.strip().split("."), text.strip(), key.strip())
    return config


def _assign(node: Any, path: list[str], text: str, whole: str) -> Any:
    names = [f.name for f in fields(node)]
    if path[0] not in names:
        raise ConfigError(
            f"unknown config key {whole!r}: no {path[0]!r}; {nearest(path[0], names)}"
        )
    current = getattr(node, path[0])
    if len(path) > 1:
        if isinstance(current, dict):
            return replace(node, **{path[0]: {**current, ".".join(path[1:]): _parse(text)}})
        if not is_dataclass(current):
            raise ConfigError(f"config key {whole!r}: {path[0]!r} has no parts")
        return replace(node, **{path[0]: _assign(current, path[1:], text, whole)})
    if is_dataclass(current):
        inner = [f"{whole}.{f.name}" for f in fields(current)]
        raise ConfigError(f"config key {whole!r} is a section; set one of {', '.join(inner)}")
    wanted = typing.get_type_hints(type(node))[path[0]]
    return replace(node, **{path[0]: _typed(_value(text, wanted), wanted, whole)})


def _value(text: str, wanted: Any) -> Any:
    """`text` as JSON; where text is wanted, a bare `1.10` or `true` stands for itself."""
    parsed = _parse(text)
    if wanted is str:
        return parsed if isinstance(parsed, str) else text
    if typing.get_origin(wanted) is tuple:
        return parsed if isinstance(parsed, (list, str)) else text
    return parsed


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _typed(value: Any, wanted: Any, key: str) -> Any:
    """`value` as `wanted`: int, float, str, dict or a tuple of one of those."""
    origin = typing.get_origin(wanted)
    if origin is tuple:
        inner, *rest = typing.get_args(wanted)
        items = _items(value, inner, key)
        if rest and rest[0] is not Ellipsis and len(items) != 1 + len(rest):
            raise ConfigError(f"{key} takes {1 + len(rest)} values, got {value!r}")
        return tuple(_typed(item, inner, key) for item in items)
    if origin in (dict, Mapping):
        wanted = dict
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{key} takes {wanted.__name__}, got {value!r}")
    return value


def _items(value: Any, inner: Any, key: str) -> list[Any]:
    """The parts of a list, or of text with commas."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if not isinstance(value, str):
        raise ConfigError(f"{key} takes a list or text with commas, got {value!r}")
    parts = comma_parts(value) if value.strip() else []
    return parts if inner is str else [_parse(part) for part in parts]


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain dictionaries and lists, as JSON holds them."""
    return json.loads(json.dumps(asdict(config)))


def from_dict(raw: dict[str, Any]) -> Config:
    """The inverse of `to_dict`; keys that files of earlier versions lack mean what they did then.

    Raises:
      ConfigError: an unknown key (the nearest are named) or a wrong type.
    """
    return build_settings(Config, with_young_keys(raw), "")


def build_settings(kind: type[_Settings], raw: Mapping[str, Any], prefix: str) -> _Settings:
    """The dataclass `kind` of plain values; `prefix`, as `gates.`, goes before keys in errors.

    Raises:
      ConfigError: an unknown key (the nearest are named) or a wrong type.
    """
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    if not isinstance(raw, Mapping):
        raise ConfigError(f"config section {prefix.rstrip('.')!r} takes a mapping, got {raw!r}")
    if kind is Config and "name" not in raw:
        raise ConfigError("a config needs a `name`, which becomes the bundle's name")
    for key, value in raw.items():
        if key not in hints:
            raise ConfigError(f"unknown config key {prefix + key!r}; {nearest(key, list(hints))}")
        wanted = hints[key]
        if isinstance(wanted, type) and is_dataclass(wanted):
            values[key] = build_settings(wanted, value, f"{prefix}{key}.")
        else:
            values[key] = _typed(value, wanted, prefix + key)
    return kind(**values)


def config_hash(config: Config) -> str:
    """First 16 hex digits of the sha256 of the configuration's canonical JSON."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
