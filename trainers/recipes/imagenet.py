"""ImageNet-1k by convolution, 1.28 M training images of 1,000 classes; for several GPUs.

Rates and warm-ups are stated for the paper's global batch and follow when `train.global_batch`
changes. Costs are GPU time as the sources give it, or scaled from it by multiply-adds.
Transformers are in `imagenet_vit`, the study's own recipes in `study`.
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

#: Inception crops and flips; evaluation keeps 224 of 256.
DATA = DataConfig(dir="data/imagenet", augment=("random_resized_crop", "flip"))
#: Fine-tuning after pruning or with fake quantisation, at a tenth of the peak.
GENTLE = CompressConfig(prune_epochs=10, qat_epochs=2, rate_fraction=0.1, calibration_images=1024)


def epochs_to_steps(epochs: float, global_batch: int) -> int:
    """Optimizer steps of so many passes over ImageNet's 1,281,167 training images."""
    return round(epochs * 1_281_167 / global_batch)


@recipes.register("resnet50_imagenet")
def resnet50_imagenet() -> Config:
    """ResNet-50 by SGD in 90 epochs, the usual baseline (Goyal et al. 2017, s5.1).

    Command: `sightline train resnet50_imagenet --data DIR`
    Cost: 90 epochs at 4.1 GMAC: some eight hours on eight V100 in mixed precision, at the pace of
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
            # Theirs is for batches above 256 only, and their momentum Nesterov's, which they find
            # no better.
            warmup_steps=epochs_to_steps(5, 256),
            weight_decay=1e-4,
        ),
        train=TrainConfig(epochs=90, global_batch=256),
        compress=replace(GENTLE, rate_fraction=0.01),
    )


@recipes.register("resnet50_a2")
def resnet50_a2() -> Config:
    """ResNet-50, procedure A2 of "ResNet strikes back" (Wightman et al. 2021, table 2).

    Missing here: repeated augmentation, and RandAugment's spread of 0.5 around its magnitude.

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

    It trains at 160 px and tests at 224. A configuration has one size, so this evaluates at 160
    too. RandAugment's spread of 0.5 around its magnitude is missing.

    Command: `sightline train resnet50_a3 --data DIR`
    Cost: 100 epochs at half the pixels; 15 hours on four V100, as remembered of the paper.
    Result: 78.1 % top-1 when tested at 224 px (table 2); expect less at 160.
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
    """MobileNetV3-Large by SGD and a cosine, in place of the paper's RMSProp.

    Command: `sightline train mobilenet_v3_large_imagenet --data DIR`
    Cost: 360 epochs at 0.22 GMAC: by our guess two days on four V100, most of it input.
    Result: 75.3 % top-1 (PaddleClas' MobileNetV3_large_x1_0, whose settings these are; it decays
      biases and norms too); 75.2 % in Howard et al. 2019, table 3.
    """
    return Config(
        name="mobilenet_v3_large_imagenet",
        data=replace(DATA, augment=("random_resized_crop", "flip", "auto_augment")),
        model=ModelConfig("mobilenet_v3_large"),
        optim=OptimConfig(
            "sgd",
            learning_rate=1.3,
            reference_batch=2048,
            # Theirs starts at the peak; a short rise costs nothing and keeps norms in check.
            warmup_steps=epochs_to_steps(5, 2048),
            weight_decay=2e-5,
        ),
        train=TrainConfig(epochs=360, global_batch=2048, label_smoothing=0.1),
        compress=replace(GENTLE, rate_fraction=0.01),
    )


def _augment(*, magnitude: int) -> tuple[str, ...]:
    """What A2 and A3 do to images; they differ in RandAugment's magnitude."""
    return (
        "random_resized_crop",
        "flip",
        f"rand_augment(layers=2, magnitude={magnitude})",
        "mixup(0.1)",
        "cutmix(1.0)",
    )


def _lamb(learning_rate: float) -> OptimConfig:
    """LAMB as A2 and A3 use it."""
    return OptimConfig(
        "lamb",
        learning_rate=learning_rate,
        reference_batch=2048,
        scaling="sqrt",
        # Of the authors' implementations, which also clip.
        epsilon=1e-6,
        clip_norm=1.0,
        warmup_steps=epochs_to_steps(5, 2048),
        weight_decay=0.02,
    )
