"""Int8 and dynamic range files of EfficientNet-Lite0 against float, on real photos."""

import json
import sys

import pytest

PACKAGES = ("imagenet_sample_A", "coco_subset_A", "coco128_train", "cats_dogs_A")
LEAST = {"fp32": 1.0, "dynamic": 0.95, "int8": 0.95}


@pytest.fixture
def run(tool, monkeypatch):
    """`run(argument, ...)`: the exit status of the command line."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["int8_agreement.py", *map(str, arguments)])
        return tool("int8_agreement").main()

    return call


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.onednn
@pytest.mark.timeout(1800)
def test_lite0_agrees_with_float_on_real_photos(run, extract, tmp_path):
    folders = [extract(name) for name in PACKAGES]
    out = tmp_path / "figures.json"
    assert run("--calibrate", folders[0], *folders, "--out", out) == 0
    figures = json.loads(out.read_text())
    shares = {(row["dtype"], row["photos"]): row for row in figures["rows"]}
    assert figures["calibration"] == 167
    for dtype, least in LEAST.items():
        every, fresh = shares[dtype, "all"], shares[dtype, "not calibrated on"]
        assert every["of"] >= 600
        assert fresh["of"] == every["of"] - 167
        assert every["agree"] >= least * every["of"], (dtype, every)


def test_unusable_folders_are_named(run, tmp_path, capsys):
    assert run("--calibrate", tmp_path, tmp_path) == 1
    assert f"{tmp_path} holds no .jpg or .jpeg file" in capsys.readouterr().err
    for name in ("a/photos", "b/photos"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "one.JPG").write_bytes(b"")
    assert run("--calibrate", tmp_path, tmp_path / "a/photos", tmp_path / "b/photos") == 1
    assert "two folders have the same name" in capsys.readouterr().err
