"""Compares a run on one device, on two virtual devices, and in two processes.

    python tools/replica_curves.py data/cifar10 benchmarks/replicas.json --epochs 3

Each run trains the same small ViT, which has no batch statistics, with the same seed and global
batch. The JSON has the training and validation loss of every epoch and the greatest relative
difference from one device.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainers.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    from_dict,
    to_dict,
)
from trainers.data.features import DATASET_FILE

_KEPT = ("loss", "top1", "val_loss", "val_top1")
# Devices are fixed once TensorFlow has started, so each run has its own process.
_LOCAL = "local"


def config_of(data: Path, epochs: int) -> Config:
    """The configuration: 32x32 images, 4 blocks of width 96, 128 images per step."""
    return Config(
        name="replicas",
        data=DataConfig(dir=str(data), image_size=(32, 32), crop_fraction=1.0, augment=("flip",)),
        model=ModelConfig("vit", options={"patch": 8, "width": 96, "depth": 4, "heads": 4}),
        optim=OptimConfig("sgd", learning_rate=0.05, warmup_steps=20, clip_norm=1.0),
        train=TrainConfig(epochs=epochs, global_batch=128, seed=1),
    )


def curves(data: Path, epochs: int) -> dict[str, Any]:
    """The three histories and their differences.

    Returns:
      `config`; `runs`, a name to rows of loss and top-1; `greatest_difference`, of any loss,
      relative to one device's.
    """
    config = config_of(data, epochs)
    mirrored = replace(config, train=replace(config.train, strategy="mirrored"))
    with tempfile.TemporaryDirectory(prefix="sightline-replicas-") as scratch:
        runs = {
            "one device": _in_process(config, 1, Path(scratch) / "one"),
            "two virtual processors": _in_process(mirrored, 2, Path(scratch) / "two"),
            "two processes": _launched(config, Path(scratch) / "workers"),
        }
    first = runs["one device"]
    apart = {
        name: max(
            abs(row[key] - one[key]) / one[key]
            for row, one in zip(rows, first, strict=True)
            for key in ("loss", "val_loss")
        )
        for name, rows in runs.items()
    }
    kept = asdict(config)
    kept["data"]["dir"] = json.loads((data / DATASET_FILE).read_text(encoding="utf-8"))["name"]
    return {"config": kept, "runs": runs, "greatest_difference": apart}


def _in_process(config: Config, devices: int, out: Path) -> list[dict[str, float]]:
    command = [sys.executable, __file__, _LOCAL, str(out), str(devices)]
    root = str(Path(__file__).resolve().parents[1])
    subprocess.run(
        command,
        input=json.dumps(to_dict(config)),
        env={**os.environ, "PYTHONPATH": root},
        text=True,
        check=True,
    )
    return _rows(out)


def _launched(config: Config, out: Path) -> list[dict[str, float]]:
    from trainers.distributed.workers import launch

    return _rows(launch(config, out, workers=2))


def _rows(out: Path) -> list[dict[str, float]]:
    history = json.loads((out / "history.json").read_text(encoding="utf-8"))
    return [{key: row[key] for key in _KEPT} for row in history]


def _train(out: Path, devices: int) -> None:
    """Runs one configuration from stdin in this process."""
    import tensorflow as tf

    from trainers.distributed.workers import train_here

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * devices,
    )
    train_here(from_dict(json.load(sys.stdin)), out)


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == [_LOCAL]:
        _train(Path(sys.argv[2]), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of records from `sightline ingest`")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    found = curves(given.data.resolve(), given.epochs)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, apart in found["greatest_difference"].items():
        losses = " ".join(f"{row['loss']:.6f}" for row in found["runs"][name])
        print(f"{name:<24} {losses}  greatest difference {apart:.1e}")


if __name__ == "__main__":
    main()
