"""Names of residual networks in torchvision, timm, Hugging Face and `keras.applications`."""

import re

from trainers.weights.files import KerasLayer, WeightsFile
from trainers.weights.rules import Rule, TensorPiece, Translation, WeightsFacts, apply_rules
from trainers.weights.vit_names import declared_normalization

_WRAPPERS = re.compile(r"((module|model|_orig_mod|resnet)\.)+")

_BLOCK = r"layer([1-4])\.(\d+)\."
_TORCH = (
    Rule(r"conv1", "stem_conv", "conv"),
    Rule(r"bn1", "stem_bn", "norm"),
    # The three 3x3 convolutions of timm's `resnet50d` stem and their normalizations.
    Rule(r"conv1\.0", "stem_1_conv", "conv"),
    Rule(r"conv1\.1", "stem_1_bn", "norm"),
    Rule(r"conv1\.3", "stem_2_conv", "conv"),
    Rule(r"conv1\.4", "stem_2_bn", "norm"),
    Rule(r"conv1\.6", "stem_conv", "conv"),
    Rule(_BLOCK + r"conv([123])", "stage{0}_block{1}_{2}_conv", "conv", (0, 1)),
    Rule(_BLOCK + r"bn([123])", "stage{0}_block{1}_{2}_bn", "norm", (0, 1)),
    Rule(_BLOCK + r"downsample\.0", "stage{0}_block{1}_shortcut_conv", "conv", (0, 1)),
    Rule(_BLOCK + r"downsample\.2", "stage{0}_block{1}_shortcut_bn", "norm", (0, 1)),
    Rule(r"fc", "logits", "dense"),
)
# `downsample.1` is the normalization, or after average pooling the convolution.
_PLAIN_SHORTCUT = Rule(_BLOCK + r"downsample\.1", "stage{0}_block{1}_shortcut_bn", "norm", (0, 1))
_POOLED_SHORTCUT = Rule(
    _BLOCK + r"downsample\.1", "stage{0}_block{1}_shortcut_conv", "conv", (0, 1)
)
_HF_BLOCK = r"encoder\.stages\.(\d)\.layers\.(\d+)\."
_HUGGING_FACE = (
    Rule(r"embedder\.embedder\.convolution", "stem_conv", "conv"),
    Rule(r"embedder\.embedder\.normalization", "stem_bn", "norm"),
    Rule(_HF_BLOCK + r"layer\.(\d)\.convolution", "stage{0}_block{1}_{2}_conv", "conv", (1, 1, 1)),
    Rule(_HF_BLOCK + r"layer\.(\d)\.normalization", "stage{0}_block{1}_{2}_bn", "norm", (1, 1, 1)),
    Rule(_HF_BLOCK + r"shortcut\.convolution", "stage{0}_block{1}_shortcut_conv", "conv", (1, 1)),
    Rule(_HF_BLOCK + r"shortcut\.normalization", "stage{0}_block{1}_shortcut_bn", "norm", (1, 1)),
    Rule(r"classifier\.1", "logits", "dense"),
)
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# He et al. 2016, table 1: (blocks per stage, bottlenecks) -> depth.
_DEPTHS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "18",
    ((3, 4, 6, 3), False): "34",
    ((3, 4, 6, 3), True): "50",
    ((3, 4, 23, 3), True): "101",
    ((3, 8, 36, 3), True): "152",
}
_KERAS_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_KERAS_DENSE = ("kernel", "bias")
_KERAS_BLOCK = re.compile(r"conv([2-5])_block(\d+)_([0-3])_(conv|bn)")
#: Epsilon of `keras.applications`; PyTorch has 1e-5.
KERAS_EPSILON = 1.001e-5
# `preprocess_input` in caffe mode subtracts these means and swaps red and blue.
CAFFE_MEAN, UNIT_STD = (123.68, 116.779, 103.939), (1.0, 1.0, 1.0)


def translate_resnet(file: WeightsFile) -> Translation | None:
    """The translated file; None if it is not a known residual network."""
    if file.kind == "keras":
        return _from_keras(file)
    short = {name: _WRAPPERS.sub("", name, count=1) for name in file.tensors}
    names = set(short.values())
    if "embedder.embedder.convolution.weight" in names:
        naming, rules = "Hugging Face", _HUGGING_FACE
    elif "layer1.0.conv1.weight" in names and names & {"conv1.weight", "conv1.0.weight"}:
        pooled = any(re.fullmatch(_BLOCK + r"downsample\.2\.weight", name) for name in names)
        naming = "torchvision or timm"
        rules = (*_TORCH, _POOLED_SHORTCUT if pooled else _PLAIN_SHORTCUT)
    else:
        return None
    ignored = {
        name: "a counter of PyTorch" for name in short if name.endswith(".num_batches_tracked")
    }
    kept = {name: value for name, value in file.tensors.items() if name not in ignored}
    pieces, left = apply_rules(kept, rules, short=lambda name: short[name])
    declared = declared_normalization(file.beside) or _IMAGENET
    variant = "v1" if file.beside.get("downsample_in_bottleneck") else "v1.5"
    deep = any(piece.layer == "stem_1_conv" for piece in pieces)
    facts = WeightsFacts(
        family="resnet",
        naming=naming,
        architecture=architecture(pieces),
        mean=declared[0],
        std=declared[1],
        epsilon=1e-5,
        variant="d" if deep else variant,
    )
    return Translation(facts, pieces, ignored, left)


def architecture(pieces: list[TensorPiece]) -> str:
    """Text about a residual network, e.g. `a resnet of blocks 3-4-6-3 (model.name=resnet50)`."""
    layers = {piece.layer for piece in pieces}
    found = [re.fullmatch(r"stage(\d)_block(\d+)_\d_conv", layer) for layer in layers]
    blocks: dict[int, int] = {}
    for match in filter(None, found):
        blocks[int(match[1])] = max(blocks.get(int(match[1]), 0), int(match[2]))
    counts = tuple(blocks[stage] for stage in sorted(blocks))
    deep = "d" if "stem_1_conv" in layers else ""
    depth = _DEPTHS.get((counts, "stage1_block1_3_conv" in layers))
    name = f" (model.name=resnet{depth}{deep})" if depth else ""
    return f"a resnet of blocks {'-'.join(map(str, counts))}{name}"


def _from_keras(file: WeightsFile) -> Translation | None:
    """A ResNet of `keras.applications`, with names such as `conv2_block1_1_conv`."""
    names = {name for name, _ in file.layers}
    if not {"conv1_conv", "conv2_block1_1_conv"} <= names or "conv2_block1_preact_bn" in names:
        return None
    pieces: list[TensorPiece] = []
    left: list[str] = []
    for layer in file.layers:
        found = _keras_pieces(layer)
        pieces += found
        left += [] if found else [f"{layer[0]}/{name}" for name, _ in layer[1]]
    facts = WeightsFacts(
        family="resnet",
        naming="keras.applications",
        architecture=architecture(pieces),
        mean=CAFFE_MEAN,
        std=UNIT_STD,
        bgr=True,
        epsilon=KERAS_EPSILON,
        variant="v1",
    )
    return Translation(facts, pieces, {}, left)


def _keras_pieces(layer: KerasLayer) -> list[TensorPiece]:
    name, weights = layer
    ours = keras_to_ours(name, dense=len(weights[0][1].shape) == 2)
    if not ours:
        return []
    words = _KERAS_NORM if ours.endswith("_bn") else _KERAS_DENSE
    return [
        TensorPiece(f"{name}/{key}", ours, word, value)
        for word, (key, value) in zip(words, weights, strict=False)
    ]


def keras_to_ours(name: str, *, dense: bool = False) -> str:
    """Our layer for a layer of `keras.applications`' ResNets; empty if there is none."""
    if dense:
        return "logits"
    if name in ("conv1_conv", "conv1_bn"):
        return name.replace("conv1", "stem", 1)
    match = _KERAS_BLOCK.fullmatch(name)
    if match is None:
        return ""
    part = "shortcut" if match[3] == "0" else match[3]
    return f"stage{int(match[1]) - 1}_block{match[2]}_{part}_{match[4]}"
