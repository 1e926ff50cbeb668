"""Recipes for 9,000 CIFAR-10 images (a fifth of the set) and two CPU cores.

Create the records with `sightline ingest folder cifar10_A.tar`; `DIR` below is their folder.
With a budget of about a dozen epochs, the recipes use small batches for many steps, a peak rate
close to divergence, a cosine schedule to zero, and only weak augmentation.
"""

from dataclasses import replace

from trainers.config import (
    CompressConfig,
    Config,
    DataConfig,
    DistillConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from trainers.registry import recipes

#: The data, with the mean and standard deviation of the whole training set.
DATA = DataConfig(
    dir="data/cifar10",
    image_size=(32, 32),
    crop_fraction=1.0,
    mean=(125.307, 122.95, 113.865),
    std=(62.993, 62.089, 66.705),
    # He et al. 2016, s4.2.
    augment=("pad_crop(4)", "flip"),
)
_COMPRESS = CompressConfig(sparsity=0.8, prune_epochs=4, qat_epochs=2, rate_fraction=0.2)
_VIT_OPTIONS = {"patch": 4, "width": 128, "depth": 6, "heads": 4, "mlp": 256}


@recipes.register("cifar10_resnet20")
def cifar10_resnet20() -> Config:
    """ResNet-20 (He et al. 2016, s4.2) with a pooled stem and twice the width, at the same cost.

    Command: `sightline train cifar10_resnet20 --data DIR`
    Cost: 20 epochs of about 47 s on two CPU cores.
    Result: 72 % test top-1 (all seeds in BENCHMARKS.md). The paper has 91.25 % with all 50,000
      images and 64,000 steps of 128 (table 6) on full-size maps, which learn more slowly in short
      runs.
    """
    return Config(
        name="cifar10_resnet20",
        data=DATA,
        model=ModelConfig("resnet20", options={"width": 32, "stem_pool": True}),
        optim=OptimConfig(
            "sgd",
            learning_rate=0.05,
            reference_batch=32,
            nesterov=True,
            warmup_steps=280,
            weight_decay=5e-4,
        ),
        train=TrainConfig(epochs=20, global_batch=32),
        compress=_COMPRESS,
    )


@recipes.register("cifar10_cnn")
def cifar10_cnn() -> Config:
    """A plain CNN with four stages and 1.2 M parameters, trained like `cifar10_resnet20`.

    Command: `sightline train cifar10_cnn --data DIR`
    Cost: 20 epochs on two CPU cores, each slightly longer than for `cifar10_resnet20`.
    Result: not measured. The plain networks of He et al. 2016 (s4.2, figure 6) are worse than
      residual networks, slightly so at 20 layers and more so with increasing depth.
    """
    resnet = cifar10_resnet20()
    return replace(
        resnet, name="cifar10_cnn", model=ModelConfig("cnn", options={"width": 32, "stages": 4})
    )


@recipes.register("cifar10_vit")
def cifar10_vit() -> Config:
    """A ViT of 0.8 M parameters, 64 patches of 4x4 px, mean-pooled, from scratch.

    Command: `sightline train cifar10_vit --data DIR`
    Cost: 26 epochs of about 60 s on two CPU cores.
    Result: 55 % test top-1 (BENCHMARKS.md); transformers without pre-training need more images
      (Dosovitskiy et al. 2021, s4.3).
    """
    return Config(
        name="cifar10_vit",
        data=DATA,
        model=ModelConfig("vit", options={**_VIT_OPTIONS, "pool": "mean"}),
        optim=OptimConfig(
            "adamw",
            learning_rate=1e-3,
            reference_batch=32,
            warmup_steps=560,
            weight_decay=0.05,
            clip_norm=1.0,
        ),
        train=TrainConfig(epochs=26, global_batch=32, label_smoothing=0.1),
        compress=_COMPRESS,
    )


@recipes.register("cifar10_vit_distilled")
def cifar10_vit_distilled() -> Config:
    """`cifar10_vit` with a CNN as teacher, otherwise unchanged.

    Command: `sightline train cifar10_vit_distilled --data DIR distill.teacher=TRAINED_RESNET`
    Cost: like `cifar10_vit`, plus a forward pass of the teacher per step.
    Result: 58 % test top-1, better than `cifar10_vit` by the paired test (BENCHMARKS.md). On
      ImageNet, a CNN teacher improves DeiT-S from 79.9 to 81.2 % (Touvron et al. 2021; model list
      of the authors).
    """
    return replace(
        cifar10_vit(),
        name="cifar10_vit_distilled",
        # Half Hinton's loss; temperature 2, because probabilities of ten classes are concentrated.
        distill=DistillConfig(mode="soft", weight=0.5, temperature=2.0),
    )


@recipes.register("cifar10_deit")
def cifar10_deit() -> Config:
    """A model of the size of `cifar10_vit` with class and distillation tokens and a CNN as teacher.

    Command: `sightline train cifar10_deit --data DIR distill.teacher=TRAINED_RESNET`
    Cost: like `cifar10_vit_distilled`.
    Result: between `cifar10_vit` and its teacher. Labels and teacher have equal weights as in
      Touvron et al. 2021, equation 3; in their table 3, the token is better than plain hard
      distillation.
    """
    vit = cifar10_vit()
    return replace(
        vit,
        name="cifar10_deit",
        model=ModelConfig("deit", options=dict(_VIT_OPTIONS)),
        # The paper smooths the labels of the class token by 0.1; here, both tokens have hard
        # labels.
        train=replace(vit.train, label_smoothing=0.0),
        distill=DistillConfig(mode="token", weight=0.5),
    )


@recipes.register("cifar10_hybrid")
def cifar10_hybrid() -> Config:
    """Convolutions at 32 and 16 px, attention over 64 tokens at 8 px (Dai et al. 2021).

    Command: `sightline train cifar10_hybrid --data DIR`
    Cost: 16 epochs of about 60 s on two CPU cores.
    Result: 66 % test top-1, 11 points above `cifar10_vit` and 6 below `cifar10_resnet20`
      (BENCHMARKS.md), with as many multiply-adds as the latter and a quarter of its weights. A
      wider model with a pooled stem was not tested. CoAtNet-0 has 81.6 % on ImageNet-1k (Dai et al.
      2021, table 4).
    """
    return Config(
        name="cifar10_hybrid",
        data=DATA,
        model=ModelConfig("coatnet"),
        optim=OptimConfig(
            "adamw",
            learning_rate=1e-3,
            reference_batch=32,
            warmup_steps=560,
            warmup_limit=0.125,
            weight_decay=0.05,
            clip_norm=1.0,
        ),
        train=TrainConfig(epochs=16, global_batch=32, label_smoothing=0.1),
        compress=_COMPRESS,
    )
