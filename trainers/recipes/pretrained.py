"""Published weights without training, for compression, evaluation and export."""

from trainers.config import (
    CompressConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from trainers.registry import recipes


@recipes.register("efficientnet_lite0_imagenet")
def efficientnet_lite0_imagenet() -> Config:
    """EfficientNet-Lite0 with its ImageNet weights, ready for compression and export.

    Command: `sightline train efficientnet_lite0_imagenet --data data/imagenet`, then `sightline
      compress` and `sightline export`. The data set needs ImageNet's 1,000 classes; its images are
      used to calibrate int8 and to evaluate the model.

    Cost: no training; one pass over the validation images at 0.39 GMAC per image.
    Result: 75.1 % top-1 on ImageNet's validation set in float and 74.4 % in int8 by the authors
      (tensorflow/tpu, `models/official/efficientnet/lite`). Of 167 sample photos of the training
      set, 152 are correct in float (164 in the top 5). Images are resized without antialiasing, as
      in the
      training of the weights: with antialiasing, 151 are correct, and int8 agrees with float less
      often (650 instead of 653 of 685 photos).
    """
    return Config(
        name="efficientnet_lite0_imagenet",
        data=DataConfig(dir="data/imagenet", resize="bilinear", fit="crop"),
        model=ModelConfig("efficientnet_lite0", init="pretrained"),
        optim=OptimConfig("sgd", learning_rate=0.01, reference_batch=64, nesterov=True),
        train=TrainConfig(epochs=0, global_batch=64),
        compress=CompressConfig(qat_epochs=1, prune_epochs=2),
    )
