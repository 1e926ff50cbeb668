"""CIFAR-10 and CIFAR-100 in full, 50,000 training images each, for one GPU.

Create the records with `sightline ingest tfds cifar10` or from a folder of images; `DIR` below is
their folder. `cifar10` has recipes for a fifth of the data and two CPU cores.
"""

from dataclasses import replace

from trainers.config import Config, ModelConfig, OptimConfig, TrainConfig
from trainers.recipes.cifar10 import DATA as _CIFAR10
from trainers.registry import recipes

_CIFAR100 = replace(
    _CIFAR10, dir="data/cifar100", mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4)
)


@recipes.register("cifar10_resnet56")
def cifar10_resnet56() -> Config:
    """ResNet-56 with the training of the paper.

    Command: `sightline train cifar10_resnet56 --data DIR`
    Cost: 164 epochs of 50,000 images at 0.13 GMAC: about two hours on one GPU.
    Result: 93.0 % test top-1 (He et al. 2016, table 6).
    """
    return Config(
        name="cifar10_resnet56",
        data=_CIFAR10,
        model=ModelConfig("resnet56"),
        optim=OptimConfig(
            "sgd",
            learning_rate=0.1,
            reference_batch=128,
            schedule="step",
            # After 32,000 and 48,000 of 64,000 steps (s4.2).
            step_fractions=(0.5, 0.75),
            weight_decay=1e-4,
        ),
        train=TrainConfig(epochs=164, global_batch=128),
    )


@recipes.register("cifar100_resnet56")
def cifar100_resnet56() -> Config:
    """ResNet-56 on 100 classes.

    Command: `sightline train cifar100_resnet56 --data DIR`
    Cost: 240 epochs of 50,000 images at 0.13 GMAC: about three hours on one GPU.
    Result: 72.3 % test top-1 (Tian et al. 2020, arXiv 1910.10699, table 1).
    """
    return Config(
        name="cifar100_resnet56",
        data=_CIFAR100,
        model=ModelConfig("resnet56"),
        optim=OptimConfig(
            "sgd",
            learning_rate=0.05,
            reference_batch=64,
            schedule="step",
            # After 150, 180 and 210 of 240 epochs.
            step_fractions=(0.625, 0.75, 0.875),
            weight_decay=5e-4,
        ),
        train=TrainConfig(epochs=240, global_batch=64),
    )
