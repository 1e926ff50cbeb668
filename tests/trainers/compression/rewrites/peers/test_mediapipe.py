"""MediaPipe opens every variant, shows its labels, and has LiteRT's scores."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from trainers.compression.convert import ConversionJob, convert_all, save_for_conversion
from trainers.config import Config, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model

HERE = Path(__file__).parent
PYTHON = HERE.parents[4] / ".tools" / "peers" / "mediapipe" / "bin" / "python"
LABELS = ("eins", "zwei", "three", "quatre é", "five", "six")


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cnn", {"width": 8, "depth": 2}),
        ("vit", {"width": 16, "depth": 2, "heads": 2, "patch": 8}),
    ],
)
def test_mediapipe_shows_labels_and_scores(name, options, tmp_path):
    if not PYTHON.is_file():
        pytest.fail(f"{PYTHON} does not exist; `make test-peers` and tools/peers.sh create it")
    keras.utils.set_random_seed(0)
    config = Config(
        "test", data=DataConfig(image_size=(32, 32)), model=ModelConfig(name, options=options)
    )
    saved = save_for_conversion(build_model(config, len(LABELS)), tmp_path / "saved")
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    jobs = [
        ConversionJob(
            dtype,
            saved,
            dtype,
            tmp_path / f"{dtype}.tflite",
            LABELS,
            tmp_path / "images.npy" if dtype == "int8" else None,
        )
        for dtype in ("fp32", "dynamic", "int8")
    ]
    assert [one.error for one in convert_all(jobs)] == ["", "", ""]
    command = [PYTHON, HERE / "ask_mediapipe.py", tmp_path / "images.npy"]
    run = subprocess.run([*command, *(job.output for job in jobs)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    shown = json.loads(run.stdout)
    for job in jobs:
        runner = Interpreter(model_path=str(job.output)).get_signature_runner("predict_tensor")
        for image, rows in zip(images, shown[str(job.output)], strict=True):
            scores = runner(images=image[None])["scores"][0]
            best = np.argsort(-scores, kind="stable")[:3]
            print(f"{name} {job.dtype}: MediaPipe {rows[0]}, LiteRT {scores[best[0]]:.4f}")
            assert [row[2] for row in rows] == pytest.approx(scores[best], abs=2e-3)
            for label, index, score in rows:
                assert label == LABELS[index]
                assert score == pytest.approx(scores[index], abs=2e-3)
