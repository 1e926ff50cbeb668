"""Makes tests/trainers/weights/data: tiny networks of other libraries, and their outputs.

    python -m venv torch && torch/bin/pip install torch torchvision timm transformers safetensors
    torch/bin/python tools/make_weight_fixtures.py

Run it in a separate environment, as PyTorch is not a dependency of Sightline. Weights are random
numbers that float16 represents exactly, and files are float16 to keep them small; outputs are
float32.
"""

# The libraries are not in Sightline's environment.
# pyright: reportMissingImports=false

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import timm.layers
import torch
from safetensors.torch import save_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

OUT = Path(__file__).resolve().parents[1] / "tests" / "trainers" / "weights" / "data"
CLASSES = 7
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
TIMM_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
HF_VIT = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "num_labels": CLASSES,
}


def randomized(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """`model` in evaluation mode with random weights and statistics."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            noise = 0.5 + noise.abs()
        elif value.ndim == 1 and name.endswith(("weight", "gamma")):
            noise = 1.0 + 0.2 * noise
        else:
            noise = noise * (0.3 if value.ndim < 2 else (2.0 / value[0].numel()) ** 0.5)
        value.copy_(noise.half().float())
    return model.eval()


def random_images(size: int) -> np.ndarray:
    """(2, size, size, 3) uint8."""
    return np.random.default_rng(size).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def logits_of(model: Callable[..., Any], size: int, norm: dict[str, list[float]]) -> np.ndarray:
    """(2, CLASSES) float32 logits of `images(size)`."""
    images = torch.from_numpy(random_images(size)).permute(0, 3, 1, 2).float() / 255.0
    mean, std = (torch.tensor(norm[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        found = model((images - mean) / std)
    return getattr(found, "logits", found).numpy()


def save(name: str, model: torch.nn.Module, facts: dict[str, Any] | None) -> None:
    """Weights as float16, and `config.json` beside them as the hub has it."""
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if facts is not None:
        (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n")


def timm_models() -> dict[str, np.ndarray]:
    """A ViT with scaled branches, one without a class position, a DeiT and a ResNet-50-D."""
    found = {}
    vit = randomized(VisionTransformer(**TIMM_VIT, num_classes=CLASSES, init_values=0.1), 1)
    save("timm_vit", vit, {"architecture": "vit_tiny", "pretrained_cfg": HALF})
    found["timm_vit"] = logits_of(vit, 32, HALF)
    large = VisionTransformer(
        **{**TIMM_VIT, "img_size": 48}, num_classes=CLASSES, init_values=0.1
    ).eval()
    state = vit.state_dict()
    state["pos_embed"] = timm.layers.resample_abs_pos_embed(
        state["pos_embed"], [6, 6], [4, 4], num_prefix_tokens=1
    )
    large.load_state_dict(state)
    found["timm_vit_48px"] = logits_of(large, 48, HALF)
    late = VisionTransformer(**TIMM_VIT, num_classes=CLASSES, no_embed_class=True)
    save("timm_vit_late_token", randomized(late, 2), None)
    found["timm_vit_late_token"] = logits_of(late, 32, IMAGENET)
    deit = randomized(VisionTransformerDistilled(**TIMM_VIT, num_classes=CLASSES), 3)
    save("timm_deit", deit, {"pretrained_cfg": IMAGENET})
    found["timm_deit"] = logits_of(deit, 32, IMAGENET)
    deep = {"num_classes": CLASSES, "stem_width": 1, "channels": (2, 4, 8, 16)}
    resnet_d = ResNet(Bottleneck, (3, 4, 6, 3), stem_type="deep", avg_down=True, **deep)
    save("timm_resnet50d", randomized(resnet_d, 5), None)
    found["timm_resnet50d"] = logits_of(resnet_d, 64, IMAGENET)
    return found


def hugging_face_models() -> dict[str, np.ndarray]:
    """A ViT, a DeiT with both heads and a ResNet-50, named as `save_pretrained` names them."""
    told = {"image_mean": HALF["mean"], "image_std": HALF["std"]}
    resnet = {
        "embedding_size": 2,
        "hidden_sizes": [8, 16, 32, 64],
        "depths": [3, 4, 6, 3],
        "layer_type": "bottleneck",
        "num_labels": CLASSES,
    }
    made = {
        "hf_vit": (ViTForImageClassification(ViTConfig(**HF_VIT)), 32, HALF),
        "hf_deit": (DeiTForImageClassificationWithTeacher(DeiTConfig(**HF_VIT)), 32, HALF),
        "hf_resnet50": (ResNetForImageClassification(ResNetConfig(**resnet)), 64, IMAGENET),
    }
    found = {}
    for seed, (name, (model, size, norm)) in enumerate(made.items(), start=10):
        randomized(model, seed)
        model.half().save_pretrained(OUT / name)
        model.float()
        if norm is HALF:
            (OUT / name / "preprocessor_config.json").write_text(json.dumps(told) + "\n")
        found[name] = logits_of(model, size, norm)
    return found


class Narrow(TorchvisionResNet):
    """A sixteenth of the channels, which torchvision has no argument for."""

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> Any:
        self.inplanes = 4 if planes == 64 else self.inplanes
        return super()._make_layer(block, planes // 16, *args, **kwargs)


def torchvision_models() -> dict[str, np.ndarray]:
    """A ViT and a ResNet-18."""
    vit = randomized(TorchvisionViT(32, 8, 2, 3, 24, 96, num_classes=CLASSES), 20)
    save("torchvision_vit", vit, None)
    resnet = Narrow(BasicBlock, [2, 2, 2, 2])
    resnet.conv1 = torch.nn.Conv2d(3, 4, 7, 2, 3, bias=False)
    resnet.bn1 = torch.nn.BatchNorm2d(4)
    resnet.fc = torch.nn.Linear(32, CLASSES)
    save("torchvision_resnet18", randomized(resnet, 21), None)
    return {
        "torchvision_vit": logits_of(vit, 32, IMAGENET),
        "torchvision_resnet18": logits_of(resnet, 64, IMAGENET),
    }


def jax_vit() -> dict[str, np.ndarray]:
    """An npz file as vision_transformer writes it; the outputs are those of timm's reader."""
    rng, width, heads, hidden = np.random.default_rng(30), 24, 3, 96
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, width),
        "embedding/kernel": (8, 8, 3, width),
        "embedding/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (1, 17, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, CLASSES),
        "head/bias": (CLASSES,),
    }
    for block in range(2):
        root = f"Transformer/encoderblock_{block}"
        for part in ("query", "key", "value"):
            attention = f"{root}/MultiHeadDotProductAttention_1/{part}"
            shapes[f"{attention}/kernel"] = (width, heads, width // heads)
            shapes[f"{attention}/bias"] = (heads, width // heads)
        out = f"{root}/MultiHeadDotProductAttention_1/out"
        shapes[f"{out}/kernel"] = (heads, width // heads, width)
        shapes[f"{out}/bias"] = (width,)
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes[f"{root}/{norm}/scale"] = shapes[f"{root}/{norm}/bias"] = (width,)
        shapes[f"{root}/MlpBlock_3/Dense_0/kernel"] = (width, hidden)
        shapes[f"{root}/MlpBlock_3/Dense_0/bias"] = (hidden,)
        shapes[f"{root}/MlpBlock_3/Dense_1/kernel"] = (hidden, width)
        shapes[f"{root}/MlpBlock_3/Dense_1/bias"] = (width,)
    weights = {
        name: rng.normal(0, 0.25, shape).astype(np.float16) for name, shape in shapes.items()
    }
    folder = OUT / "jax_vit"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "vit.npz", **weights)
    full = folder / "float32.npz"
    np.savez(full, **{name: value.astype(np.float32) for name, value in weights.items()})
    model = VisionTransformer(**TIMM_VIT, num_classes=CLASSES)
    model.load_pretrained(full)
    full.unlink()
    return {"jax_vit": logits_of(model.eval(), 32, HALF)}


if __name__ == "__main__":
    found = {**timm_models(), **hugging_face_models(), **torchvision_models(), **jax_vit()}
    for each, logits in found.items():
        print(each, logits[0].round(3))
    seen = {f"images_{size}": random_images(size) for size in (32, 48, 64)}
    np.savez(OUT / "logits.npz", **found, **seen)
