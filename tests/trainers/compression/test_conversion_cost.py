"""What a conversion computes once, although a trial finishes two files; run in this process."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import tensorflow as tf

from core.files import read_json
from trainers.compression import convert_worker
from trainers.compression.convert import ConversionJob, save_for_conversion
from trainers.compression.rewrites import bias_correction
from trainers.compression.rewrites.bias_correction import correct_biases
from trainers.config import Config, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model

pytestmark = pytest.mark.onednn

VIT = {"width": 16, "depth": 1, "heads": 2, "patch": 8}


def counted(monkeypatch, owner, name):
    """A list that grows with each call of `owner.name`."""
    calls, real = [], getattr(owner, name)

    def call(*args, **kwargs):
        calls.append(name)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_a_trial_runs_the_float_network_once(tmp_path, monkeypatch):
    keras.utils.set_random_seed(1)
    config = Config(
        "test", data=DataConfig(image_size=(32, 32)), model=ModelConfig("vit", options=VIT)
    )
    saved = save_for_conversion(build_model(config, 5), tmp_path / "saved")
    samples = tmp_path / "samples.npy"
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    np.save(samples, images)
    rewrites = ("delegate_islands", "correct_biases")
    jobs = [
        ConversionJob(
            f"a_{dtype}",
            saved,
            dtype,
            tmp_path / f"{dtype}.tflite",
            calibration=samples if dtype == "int8" else None,
            samples=samples,
            rewrites=rewrites,
        )
        for dtype in ("fp32", "int8")
    ]
    request = tmp_path / "request.json"
    listed = [{**asdict(job), "report": tmp_path / f"{job.dtype}.json"} for job in jobs]
    request.write_text(json.dumps(listed, default=str))
    convert_worker._float_outputs.cache_clear()
    means = counted(monkeypatch, bias_correction, "means_of")
    loaded = counted(monkeypatch, tf.saved_model, "load")

    convert_worker.main([str(request)])

    reports = {job.dtype: read_json(tmp_path / f"{job.dtype}.json") for job in jobs}
    assert [one["error"] for one in reports.values()] == ["", ""]
    islands, corrected = reports["int8"]["rewrites"]
    assert len(islands["snr_db"]) == 2, "both files were finished"
    assert corrected["applied"]
    assert len(means) == 1
    assert len(loaded) == 1
    # Kernels are as they were, so that means computed again correct nothing.
    content, floats = (job.output.read_bytes() for job in reversed(jobs))
    assert correct_biases(content, floats, images) == content
