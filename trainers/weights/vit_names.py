"""Names of vision transformers in timm, torchvision, Hugging Face and the JAX papers."""

import math
import re
from collections.abc import Mapping
from typing import Any

from trainers.weights.files import WeightsFile
from trainers.weights.rules import Rule, TensorPiece, Translation, WeightsFacts, apply_rules

_WRAPPERS = re.compile(r"((module|model|_orig_mod|vit|deit)\.|(params|target|opt/target)/)+")

_TIMM = (
    Rule(r"cls_token", "class_token", "token"),
    Rule(r"dist_token", "distill_token", "token"),
    Rule(r"pos_embed", "positions", "table"),
    Rule(r"patch_embed\.proj", "patches", "conv"),
    Rule(r"blocks\.(\d+)\.norm([12])", "block{0}_norm{1}", "norm", (1,)),
    Rule(r"blocks\.(\d+)\.attn\.qkv", "block{0}", "qkv", (1,)),
    Rule(r"blocks\.(\d+)\.attn\.proj", "block{0}_out", "dense", (1,)),
    Rule(r"blocks\.(\d+)\.mlp\.fc1", "block{0}_up", "dense", (1,)),
    Rule(r"blocks\.(\d+)\.mlp\.fc2", "block{0}_down", "dense", (1,)),
    Rule(r"blocks\.(\d+)\.ls([12])", "block{0}_scale{1}", "scale", (1,)),
    Rule(r"blocks\.(\d+)\.gamma_([12])", "block{0}_scale{1}", "gamma", (1,)),
    Rule(r"norm", "norm", "norm"),
    Rule(r"head", "logits", "dense"),
    Rule(r"head_dist", "logits_distill", "dense"),
)
_TORCHVISION = (
    Rule(r"class_token", "class_token", "token"),
    Rule(r"encoder\.pos_embedding", "positions", "table"),
    Rule(r"conv_proj", "patches", "conv"),
    Rule(r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])", "block{0}_norm{1}", "norm", (1,)),
    Rule(
        r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj",
        "block{0}_out",
        "dense",
        (1,),
    ),
    Rule(r"encoder\.layers\.encoder_layer_(\d+)\.self_attention", "block{0}", "qkv", (1,)),
    Rule(
        r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)", "block{0}_up", "dense", (1,)
    ),
    Rule(
        r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)", "block{0}_down", "dense", (1,)
    ),
    Rule(r"encoder\.ln", "norm", "norm"),
    Rule(r"heads\.head", "logits", "dense"),
)
_HF_LAYER = r"encoder\.layer\.(\d+)\."
_HUGGING_FACE = (
    Rule(r"embeddings\.cls_token", "class_token", "token"),
    Rule(r"embeddings\.distillation_token", "distill_token", "token"),
    Rule(r"embeddings\.position_embeddings", "positions", "table"),
    Rule(r"embeddings\.patch_embeddings\.projection", "patches", "conv"),
    Rule(_HF_LAYER + r"attention\.attention\.query", "block{0}_query", "dense", (1,)),
    Rule(_HF_LAYER + r"attention\.attention\.key", "block{0}_key", "dense", (1,)),
    Rule(_HF_LAYER + r"attention\.attention\.value", "block{0}_value", "dense", (1,)),
    Rule(_HF_LAYER + r"attention\.output\.dense", "block{0}_out", "dense", (1,)),
    Rule(_HF_LAYER + r"intermediate\.dense", "block{0}_up", "dense", (1,)),
    Rule(_HF_LAYER + r"output\.dense", "block{0}_down", "dense", (1,)),
    Rule(_HF_LAYER + r"layernorm_before", "block{0}_norm1", "norm", (1,)),
    Rule(_HF_LAYER + r"layernorm_after", "block{0}_norm2", "norm", (1,)),
    Rule(r"layernorm", "norm", "norm"),
    Rule(r"(?:cls_)?classifier", "logits", "dense"),
    Rule(r"distillation_classifier", "logits_distill", "dense"),
)
# vision_transformer numbers the parts of a block from 0 to 3, big_vision each kind from 0.
_JAX_BLOCK = r"Transformer/encoderblock_(\d+)/"
_JAX_ATTENTION = _JAX_BLOCK + r"MultiHeadDotProductAttention_[01]/"
_JAX = (
    Rule(r"cls", "class_token", "token"),
    Rule(r"(?:Transformer/posembed_input/)?pos_embedding", "positions", "table"),
    Rule(r"embedding", "patches", "conv"),
    Rule(_JAX_BLOCK + r"LayerNorm_0", "block{0}_norm1", "norm", (1,)),
    Rule(_JAX_BLOCK + r"LayerNorm_[12]", "block{0}_norm2", "norm", (1,)),
    Rule(_JAX_ATTENTION + r"query", "block{0}_query", "into_heads", (1,)),
    Rule(_JAX_ATTENTION + r"key", "block{0}_key", "into_heads", (1,)),
    Rule(_JAX_ATTENTION + r"value", "block{0}_value", "into_heads", (1,)),
    Rule(_JAX_ATTENTION + r"out", "block{0}_out", "from_heads", (1,)),
    Rule(_JAX_BLOCK + r"MlpBlock_[03]/Dense_0", "block{0}_up", "dense", (1,)),
    Rule(_JAX_BLOCK + r"MlpBlock_[03]/Dense_1", "block{0}_down", "dense", (1,)),
    Rule(r"Transformer/encoder_norm", "norm", "norm"),
    Rule(r"head", "logits", "dense"),
)
#: A tensor that identifies the naming -> (naming, rules).
_NAMINGS = {
    "patch_embed.proj.weight": ("timm", _TIMM),
    "conv_proj.weight": ("torchvision", _TORCHVISION),
    "embeddings.patch_embeddings.projection.weight": ("Hugging Face", _HUGGING_FACE),
    "embedding/kernel": ("JAX", _JAX),
}
# Dosovitskiy et al. 2021, table 1, and Touvron et al. 2021, table 1; M as in big_vision.
_SIZES = {(192, 12): "ti", (384, 12): "s", (512, 12): "m", (768, 12): "b", (1024, 24): "l"}

_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_HALF = (127.5, 127.5, 127.5)


def translate_vit(file: WeightsFile) -> Translation | None:
    """The translated file; None if it is not a known vision transformer."""
    short = {name: _WRAPPERS.sub("", name, count=1) for name in file.tensors}
    found = [naming for sign, naming in _NAMINGS.items() if sign in short.values()]
    if not found:
        return None
    naming, rules = found[0]
    ignored = {name: "unused by a classifier" for name, part in short.items() if _unused(part)}
    kept = {name: value for name, value in file.tensors.items() if name not in ignored}
    pieces, left = apply_rules(kept, rules, short=lambda name: short[name])
    if not {"patches", "block1_norm1"} <= {piece.layer for piece in pieces}:
        return None
    if "distill_token" in {piece.layer for piece in pieces}:
        pieces = [_class_head(piece) for piece in pieces]
    return Translation(_facts(file, naming, pieces), pieces, ignored, left)


def _unused(name: str) -> bool:
    return name.startswith("pooler.") or name == "embeddings.mask_token"


def _class_head(piece: TensorPiece) -> TensorPiece:
    layer = "logits_class" if piece.layer == "logits" else piece.layer
    return TensorPiece(piece.source, layer, piece.weight, piece.value, piece.action)


def _facts(file: WeightsFile, naming: str, pieces: list[TensorPiece]) -> WeightsFacts:
    mean, std = _normalization(file.beside, naming)
    notes = []
    act = file.beside.get("hidden_act", "gelu")
    if act != "gelu":
        notes.append(f"it was trained with the activation {act!r}; here it is the exact GELU")
    if naming == "JAX":
        notes.append("it was trained with the tanh form of GELU; the exact form differs by 0.0005")
    if naming == "Hugging Face":
        epsilon = file.beside.get("layer_norm_eps", 1e-12)
        notes.append(f"the epsilon of its layer normalization is {epsilon:g}; here it is 1e-06")
    return WeightsFacts(
        family="vit",
        naming=naming,
        architecture=_architecture(pieces),
        mean=mean,
        std=std,
        heads=_heads(file, pieces),
        notes=tuple(notes),
    )


def _architecture(pieces: list[TensorPiece]) -> str:
    values = {(piece.layer, piece.weight): piece.value for piece in pieces}
    patch, width = values["patches", "kernel"].shape[1:4:2]
    depth = max(
        (int(n) for n in re.findall(r"\bblock(\d+)_", " ".join(k for k, _ in values))), default=0
    )
    distilled = ("distill_token", "token") in values
    size, kind = _SIZES.get((width, depth)), "deit" if distilled else "vit"
    name = f"model.name={kind}_{size}{patch}"
    if size is None:
        name = (
            f"model.name={kind} model.options.width={width} model.options.depth={depth} "
            f"model.options.patch={patch}"
        )
    return f"a {kind} of width {width}, depth {depth}, patch {patch} ({name})"


def _heads(file: WeightsFile, pieces: list[TensorPiece]) -> int:
    """Number of attention heads, from the JAX layout or a `config.json`; otherwise 0."""
    sources = {piece.source for piece in pieces if piece.layer == "block1_query"}
    for name in sources:
        if file.tensors[name].ndim == 3:
            return file.tensors[name].shape[1]
    return int(file.beside.get("num_attention_heads", 0))


def _normalization(
    beside: Mapping[str, Any], naming: str
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    declared = declared_normalization(beside)
    if declared is not None:
        return declared
    known = {
        "JAX": (_HALF, _HALF),  # Images in [-1, 1].
        "torchvision": (_IMAGENET_MEAN, _IMAGENET_STD),
    }
    return known.get(naming, (None, None))


def declared_normalization(
    beside: Mapping[str, Any],
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, std) in [0, 255] from the files beside the weights, or None."""
    timm = beside.get("pretrained_cfg", {})
    mean = beside.get("image_mean") or timm.get("mean")
    std = beside.get("image_std") or timm.get("std")
    if not mean or not std:
        return None
    return _on_255(mean), _on_255(std)


def _on_255(values: list[float]) -> tuple[float, ...]:
    return tuple(round(255.0 * value, 4) for value in values)


def grid_of(tokens: int, prefix: int) -> tuple[int, int]:
    """(side of the square grid, number of prefix tokens with a position) of a table of positions.

    Some models add positions before they prepend the class token, whose position is then zero.
    These have a square number of rows, because n*n + 1 and n*n + 2 are never squares.

    Args:
      tokens: number of rows of the table.
      prefix: number of class and distillation tokens of the model.

    Raises:
      ValueError: the patches do not form a square.
    """
    for leading in (prefix, 0):
        side = math.isqrt(max(tokens - leading, 0))
        if side and side * side == tokens - leading:
            return side, leading
    raise ValueError(f"{tokens} positions do not form a square grid after {prefix} tokens")
