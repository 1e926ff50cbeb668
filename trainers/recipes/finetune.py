"""Fine-tuning: a network that has learnt elsewhere, on a folder of one's own images."""

from dataclasses import replace

from trainers.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from trainers.registry import recipes

_DATA = DataConfig(dir="data/images", augment=("random_resized_crop", "flip"))


@recipes.register("finetune")
def finetune() -> Config:
    """A convolutional network from given weights: a linear probe, then everything from there.

    Command: `sightline train finetune --data data/pets model.init=resnet50.safetensors`, or with
    the weights that the extra `weights` installs, `sightline train finetune --data data/pets
    model.name=efficientnet_lite0 model.init=pretrained`

    The probe, a classifier of the frozen features, is what fine-tuning starts from and is compared
    with (Kumar et al. 2022, arXiv 2202.10054): where fine-tuning is not better on the validation
    images, the probe is the model.

    `model.init` takes files of torchvision, timm, Hugging Face, Keras or a folder of `sightline
    train`; `model.name` must fit it (`resnet50` unless set). Without `model.init` it trains from
    scratch, for which its rate is too small.

    Cost: a step is one of ResNet-50 at 224 px, three times 4.1 GMAC an image (EfficientNet-Lite0:
    0.39). The probe costs one pass without gradients.
    Result: no figure of ours. Kornblith et al. 2019
    (arXiv 1805.08974, s4) fine-tune ImageNet's networks on twelve sets, and find that the better
    one on ImageNet is the better one there (r = 0.96).
    """
    return Config(
        name="finetune",
        data=_DATA,
        model=ModelConfig("resnet50"),
        optim=OptimConfig(
            "sgd",
            learning_rate=0.01,
            reference_batch=64,
            nesterov=True,
            warmup_steps=100,
            weight_decay=1e-4,
        ),
        train=TrainConfig(epochs=12, global_batch=64, head="probe", label_smoothing=0.1),
    )


@recipes.register("finetune_lite0")
def finetune_lite0() -> Config:
    """EfficientNet-Lite0 from the ImageNet weights of the extra `weights`, for a small set.

    Command: `sightline train finetune_lite0 --data data/pets`

    Small batches and a short warm-up, as a few hundred images make few steps an epoch.

    Cost: the probe takes one pass at 0.39 GMAC an image; six epochs at three times that only where
    the probe gets two or more validation images wrong.
    Result: 49 of 50 test images of cats and dogs with the probe of 139 (README.md).
    """
    own = finetune()
    return replace(
        own,
        name="finetune_lite0",
        model=ModelConfig("efficientnet_lite0", init="pretrained"),
        optim=replace(own.optim, warmup_steps=5),
        train=replace(own.train, epochs=6, global_batch=16),
    )


@recipes.register("finetune_vit")
def finetune_vit() -> Config:
    """A ViT from given weights, from a linear probe on; AdamW, lower blocks at lower rates.

    Command: `sightline train finetune_vit --data data/pets model.init=vit_s16.safetensors`

    Cost: a step is one of ViT-S/16 at 224 px, three times 4.6 GMAC an image.
    Result: no figure of ours, as no published weights are shipped; Steiner et al. 2021
    (arXiv 2106.10270) give those of AugReg's ViTs, which `model.init` takes as they are. The decay
    from layer to layer is Bao et al.'s (2022, arXiv 2106.08254).
    """
    return Config(
        name="finetune_vit",
        data=_DATA,
        model=ModelConfig("vit_s16"),
        optim=OptimConfig(
            "adamw",
            learning_rate=5e-4,
            reference_batch=128,
            warmup_steps=200,
            weight_decay=0.05,
            layer_decay=0.75,
            clip_norm=1.0,
        ),
        train=TrainConfig(epochs=12, global_batch=64, head="probe", label_smoothing=0.1),
    )
