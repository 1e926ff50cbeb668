"""Sizes and work of networks as published in papers and model collections, to check our counts.

Figures are for 1,000 classes. Multiply-adds are as their source counts them, to its last digit:
torchvision and timm measure all convolutions, dense layers and attention, papers round.
"""

from dataclasses import dataclass

_TORCHVISION = "torchvision, table of models"
_EFFNETV2 = "Tan & Le 2021, code release"
_EFFNET = "Tan & Le 2019, table 2 (work); torchvision"
# The authors' table states 3 to 6 % more work, without an explanation.
_LITE = "their library (parameters); d-li14/efficientnet-lite.pytorch, table (work)"
_TIMM = "timm, table of benchmarks"


@dataclass(frozen=True)
class Published:
    """A network's size and work in the literature.

    Attributes:
      parameters: trainable, in millions.
      giga_multiply_adds: for one image; papers often call them FLOPs; 0 if not published.
      image_size: side in pixels that the work is for.
      source: of the figures.
      whole: False if ours ends in another classifier, so that parameters differ.
    """

    parameters: float
    giga_multiply_adds: float
    image_size: int
    source: str
    whole: bool = True


PUBLISHED: dict[str, Published] = {
    "alexnet": Published(61.100840, 0.71, 224, _TORCHVISION),
    "googlenet": Published(6.624904, 1.50, 224, _TORCHVISION),
    "resnet18": Published(11.689512, 1.81, 224, _TORCHVISION),
    "resnet34": Published(21.797672, 3.66, 224, _TORCHVISION),
    "resnet50": Published(25.557032, 4.09, 224, _TORCHVISION),
    "resnet101": Published(44.549160, 7.80, 224, _TORCHVISION),
    "resnet152": Published(60.192808, 11.51, 224, _TORCHVISION),
    "resnet18d": Published(11.71, 2.06, 224, _TIMM),
    "resnet34d": Published(21.82, 3.91, 224, _TIMM),
    "resnet50d": Published(25.58, 4.35, 224, _TIMM),
    "keras_resnet50": Published(25.583592, 3.86, 224, "Hu et al. 2018, table 2; biases"),
    "keras_resnet101": Published(44.601832, 7.6, 224, "He et al. 2016, table 1; biases"),
    "keras_resnet152": Published(60.268520, 11.3, 224, "He et al. 2016, table 1; biases"),
    "vit_ti16": Published(5.717416, 1.26, 224, _TIMM),
    "vit_s16": Published(22.050664, 4.6, 224, "Touvron et al. 2021, table 1; timm"),
    "vit_s32": Published(22.88, 1.15, 224, _TIMM),
    "vit_b16": Published(86.567656, 17.56, 224, _TORCHVISION),
    "vit_b32": Published(88.224232, 4.41, 224, _TORCHVISION),
    "vit_l16": Published(304.326632, 61.55, 224, _TORCHVISION),
    "vit_l32": Published(306.535400, 15.38, 224, _TORCHVISION),
    "deit_ti16": Published(5.91, 1.27, 224, _TIMM),
    "deit_s16": Published(22.44, 4.63, 224, _TIMM),
    "deit_b16": Published(87.34, 17.68, 224, _TIMM),
    "coatnet0": Published(25.0, 4.2, 224, "Dai et al. 2021, table 4"),
    "coatnet1": Published(42.0, 8.4, 224, "Dai et al. 2021, table 4"),
    "mobilenet": Published(4.2, 0.569, 224, "Howard et al. 2017, table 8"),
    "mobilenet_v2": Published(3.504872, 0.30, 224, _TORCHVISION),
    "mobilenet_v3_small": Published(2.542856, 0.06, 224, _TORCHVISION),
    "mobilenet_v3_large": Published(5.483032, 0.22, 224, _TORCHVISION),
    "vgg16": Published(138.357544, 15.47, 224, _TORCHVISION, whole=False),
    "vgg19": Published(143.667240, 19.63, 224, _TORCHVISION, whole=False),
    "densenet121": Published(7.978856, 2.83, 224, _TORCHVISION),
    "densenet169": Published(14.149480, 3.36, 224, _TORCHVISION),
    "densenet201": Published(20.013928, 4.29, 224, _TORCHVISION),
    "inception_v3": Published(23.8, 5.71, 299, "torchvision (work); keras.io, less statistics"),
    "inception_resnet_v2": Published(55.84, 13.18, 299, _TIMM),
    "xception": Published(22.855952, 8.40, 299, "Chollet 2017, table 3; timm"),
    "nasnet_mobile": Published(5.3, 0.564, 224, "Zoph et al. 2018, table 3"),
    "nasnet_large": Published(88.9, 23.8, 331, "Zoph et al. 2018, table 2"),
    "convnext_tiny": Published(28.589128, 4.46, 224, _TORCHVISION),
    "convnext_small": Published(50.223688, 8.68, 224, _TORCHVISION),
    "convnext_base": Published(88.591464, 15.36, 224, _TORCHVISION),
    "convnext_large": Published(197.767336, 34.36, 224, _TORCHVISION),
    "efficientnet_b0": Published(5.288548, 0.39, 224, _TORCHVISION),
    "efficientnet_b1": Published(7.794184, 0.69, 240, _TORCHVISION),
    "efficientnet_b2": Published(9.109994, 1.0, 260, _EFFNET),
    "efficientnet_b3": Published(12.233232, 1.83, 300, _TORCHVISION),
    "efficientnet_b4": Published(19.341616, 4.39, 380, _TORCHVISION),
    "efficientnet_b5": Published(30.389784, 10.27, 456, _TORCHVISION),
    "efficientnet_b6": Published(43.040704, 19.07, 528, _TORCHVISION),
    "efficientnet_b7": Published(66.347960, 37.75, 600, _TORCHVISION),
    "efficientnet_lite0": Published(4.652008, 0.385, 224, _LITE),
    "efficientnet_lite1": Published(5.416680, 0.600, 240, _LITE),
    "efficientnet_lite2": Published(6.092072, 0.860, 260, _LITE),
    "efficientnet_lite3": Published(8.197096, 1.383, 280, _LITE),
    "efficientnet_lite4": Published(13.006568, 2.553, 300, _LITE),
    "efficientnetv2_b0": Published(7.1, 0.72, 224, _EFFNETV2),
    "efficientnetv2_b1": Published(8.1, 1.2, 240, _EFFNETV2),
    "efficientnetv2_b2": Published(10.1, 1.7, 260, _EFFNETV2),
    "efficientnetv2_b3": Published(14.4, 3.0, 300, _EFFNETV2),
    "efficientnetv2_s": Published(21.458488, 8.37, 384, _TORCHVISION),
    "efficientnetv2_m": Published(54.139356, 24.58, 480, _TORCHVISION),
    "efficientnetv2_l": Published(118.515272, 56.08, 480, _TORCHVISION),
}
