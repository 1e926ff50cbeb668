"""`sightline run cifar10 --smoke` and `imagenet --smoke`, the whole graph. Minutes, so slow."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tensorflow as tf
from PIL import Image

from core.bundle import find_models, open_bundle

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.shared_data, pytest.mark.timeout(1800)]

_PER_MODEL = (
    *("LiveModel", "Trainer", "Compressor", "Predictor", "Evaluator", "Benchmarker"),
    *("ServingValidator", "SignificanceGate", "CardWriter", "BundlePusher"),
)

#: Photos of the sample that differ in color, so that their tiles are distinct.
SYNSETS = 10
_SIDE = 480
_TILES = 6


def _feature(value: int | bytes | str) -> tf.train.Feature:
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    data = value.encode() if isinstance(value, str) else value
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))


def record(image: bytes, label: int, synset: str, name: str) -> bytes:
    """An example in the format of Inception's `build_imagenet_data.py`; labels start at 1."""
    with Image.open(io.BytesIO(image)) as opened:
        width, height = opened.size
    values = {
        "image/height": height,
        "image/width": width,
        "image/colorspace": "RGB",
        "image/channels": 3,
        "image/class/label": label,
        "image/class/synset": synset,
        "image/class/text": synset,
        "image/format": "JPEG",
        "image/filename": name,
        "image/encoded": image,
    }
    feature = {key: _feature(value) for key, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_shards(folder: Path, split: str, records: Sequence[bytes], shards: int) -> None:
    """`<split>-0000k-of-0000N`, filled alternately."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        file = folder / f"{split}-{shard:05d}-of-{shards:05d}"
        with tf.io.TFRecordWriter(str(file)) as writer:
            for one in records[shard::shards]:
                writer.write(one)


def tiles(photo: Path) -> list[bytes]:
    """Up to 36 different JPEGs that do not overlap, of one photo."""
    with Image.open(photo) as opened:
        whole = opened.convert("RGB").resize((_SIDE, _SIDE))
    step = _SIDE // _TILES
    found = []
    for top in range(0, _SIDE, step):
        for left in range(0, _SIDE, step):
            buffer = io.BytesIO()
            whole.crop((left, top, left + step, top + step)).save(buffer, "JPEG", quality=92)
            found.append(buffer.getvalue())
    return list(dict.fromkeys(found))  # Tiles of a uniform sky may be equal.


def write_tiles(sample: Path, folder: Path) -> None:
    """Train (8 shards) and validation (2) of tiles of ten photos of `imagenet_sample_A`.

    A tile is an image of its photo's class: something that a small network learns within seconds,
    where one photo a class teaches nothing.
    """
    photos = sorted((sample / "images").glob("*.JPEG"))[:: 167 // SYNSETS][:SYNSETS]
    train, validation = [], []
    for label, photo in enumerate(photos, start=1):
        synset = photo.name.partition("_")[0]
        for number, image in enumerate(tiles(photo)):
            one = record(image, label, synset, f"{synset}_{number}.JPEG")
            (validation if number % 3 == 0 else train).append(one)
    write_shards(folder, "train", train, 8)
    write_shards(folder, "validation", validation, 2)


def sightline(root, *arguments):
    """The exit status and the output of the command."""
    found = subprocess.run(
        [sys.executable, "-m", "tfx_pipeline.cli", *map(str, arguments)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    )
    return found.returncode, found.stdout + found.stderr


def summary(root, pipeline):
    return json.loads((root / "runs" / pipeline / "reports/latest/summary.json").read_text())


def check_whole(root, pipeline, models):
    """Every node ran, every gate of every model was evaluated, and the models were pushed."""
    found = summary(root, pipeline)
    states = {node["name"]: node["state"] for node in found["components"]}
    assert {f"{kind}.{name}" for kind in _PER_MODEL for name in models} <= set(states)
    assert set(states.values()) == {"done"}
    for model in found["models"]:
        verdicts = {gate["name"]: gate["verdict"] for gate in model["gates"]}
        assert {"value/top1", "value/above_majority", "budget/latency_ms_p50"} <= set(verdicts)
        assert any(name.startswith("agreement/") for name in verdicts)
    assert sorted(find_models(root / "bundles")) == sorted(models)
    return found


def test_cifar10(extract, tmp_path):
    models = ["cifar10_cnn_smoke", "cifar10_resnet20_smoke", "cifar10_vit_smoke"]
    source = f"folder:{extract('cifar10_A')}"
    status, said = sightline(tmp_path, "run", "cifar10", "--smoke", "--data", source)
    assert status == 0, said
    found = check_whole(tmp_path, "cifar10_smoke", models)
    assert found["status"] == "pushed"
    # A log shows training and compression as they proceed, with rate and ETA.
    lines = [line for line in said.splitlines() if "Trainer.cifar10_vit_smoke  epoch 4/4" in line]
    assert lines
    assert "images/s" in lines[-1]
    assert "ETA 0:00" in lines[-1]
    bundle = open_bundle(tmp_path / "bundles" / "cifar10_resnet20_smoke")
    assert bundle.labels[0] == "airplane"
    assert bundle.manifest.config["name"] == "cifar10_resnet20_smoke"
    # The same command finds its records and its run again.
    status, said = sightline(tmp_path, "run", "cifar10", "--smoke", "--data", source)
    assert status == 0
    assert "nothing changed since run" in said
    assert "wrote data/" not in said


def test_imagenet_from_public_tfrecords(extract, tmp_path):
    """Tiles of photos, whose colors small networks learn, so that the gates pass."""
    write_tiles(extract("imagenet_sample_A"), tmp_path / "tiles")
    models = ["cnn_imagenet_study_smoke", "resnet50_imagenet_smoke", "vit_b16_imagenet_smoke"]
    source = f"tfrecord:{tmp_path / 'tiles'} validation=0.12"
    status, said = sightline(tmp_path, "run", "imagenet", "--smoke", "--data", source)
    assert status == 0, said
    found = check_whole(tmp_path, "imagenet_smoke", models)
    assert found["status"] == "pushed"
    assert "held out of train for validation" in said
    assert len(found["data"]["classes"]) == SYNSETS
    for model in found["models"]:
        (top1,) = (one["value"] for one in model["gates"] if one["name"] == "value/top1")
        assert top1 >= 0.18
    # The shards are used in place.
    (records,) = (one for one in (tmp_path / "data").glob("tiles-*") if one.is_dir())
    assert any(one.is_symlink() for one in records.glob("Split-train/*"))
