"""Fine-tuning of pretrained networks on a folder of images."""

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
    """A convolutional network from pretrained weights: a linear probe, then all layers.

    Command: `sightline train finetune --data data/pets model.init=resnet50.safetensors`, or with
      the weights of the extra `weights`, `sightline train finetune --data data/pets
      model.name=efficientnet_lite0 model.init=pretrained`

    Fine-tuning starts from the probe, a classifier on the frozen features, and is compared with it
    (Kumar et al. 2022, arXiv 2202.10054): if fine-tuning is not better on the validation images,
    the result is the probe.

    `model.init` accepts files of torchvision, timm, Hugging Face and Keras and folders of
    `sightline train`; `model.name` must match (default `resnet50`). Without `model.init` it trains
    from scratch, for which the learning rate is too low.

    Cost: a step of ResNet-50 at 224 px takes three times 4.1 GMAC per image (EfficientNet-Lite0:
      0.39). The probe takes one pass without gradients.
    Result: not measured. Kornblith et al. 2019 (arXiv 1805.08974, s4) fine-tune ImageNet networks
      on twelve data sets; the accuracies correlate with ImageNet accuracy (r = 0.96).
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
    """EfficientNet-Lite0 from the ImageNet weights of the extra `weights`, for small data sets.

    Command: `sightline train finetune_lite0 --data data/pets`

    Small batches and a short warm-up, because a few hundred images give few steps per epoch.

    Cost: the probe takes one pass at 0.39 GMAC per image; six epochs at three times this follow
      only if the probe misclassifies two or more validation images.
    Result: 49 of 50 test images of cats and dogs, with the probe on 139 images (README.md).
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
    """A ViT from pretrained weights: a linear probe, then AdamW with layer-wise rate decay.

    Command: `sightline train finetune_vit --data data/pets model.init=vit_s16.safetensors`

    Cost: a step of ViT-S/16 at 224 px takes three times 4.6 GMAC per image.
    Result: not measured, as no published weights are included. Steiner et al. 2021 (arXiv
      2106.10270) report the accuracy of AugReg's ViTs, whose files `model.init` accepts. The decay
      between layers is from Bao et al. 2022 (arXiv 2106.08254).
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
