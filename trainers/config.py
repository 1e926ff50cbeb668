"""One run's whole configuration: frozen dataclasses, dotted overrides, a hash.

    config = override(recipe("digits_cnn"), ["train.epochs=5", "optim.learning_rate=0.02"])

Each key is declared here only: type, default, documentation, range and role, see
`trainers.config_keys`. Standard library only: reading a configuration never loads TensorFlow.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from trainers.config_keys import (
    ConfigError,
    build_settings,
    key,
    keys_of,
    override,
    required,
    section,
)

__all__ = ["ConfigError", "build_settings", "override"]


@dataclass(frozen=True)
class DataConfig:
    """The images that are read and their preprocessing."""

    dir: str = key("", "Folder of the records, with `dataset.json`.", identity=False, images=False)
    image_size: tuple[int, int] = key(
        (224, 224), "Network input (height, width) in pixels.", within="[1, inf)", pixels=True
    )
    crop_fraction: float = key(
        0.875,
        "Evaluation keeps this central part of each side, then resizes; with `fit=crop`, of each "
        "side of the largest box with the network's aspect ratio.",
        within="(0, 1]",
        pixels=True,
    )
    resize: str = key(
        "antialias",
        "Resizing in training, evaluation and the exported graph: `antialias` (triangle filter, as "
        "Pillow's BILINEAR) or `bilinear` (the four nearest pixels).",
        choices=("antialias", "bilinear"),
        pixels=True,
        before="bilinear",
    )
    fit: str = key(
        "crop",
        "How an image with another aspect ratio than `image_size` is fitted.",
        choices=("crop", "stretch"),
        pixels=True,
        before="stretch",
    )
    mean: tuple[float, ...] = key(
        (123.675, 116.28, 103.53),
        "Mean per channel in [0, 255], subtracted inside the model's graph.",
        length=3,
        images=False,
    )
    std: tuple[float, ...] = key(
        (58.395, 57.12, 57.375),
        "Standard deviation per channel on that scale, divided by inside the model's graph.",
        length=3,
        within="(0, inf)",
        images=False,
    )
    augment: tuple[str, ...] = key(
        (),
        "Training augmentations in order, e.g. `flip` or `rotate(15)`; `mixup(0.2)` and "
        "`cutmix(1.0)` mix pairs of images and make the labels soft.",
    )
    on_error: str = key("raise", "Stop at a bad record, or count it.", choices=("raise", "skip"))
    max_skipped: int = key(
        10, "With `on_error=skip`, more bad records than this are an error.", within="[0, inf)"
    )
    cache: str = key(
        "auto",
        "Where decoded images are kept between epochs; `auto` is memory if they fit into "
        "`cache_mb` and no random crop needs the original image, else none.",
        choices=("auto", "memory", "disk", "none"),
        identity=False,
    )
    cache_dir: str = key(
        "", "Folder of `cache=disk`; `.cache` in `dir` if empty.", identity=False, images=False
    )
    cache_mb: int = key(
        256, "Limit of `cache=auto` in MiB.", within="[0, inf)", identity=False, images=False
    )
    host_sharding: str = key(
        "examples",
        "What each of several hosts reads: all bytes, of which it decodes its share of the "
        "`examples`, so that batches do not depend on the number of hosts; or its own `files`.",
        choices=("examples", "files"),
        images=False,
    )
    service: str = key(
        "", "tf.data service that prepares training batches, e.g. `grpc://host:5050`."
    )
    max_boxes: int = key(
        100, "Objects per image in detection batches.", within="[1, inf)", images=False
    )


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = key("cnn", "Registered model, e.g. `cnn`, `resnet20`, `resnet50` or `vit_s16`.")
    dropout: float = key(0.0, "Dropout rate before the classifier.", within="[0, 1)")
    init: str = key(
        "",
        "Initial weights: `pretrained` (ImageNet weights from a package of the extra `weights`), a "
        "folder of `sightline train`, or a `.safetensors`, `.npz`, `.pth` or `.h5` file of a "
        "matching architecture; random if empty.",
        identity=False,  # The digest of the file is: a file may move.
    )
    options: dict[str, Any] = key({}, "Keyword arguments of the model's builder.")


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning-rate schedule."""

    name: str = key("sgd", "Optimizer.", choices=("sgd", "adam", "adamw", "lamb"))
    learning_rate: float = key(
        0.1, "Peak learning rate, for `reference_batch` images per step.", within="(0, inf)"
    )
    reference_batch: int = key(
        0,
        "Batch for which `learning_rate` and `warmup_steps` are stated; they are scaled if "
        "`train.global_batch` differs.",
        within="[0, inf)",
        hint="0 does not scale",
    )
    scaling: str = key(
        "linear",
        "Scaling of the learning rate with the batch (Goyal et al. 2017, s2.1; You et al. 2020).",
        choices=("linear", "sqrt"),
    )
    momentum: float = key(
        0.9, "Momentum of sgd; decay of the first moment of the others.", within="[0, 1)"
    )
    beta_2: float = key(0.999, "Decay of the second moment.", within="[0, 1)")
    epsilon: float = key(1e-7, "Added to the root of the second moment.", within="(0, inf)")
    nesterov: bool = key(False, "Use Nesterov momentum with sgd.")
    schedule: str = key(
        "cosine",
        "Learning rate over the run; `step` divides it by 10 at each of `step_fractions`.",
        choices=("step", "cosine", "constant"),
    )
    step_fractions: tuple[float, ...] = key(
        (0.3, 0.6, 0.9), "Fractions of the run for `schedule=step`.", within="(0, 1)"
    )
    final_fraction: float = key(
        0.0, "Final rate of `schedule=cosine`, as a fraction of the peak.", within="[0, 1]"
    )
    warmup_steps: int = key(
        0,
        "Steps of a linear warm-up from 0 to the peak.",
        within="[0, inf)",
        # A user who overrides the steps gets these steps, whatever the recipe's limit is.
        sets={"optim.warmup_limit": 1},
    )
    warmup_limit: float = key(
        0.1,
        "A longer warm-up is shortened to this fraction of the run.",
        within="[0, 1]",
        hint="1 shortens nothing",
        before=1.0,
    )
    weight_decay: float = key(
        5e-4, "Decoupled for adamw and lamb, L2 in the loss for sgd and adam.", within="[0, inf)"
    )
    decay_all: bool = key(False, "Decay biases, norms, positions and tokens too.")
    layer_decay: float = key(
        1.0,
        "Learning rate of each layer as a factor of the one above it, for fine-tuning (Clark et "
        "al. 2020; Bao et al. 2022, s3.2).",
        within="(0, 1]",
        hint="1 is off",
    )
    clip_norm: float = key(
        0.0, "Limit of the global gradient norm.", within="[0, inf)", hint="0 is off"
    )


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    epochs: int = key(
        30,
        "Passes over the training images.",
        within="[0, inf)",
        hint="0 uses model.init without training",
    )
    global_batch: int = key(
        128, "Images per step over all replicas.", within="[1, inf)", images=True
    )
    accumulate: int = key(
        1,
        "Parts of each replica's batch that are computed one after the other, for batches that do "
        "not fit into memory; batch norm sees one part.",
        within="[1, inf)",
    )
    loss: str = key(
        "softmax",
        "Cross-entropy, or one sigmoid per class (Wightman et al. 2021, s3.1).",
        choices=("softmax", "bce"),
    )
    label_smoothing: float = key(0.0, "Probability spread over all classes.", within="[0, 1)")
    ema: float = key(
        0.0,
        "Decay per step of the moving average of weights that is evaluated and kept.",
        within="[0, 1)",
        hint="0 is off",
    )
    seed: int = key(0, "Seed of weights, order, augmentation and dropout.", images=True)
    early_stop: int = key(
        0,
        "Stop after this many epochs without a better validation top-1.",
        within="[0, inf)",
        hint="0 is never",
        identity=False,
    )
    freeze_epochs: int = key(
        0, "Epochs at the start that train only the classifier.", within="[0, inf)"
    )
    head: str = key(
        "fresh",
        "Initial classifier if `model.init` has none for these classes: random, or a linear probe "
        "on the frozen features; fine-tuning that could not improve on the probe is skipped.",
        choices=("fresh", "probe"),
        before="fresh",
    )
    save_steps: int = key(
        500,
        "Save the training state after every so many steps.",
        within="[0, inf)",
        hint="0 saves at the end of an epoch only",
        identity=False,
    )
    deterministic: bool = key(False, "Make reruns on one machine bitwise equal; slower.")
    precision: str = key(
        "float32",
        "Arithmetic of a step; weights stay float32, and `float16` scales the loss.",
        choices=("float32", "bfloat16", "float16"),
    )
    xla: bool = key(False, "Compile the step with XLA.")
    sync_batch_norm: bool = key(False, "Take batch norm statistics over all replicas.")
    tensorboard: bool = key(False, "Write event files beside the checkpoints.", identity=False)
    strategy: str = key(
        "one",
        "Distribution strategy; `one` is one device.",
        choices=("one", "mirrored", "multi_worker", "tpu"),
        identity=False,
    )
    devices: int = key(
        0,
        "GPUs that must be present.",
        within="[0, inf)",
        hint="0 uses the devices that are there, CPUs too",
        identity=False,
    )
    tpu: str = key("", "Name or address of the TPU.", identity=False)


@dataclass(frozen=True)
class DistillConfig:
    """Learning from a teacher (Hinton et al. 2015, arXiv 1503.02531)."""

    teacher: str = key(
        "",
        "Version folder of a bundle, or folder of `sightline train`; no teacher if empty.",
        identity=False,  # The digest of the teacher is: a folder may move.
    )
    mode: str = key(
        "soft",
        "Target: the teacher's softened probabilities, its top class, or its top class for the "
        "distillation token of a `deit_*` (Touvron et al. 2021, s4).",
        choices=("soft", "hard", "token"),
    )
    weight: float = key(
        0.5, "Weight of the teacher in the loss; the labels have the rest.", within="[0, 1]"
    )
    temperature: float = key(3.0, "Softens both sides of `mode=soft`.", within="(0, inf)")
    cache_dir: str = key(
        "",
        "Keeps the teacher's logits for runs with the same data, seed and augmentation; if empty, "
        "the teacher runs at every step.",
        identity=False,
    )


@dataclass(frozen=True)
class CompressConfig:
    """Settings of compression methods."""

    sparsity: float = key(
        0.8,
        "Final fraction of zero weights of `prune` and `pqat`.",
        within="[0, 1)",
        hint="80 % is written 0.8",
    )
    prune_epochs: int = key(8, "Epochs of fine-tuning while pruning.", within="[1, inf)")
    qat_epochs: int = key(4, "Epochs of quantization-aware fine-tuning.", within="[1, inf)")
    rate_fraction: float = key(
        0.1,
        "Peak learning rate of fine-tuning (cosine, same optimizer), as a fraction of training's.",
        within="(0, 1]",
        # A user who overrides the fraction does not want an absolute rate.
        sets={"compress.learning_rate": 0},
    )
    learning_rate: float = key(
        0.0,
        "Peak learning rate of fine-tuning.",
        within="[0, inf)",
        hint="0 uses compress.rate_fraction",
    )
    calibration_images: int = key(
        256, "Training images that calibrate int8 ranges.", within="[1, inf)"
    )
    rewrites: tuple[str, ...] = key(
        ("normalize_in_float", "delegate_islands", "correct_biases", "metadata"),
        "Registered rewrites of the converted TFLite files.",
    )


@dataclass(frozen=True)
class ExportConfig:
    """The exported bundle."""

    top_k: int = key(
        5, "Classes that `serving_default` returns, at most all of them.", within="[1, inf)"
    )
    warmup_requests: int = key(
        4, "Validation images that become warm-up requests.", within="[0, inf)"
    )


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation."""

    batch: int = key(256, "Images per batch; does not change any metric.", within="[1, inf)")


@dataclass(frozen=True)
class Config:
    """Everything that decides a trained model."""

    name: str = field(
        metadata=required(
            "Name of the run, the model and its bundle.",
            matches=r"[A-Za-z0-9][A-Za-z0-9._-]*",
            allowed="a folder name of letters, digits, `.`, `_` and `-`",
        )
    )
    task: str = key("classification", "Registered task.")
    data: DataConfig = section(DataConfig, images=True)
    model: ModelConfig = section(ModelConfig)
    optim: OptimConfig = section(OptimConfig)
    train: TrainConfig = section(TrainConfig)
    distill: DistillConfig = section(DistillConfig)
    compress: CompressConfig = section(CompressConfig, identity=False)
    export: ExportConfig = section(ExportConfig, identity=False)
    eval: EvalConfig = section(EvalConfig, identity=False)


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain dictionaries and lists, as JSON holds them."""
    return json.loads(json.dumps(asdict(config)))


def from_dict(raw: dict[str, Any]) -> Config:
    """The inverse of `to_dict`; keys that files of earlier versions lack mean what they did then.

    Raises:
      ConfigError: an unknown key (the nearest are named), a wrong type, or no `name`.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"a config is a mapping, got {raw!r}")
    if "name" not in raw:
        raise ConfigError("a config needs a `name`, which becomes the bundle's name")
    filled = dict(raw)
    for name, one in keys_of(Config).items():
        group, _, own = name.rpartition(".")
        if one.is_young and isinstance(raw.get(group), dict):
            filled[group] = {own: one.before, **filled[group]}
    return build_settings(Config, filled, "")


def config_hash(config: Config) -> str:
    """First 16 hex digits of the sha256 of the configuration's canonical JSON."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
