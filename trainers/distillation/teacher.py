"""Knowledge distillation: a student learns from the predictions of a bundle or trained folder.

    teacher = Teacher.load(config, info)
    logits = teacher(images)
    loss = distillation_loss(config.distill, label_loss, outputs, logits)

The images of an epoch depend on (`train.seed`, epoch) only, so the logits of a teacher can be
cached for all students with the same data: see `teacher_cache`.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from core import bundle
from trainers.config import Config, ConfigError, DistillConfig
from trainers.data.features import DatasetError, DatasetInfo
from trainers.data.preprocess import ANTIALIAS, BILINEAR
from trainers.keras import keras
from trainers.models import distillation_heads
from trainers.training.trained import load_trained

#: The layers of a `deit_*` whose mean is `logits` (Touvron et al. 2021, s4).
TOKEN_HEADS = ("logits_class", "logits_distill")

# A bundle returns softmax scores; this is the lower bound of a score before the logarithm.
_TINY = float(np.finfo(np.float32).tiny)


class Teacher:
    """A trained classifier for inference only: no gradients, no variables in checkpoints.

    Attributes:
      source: the folder that was loaded.
      classes: class names in the order of the logits.
      image_size: (height, width) of the teacher's input, in pixels.
      resize: the kind of resize that the teacher was trained with.
      order: index in `classes` of each class of the student; None if they are the same.
    """

    def __init__(
        self,
        source: Path,
        forward: Callable[[tf.Tensor], tf.Tensor],
        *,
        classes: tuple[str, ...],
        image_size: tuple[int, int],
        files: list[Path],
        resize: str = ANTIALIAS,
    ) -> None:
        self.source, self.classes = source, classes
        self.image_size, self.resize = image_size, resize
        self.order: list[int] | None = None
        self._forward = forward
        self._files = files

    @classmethod
    def load(cls, config: Config, info: DatasetInfo) -> "Teacher":
        """The teacher of `config.distill.teacher`.

        Building a network uses the generators that Keras seeds: load the teacher before
        `keras.utils.set_random_seed`, or the initial weights of the student change.

        Raises:
          ConfigError: no such folder, or its classes are not those of `info`.
          BundleError: a bundle that is not whole.
        """
        if config.task != "classification":
            raise ConfigError(f"distill.teacher works for classification, not for {config.task!r}")
        source = Path(config.distill.teacher)
        if (source / "trained.json").is_file():
            teacher = cls._trained(source)
        elif (source / bundle.SAVED_MODEL_FILE).is_file() or bundle.versions(source):
            teacher = cls._bundle(source)
        else:
            raise ConfigError(
                f"distill.teacher={config.distill.teacher!r} must be a bundle (with "
                f"{bundle.SAVED_MODEL_FILE}) or a folder of `sightline train` (with trained.json)"
            )
        teacher.order = _class_order(teacher, info)
        return teacher

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """(B,N) float32 logits of images (B,H,W,3), uint8 or float in [0, 255], of any size.

        They are in the order of the student's classes. Images of another size are resized as in the
        teacher's training. The logits of a bundle are the logarithms of its scores: they differ
        by one constant per image.
        """
        if tuple(images.shape[1:3]) != self.image_size:
            antialias = self.resize == ANTIALIAS
            images = tf.image.resize(images, self.image_size, antialias=antialias)
        if images.dtype != tf.uint8:
            images = tf.cast(tf.clip_by_value(tf.round(images), 0.0, 255.0), tf.uint8)
        logits = self._forward(images)
        if self.order is not None:
            logits = tf.gather(logits, self.order, axis=-1)
        return tf.stop_gradient(logits)

    @cached_property
    def digest(self) -> str:
        """Sha256 hex of everything that decides the teacher's logits."""
        found = hashlib.sha256()
        for file in self._files:
            found.update(f"{file.name}\0".encode())
            found.update(hashlib.sha256(file.read_bytes()).digest())
        if self.order is not None:
            found.update(repr(self.order).encode())
        return found.hexdigest()

    @classmethod
    def _bundle(cls, source: Path) -> "Teacher":
        opened = bundle.open_bundle(source)
        if opened.manifest.task != "classification":
            raise ConfigError(f"distill.teacher: {opened.path} is for {opened.manifest.task}")
        # Signatures do not keep the loaded object alive.
        loaded: Any = tf.saved_model.load(str(opened.path))
        predict = loaded.signatures[bundle.SIGNATURE_TENSOR]

        def forward(images: tf.Tensor, keep: Any = loaded) -> tf.Tensor:
            return tf.math.log(tf.maximum(predict(images=images)["scores"], _TINY))

        size = opened.manifest.input
        weights = sorted((opened.path / "variables").iterdir())
        return cls(
            opened.path,
            forward,
            classes=opened.labels,
            image_size=(int(size["height"]), int(size["width"])),
            # Bundles of earlier versions do not state it.
            resize=size.get("resize", BILINEAR),
            files=[opened.path / bundle.SAVED_MODEL_FILE, *weights],
        )

    @classmethod
    def _trained(cls, source: Path) -> "Teacher":

        # The teacher's own precision must not become the student's.
        policy = keras.mixed_precision.global_policy()
        try:
            trained = load_trained(source)
        finally:
            keras.mixed_precision.set_global_policy(policy)
        trained.model.trainable = False

        def forward(images: tf.Tensor) -> tf.Tensor:
            logits = trained.model(tf.cast(images, tf.float32), training=False)
            return tf.cast(logits, tf.float32)

        return cls(
            source,
            forward,
            classes=trained.info.classes,
            image_size=trained.config.data.image_size,
            resize=trained.config.data.resize,
            files=[source / "config.json", *sorted((source / "weights").glob("best*"))],
        )


def _class_order(teacher: Teacher, info: DatasetInfo) -> list[int] | None:
    """Index in the teacher's classes of each class of the data set; None for the same order.

    Raises:
      ConfigError: they have other classes.
    """
    if teacher.classes == info.classes:
        return None
    what = f"distill.teacher {teacher.source}"
    try:
        order = info.class_positions(teacher.classes, what)
    except DatasetError as error:
        raise ConfigError(f"{error}; a teacher must know the same classes") from error
    if len(teacher.classes) != len(info.classes):
        raise ConfigError(
            f"{what} has {len(teacher.classes)} classes ({_some(teacher.classes)}), the data set "
            f"{info.name!r} {len(info.classes)} ({_some(info.classes)}); a teacher must know the "
            "same classes"
        )
    return None if order == tuple(range(len(order))) else list(order)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def training_model(config: DistillConfig, model: keras.Model) -> keras.Model:
    """`model` with the outputs that `config.mode` trains; for `token`, the pair of `TOKEN_HEADS`.

    The result shares layers and weights with `model`.

    Raises:
      ConfigError: `token`, and the model has no distillation head.
    """
    if not config.teacher or config.mode != "token":
        return model
    heads = distillation_heads(model)
    if heads is None:
        raise ConfigError(
            f"distill.mode=token needs a model with a distillation token, a deit_*; {model.name!r} "
            "has none: choose model.name=deit_ti16 or the like, or distill.mode=hard"
        )
    return heads


def distillation_loss(
    config: DistillConfig, label_loss: tf.Tensor, outputs: Any, teacher_logits: tf.Tensor
) -> tf.Tensor:
    """The loss of each image: label loss and teacher loss, weighted by `config.weight`.

    `soft` is T^2 KL(teacher || student) of both softened by T: the square keeps gradients in
    proportion whatever T (Hinton et al. 2015, s2). `hard` is the cross-entropy with the teacher's
    highest logit, `token` the same at the distillation head (Touvron et al. 2021, s4, eq. 3).

    Args:
      config: `mode`, `weight` and `temperature` are used.
      label_loss: (B,) float32; with `token`, of the class head.
      outputs: (B,N) logits, or the pair of class and distillation logits, (B,N) each; `soft` and
        `hard` use the mean of a pair.
      teacher_logits: (B,N), of the same images, up to a constant per image.

    Returns:
      (B,) float32.

    Raises:
      ConfigError: `token`, and `outputs` is no pair.
    """
    is_pair = isinstance(outputs, (tuple, list))
    teacher = tf.stop_gradient(tf.cast(teacher_logits, tf.float32))
    if config.mode == "token":
        if not is_pair:
            raise ConfigError(
                "distill.mode=token needs class and distillation logits, as a deit_* gives them; "
                "got one output"
            )
        from_teacher = _hard(tf.cast(outputs[1], tf.float32), teacher)
    else:
        logits = (outputs[0] + outputs[1]) / 2 if is_pair else outputs
        logits = tf.cast(logits, tf.float32)
        soft = config.mode == "soft"
        from_teacher = (
            _soft(logits, teacher, config.temperature) if soft else _hard(logits, teacher)
        )
    return (1.0 - config.weight) * tf.cast(label_loss, tf.float32) + config.weight * from_teacher


def _soft(logits: tf.Tensor, teacher: tf.Tensor, temperature: float) -> tf.Tensor:
    wanted = tf.nn.log_softmax(teacher / temperature)
    found = tf.nn.log_softmax(logits / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(wanted) * (wanted - found), axis=-1)


def _hard(logits: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.argmax(teacher, axis=-1), logits=logits
    )
