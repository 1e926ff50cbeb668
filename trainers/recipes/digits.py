"""Recipes for the 1,797 scanned digits of `sightline ingest digits`, 16x16 px, two CPU cores."""

from trainers.config import (
    CompressConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from trainers.registry import recipes

# Strokes are about 150 on a background of about 0; the three channels are equal.
_DATA = DataConfig(
    dir="data/digits",
    image_size=(16, 16),
    crop_fraction=1.0,
    mean=(78.0, 78.0, 78.0),
    std=(95.0, 95.0, 95.0),
    augment=("shift",),
)


@recipes.register("digits_cnn")
def digits_cnn() -> Config:
    """A plain CNN: `sightline train digits_cnn`."""
    return Config(
        name="digits_cnn",
        data=_DATA,
        model=ModelConfig("cnn", options={"width": 24, "stages": 4}),
        # Strong weight decay, because there are 1,072 images for 664,000 weights.
        optim=OptimConfig("sgd", learning_rate=0.1, warmup_steps=20, weight_decay=2e-2),
        train=TrainConfig(epochs=16, global_batch=64),
        compress=CompressConfig(sparsity=0.8, prune_epochs=6, qat_epochs=2, rate_fraction=0.15),
    )


@recipes.register("digits_resnet")
def digits_resnet() -> Config:
    """ResNet-20 for small images (He et al. 2016, s4.2): `sightline train digits_resnet`."""
    return Config(
        name="digits_resnet",
        data=_DATA,
        model=ModelConfig("resnet20"),
        optim=OptimConfig(
            "sgd", learning_rate=0.1, warmup_steps=20, warmup_limit=0.125, weight_decay=5e-4
        ),
        train=TrainConfig(epochs=10, global_batch=64),
        compress=CompressConfig(sparsity=0.8, prune_epochs=6, qat_epochs=2, rate_fraction=0.2),
    )


@recipes.register("digits_vit")
def digits_vit() -> Config:
    """A small ViT with 4x4 px patches: `sightline train digits_vit`."""
    return Config(
        name="digits_vit",
        data=_DATA,
        model=ModelConfig("vit", options={"patch": 4, "width": 64, "depth": 4, "heads": 4}),
        optim=OptimConfig(
            "adamw", learning_rate=2e-3, warmup_steps=60, warmup_limit=0.15, weight_decay=0.05
        ),
        train=TrainConfig(epochs=26, global_batch=64),
        compress=CompressConfig(sparsity=0.8, prune_epochs=6, qat_epochs=2, rate_fraction=0.25),
    )
