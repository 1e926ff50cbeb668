"""Measures how often TFLite variants of packaged weights agree with the float network.

    python tools/int8_agreement.py --calibrate ~/photos/train ~/photos/train ~/photos/other

Reads every JPEG below the folders, without labels. Int8 ranges and biases come from the
images of `--calibrate`, as `sightline compress` takes them from training images; images that are
among them are also reported separately.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from serving.benchmark.variants import environment
from trainers.compression.convert import ConversionJob, convert_all, require, save_for_conversion
from trainers.config import Config
from trainers.data.preprocess import Preprocessing, eval_images
from trainers.evaluation.stats import proportion_interval
from trainers.keras import keras
from trainers.models import build_model
from trainers.models.efficientnet_lite import VARIANTS
from trainers.registry import recipes
from trainers.weights import initialize
from trainers.weights.pretrained import init_path, with_input_of_weights
from trainers.weights.report import WeightsError

DTYPES = ("fp32", "dynamic", "int8")
_RECIPE = "efficientnet_lite0_imagenet"
_SUFFIXES = {".jpg", ".jpeg"}  # PNG files beside photos are usually masks
_CLASSES = 1000
_BATCH = 16


def photos(folder: Path) -> list[Path]:
    """Every JPEG below `folder`, sorted by name.

    Raises:
      ValueError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise ValueError(f"{folder} holds no .jpg or .jpeg file")
    return found


def config_of(model: str) -> Config:
    """The recipe of packaged weights for the Lite network `model` at its image size."""
    config = recipes.get(_RECIPE)()
    side = VARIANTS[model].image_size
    return with_input_of_weights(
        replace(
            config,
            data=replace(config.data, dir="", image_size=(side, side)),
            model=replace(config.model, name=model),
        )
    )


def pixels(files: Sequence[Path], config: Config) -> np.ndarray:
    """(M, H, W, 3) uint8: the preprocessed images of `files`."""
    how = Preprocessing.of(config.data)
    rows = []
    for start in range(0, len(files), _BATCH):
        encoded = tf.constant([file.read_bytes() for file in files[start : start + _BATCH]])
        rows.append(eval_images(encoded, how).numpy())
    return np.concatenate(rows)


def measure(model: str, calibrate: Path, folders: Sequence[Path]) -> dict[str, Any]:
    """The results that `main` prints.

    Args:
      model: `efficientnet_lite0`, 1 or 2.
      calibrate: folder of calibration images; the first `compress.calibration_images` of a fixed
        shuffle are used.
      folders: of the images to compare on.

    Returns:
      `model`, `machine`, `calibration` (images used), `rows`: for each dtype and folder, for all
      images and for those that were not used in calibration, how many agree and of how many.

    Raises:
      ValueError: a folder without images, or two folders of one name.
      WeightsError: no packaged weights of `model`.
      ConversionError: the converter refused a variant.
    """
    chosen = photos(calibrate)
    groups = {folder.name: photos(folder) for folder in folders}
    if len(groups) < len(folders):
        raise ValueError(f"two folders have the same name, got {', '.join(map(str, folders))}")
    config = config_of(model)
    network = build_model(config, _CLASSES)
    initialize(network, init_path(config), config)
    order = np.random.default_rng(config.train.seed).permutation(len(chosen))
    used = [chosen[at] for at in order[: config.compress.calibration_images]]
    seen = {file.resolve() for file in used}
    images = {name: pixels(files, config) for name, files in groups.items()}
    wanted = {name: _labels(network, part) for name, part in images.items()}
    fresh = np.array([f.resolve() not in seen for files in groups.values() for f in files])
    rows = []
    with tempfile.TemporaryDirectory(prefix="sightline-agreement-") as scratch:
        for dtype, file in _converted(network, pixels(used, config), Path(scratch)).items():
            same = {
                name: _litert_labels(file, part) == wanted[name] for name, part in images.items()
            }
            every = np.concatenate(list(same.values()))
            parts = {**same, "all": every, "not calibrated on": every[fresh]}
            for name, part in parts.items():
                rows.append({"dtype": dtype, "photos": name, "agree": int(part.sum())})
                rows[-1]["of"] = len(part)
    return {"model": model, "machine": environment(), "calibration": len(used), "rows": rows}


def _converted(network: keras.Model, images: np.ndarray, folder: Path) -> dict[str, Path]:
    """The TFLite file of each dtype."""
    calibration = folder / "calibration.npy"
    np.save(calibration, images)
    saved = save_for_conversion(network, folder / "saved")
    jobs = [
        ConversionJob(
            dtype,
            saved,
            dtype,
            folder / f"{dtype}.tflite",
            calibration=calibration if dtype == "int8" else None,
        )
        for dtype in DTYPES
    ]
    require(convert_all(jobs))
    return {job.dtype: job.output for job in jobs}


def _labels(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """(M,) classes predicted by the float network."""
    rows = [
        network(tf.cast(images[start : start + _BATCH], tf.float32), training=False).numpy()
        for start in range(0, len(images), _BATCH)
    ]
    return np.concatenate(rows).argmax(axis=1)


def _litert_labels(file: Path, images: np.ndarray) -> np.ndarray:
    """(M,) classes predicted by a TFLite file."""
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    runner = interpreter.get_signature_runner("predict_tensor")
    return np.array([runner(images=image[None])["scores"][0].argmax() for image in images])


def main() -> int:
    """The command line; returns 1 if a folder or the weights are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="images to compare on")
    parser.add_argument("--calibrate", type=Path, required=True, help="calibration images")
    parser.add_argument("--model", default="efficientnet_lite0", choices=list(VARIANTS)[:3])
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    try:
        figures = measure(options.model, options.calibrate, options.folders)
    except (ValueError, WeightsError) as error:
        print(f"int8_agreement: {error}", file=sys.stderr)
        return 1
    print(f"{figures['model']}, calibrated on {figures['calibration']} images")
    for row in figures["rows"]:
        share = "-"
        if row["of"]:
            found = proportion_interval(row["agree"], row["of"])
            share = f"{found.value:.2%} (95 % interval {found.low:.1%} to {found.high:.1%})"
        print(f"{row['dtype']:8} {row['photos']:20} {row['agree']:5} of {row['of']:5}  {share}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
