"""Convolutional networks on ImageNet-1k, 1.28 M images of 1,000 classes, for several GPUs.

Rates and warm-ups are for the global batch of the paper and are scaled when `train.global_batch`
changes. Costs are GPU times from the sources, or scaled from these by multiply-adds.
Transformers are in `imagenet_vit`, the recipes of the study in `study`.
"""

from dataclasses import replace

from trainers.config import (
    CompressConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from trainers.registry import recipes

#: Inception crops and flips; evaluation crops 224 of 256.
DATA = DataConfig(dir="data/imagenet", augment=("random_resized_crop", "flip"))
#: Fine-tuning after pruning or with fake quantization, at a tenth of the peak rate.
GENTLE = CompressConfig(prune_epochs=10, qat_epochs=2, rate_fraction=0.1, calibration_images=1024)


def epochs_to_steps(epochs: float, global_batch: int) -> int:
    """Number of steps for `epochs` passes over the 1,281,167 training images of ImageNet."""
    return round(epochs * 1_281_167 / global_batch)


@recipes.register("resnet50_imagenet")
def resnet50_imagenet() -> Config:
    """ResNet-50 with SGD in 90 epochs, the usual baseline (Goyal et al. 2017, s5.1).

    Command: `sightline train resnet50_imagenet --data DIR`
    Cost: 90 epochs at 4.1 GMAC: about eight hours on eight V100 in mixed precision, scaled from
      `resnet50_a2`.
    Result: 76.4 % top-1 (Goyal et al. 2017, table 1: 23.6 % error at a batch of 256).
    """
    return Config(
        name="resnet50_imagenet",
        data=DATA,
        model=ModelConfig("resnet50"),
        optim=OptimConfig(
            "sgd",
            learning_rate=0.1,
            reference_batch=256,
            schedule="step",
            # After 30, 60 and 80 of 90 epochs.
            step_fractions=(1 / 3, 2 / 3, 8 / 9),
            # The paper uses a warm-up only above a batch of 256, and Nesterov momentum, which it
            # reports as no better.
            warmup_steps=epochs_to_steps(5, 256),
            weight_decay=1e-4,
        ),
        train=TrainConfig(epochs=90, global_batch=256),
        compress=replace(GENTLE, rate_fraction=0.01),
    )


@recipes.register("resnet50_a2")
def resnet50_a2() -> Config:
    """ResNet-50, procedure A2 of "ResNet strikes back" (Wightman et al. 2021, table 2).

    Without repeated augmentation and without RandAugment's magnitude deviation of 0.5.

    Command: `sightline train resnet50_a2 --data DIR`
    Cost: 300 epochs; 55 hours on four V100, half of A1's 4.6 days for 600.
    Result: 79.8 % top-1 at 224 px (table 2).
    """
    return Config(
        name="resnet50_a2",
        data=replace(DATA, crop_fraction=0.95, augment=_augment(magnitude=7)),
        model=ModelConfig("resnet50", options={"drop_path": 0.05}),
        optim=_lamb(5e-3),
        train=TrainConfig(epochs=300, global_batch=2048, loss="bce"),
        compress=replace(GENTLE, rate_fraction=0.2),
    )


@recipes.register("resnet50_a3")
def resnet50_a3() -> Config:
    """ResNet-50, procedure A3 of "ResNet strikes back" (Wightman et al. 2021, table 2).

    The paper trains at 160 px and tests at 224 px. A configuration has one size, so this recipe
    also evaluates at 160 px. RandAugment's magnitude deviation of 0.5 is not implemented.

    Command: `sightline train resnet50_a3 --data DIR`
    Cost: 100 epochs at half the pixels; 15 hours on four V100 (from memory of the paper, not
      verified).
    Result: 78.1 % top-1 at 224 px (table 2); lower at 160 px.
    """
    return Config(
        name="resnet50_a3",
        data=replace(
            DATA, image_size=(160, 160), crop_fraction=0.95, augment=_augment(magnitude=6)
        ),
        model=ModelConfig("resnet50"),
        optim=_lamb(8e-3),
        train=TrainConfig(epochs=100, global_batch=2048, loss="bce"),
        compress=replace(GENTLE, rate_fraction=0.125),
    )


@recipes.register("mobilenet_v3_large_imagenet")
def mobilenet_v3_large_imagenet() -> Config:
    """MobileNetV3-Large with SGD and a cosine schedule, instead of the paper's RMSProp.

    Command: `sightline train mobilenet_v3_large_imagenet --data DIR`
    Cost: 360 epochs at 0.22 GMAC: estimated two days on four V100, limited by the input pipeline.
    Result: 75.3 % top-1 (MobileNetV3_large_x1_0 of PaddleClas, with these settings, but weight
      decay also for biases and norms); 75.2 % in Howard et al. 2019, table 3.
    """
    return Config(
        name="mobilenet_v3_large_imagenet",
        data=replace(DATA, augment=("random_resized_crop", "flip", "auto_augment")),
        model=ModelConfig("mobilenet_v3_large"),
        optim=OptimConfig(
            "sgd",
            learning_rate=1.3,
            reference_batch=2048,
            # The original has no warm-up; a short one is free and limits the norms.
            warmup_steps=epochs_to_steps(5, 2048),
            weight_decay=2e-5,
        ),
        train=TrainConfig(epochs=360, global_batch=2048, label_smoothing=0.1),
        compress=replace(GENTLE, rate_fraction=0.01),
    )


def _augment(*, magnitude: int) -> tuple[str, ...]:
    """The augmentation of A2 and A3, which differ in RandAugment's magnitude."""
    return (
        "random_resized_crop",
        "flip",
        f"rand_augment(layers=2, magnitude={magnitude})",
        "mixup(0.1)",
        "cutmix(1.0)",
    )


def _lamb(learning_rate: float) -> OptimConfig:
    """The LAMB optimizer of A2 and A3."""
    return OptimConfig(
        "lamb",
        learning_rate=learning_rate,
        reference_batch=2048,
        scaling="sqrt",
        # As in the implementation of the authors, which also clips gradients.
        epsilon=1e-6,
        clip_norm=1.0,
        warmup_steps=epochs_to_steps(5, 2048),
        weight_decay=0.02,
    )
