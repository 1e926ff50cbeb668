"""Runs whose code or length changed: what is resumed, what starts over, and what is said of it."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainers.config import from_dict, override
from trainers.identity.code_digest import PROJECT, Code
from trainers.loop import fit
from trainers.training.run_folder import CodeRecord, Identity

ROOT = Path(__file__).resolve().parents[3]
STEPS = 3

# Trains the fixture's network for an epoch with the sources in the working directory.
TRAIN = """
import json, sys
from pathlib import Path
from trainers.config import from_dict
from trainers.loop import fit
import trainers
assert Path(trainers.__file__).parent == Path("trainers").resolve(), trainers.__file__
config = json.loads(Path(sys.argv[1], "trained/config.json").read_text())
config["data"]["dir"] = str(Path(sys.argv[1], "data"))
config["train"]["epochs"] = 1
config["optim"]["warmup_steps"] = 0
said = []
found = fit(from_dict(config), Path(sys.argv[1], "work"), announce=said.append,
            resume_anyway="anyway" in sys.argv)
print("result", json.dumps([found.history[-1]["loss"], said]))
"""


@pytest.fixture(scope="module")
def constant(config):
    """Two epochs at a constant rate."""
    changes = ["optim.schedule=constant", "train.epochs=2", "optim.warmup_steps=0"]
    return override(config, [*changes, 'model.options={"width": 4, "depth": 1, "stages": 1}'])


def test_a_renamed_augmentation_keeps_the_checkpoints_of_a_run(earlier):
    old = from_dict(json.loads((earlier("b54914a") / "trained/config.json").read_text()))

    def name(entry):
        config = replace(old, data=replace(old.data, augment=("flip", entry)))
        return Identity(config, "", "", "d" * 64, "f" * 64, Code({}, {})).old_name(2)

    # By the version that knew the former spelling only.
    assert name("colour_jitter(0.3, 0.3)") == "77868ff0a39999ef-ffffffff"
    assert name("color_jitter(0.3, 0.3)") == "77868ff0a39999ef-ffffffff"
    assert name("rotate(3)") != "77868ff0a39999ef-ffffffff"


def folders(work_dir):
    return sorted(one.name for one in work_dir.iterdir() if one.is_dir())


def content(folder):
    """Everything but the lock, which holds the number of the last process."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {file: file.read_bytes() for file in files}


def test_changed_training_code_trains_again(earlier, tmp_path):
    """With the loss's sign turned, as an audit did: the old weights were shipped then."""
    old = earlier("b54914a")
    for name in PROJECT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def train(*options):
        run = subprocess.run(
            [sys.executable, "-c", TRAIN, str(old), *options],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        (line,) = (one for one in run.stdout.splitlines() if one.startswith("result "))
        return json.loads(line.removeprefix("result "))

    loss, said = train()
    assert loss > 0
    assert said == []
    (first,) = folders(old / "work")
    before = content(old / "work" / first)
    losses = tmp_path / "trainers/training/losses.py"
    losses.write_text(losses.read_text() + "\n# Only a comment.\n")
    assert train() == [loss, []]
    text = losses.read_text()
    turned = text.replace("            return exact\n", "            return -exact\n", 1)
    assert turned != text
    losses.write_text(turned)
    again, said = train()
    (line,) = said
    assert line.startswith(f"starts over and keeps {old}/work/{first} (epoch 1 of 1, commit ")
    assert (
        "): the code changed since (trainers.training.losses); --resume-anyway resumes from it"
        in line
    )
    assert again < 0
    assert len(folders(old / "work")) == 2
    assert content(old / "work" / first) == before


def test_a_longer_run_at_a_constant_rate_is_the_same_as_one_from_the_start(constant, tmp_path):
    whole = fit(override(constant, ["train.epochs=4"]), tmp_path / "whole")
    fit(constant, tmp_path / "parts")
    (first,) = folders(tmp_path / "parts")
    before = content(tmp_path / "parts" / first)
    said, seen = [], []
    longer = override(constant, ["train.epochs=4"])
    found = fit(longer, tmp_path / "parts", announce=said.append, report=seen.append)
    assert said[0].startswith(f"resumes from {tmp_path}/parts/{first} (epoch 2 of 2, commit ")
    assert said[0].endswith(": the steps done so far are the same in a run of 4 epochs")
    assert said[1:] == ["resumes at epoch 3, step 1"]
    assert {one.epoch for one in seen} == {3, 4}
    for name in ("loss", "val_loss", "learning_rate"):
        ours, theirs = ([row[name] for row in one.history] for one in (found, whole))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for ours, theirs in zip(found.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert content(tmp_path / "parts" / first) == before


def test_a_longer_run_with_a_cosine_starts_over_and_names_the_rates(constant, tmp_path):
    cosine = override(constant, ["optim.schedule=cosine", "optim.learning_rate=0.04"])
    fit(cosine, tmp_path)
    (first,) = folders(tmp_path)
    said, seen = [], []
    longer = override(cosine, ["train.epochs=4"])
    found = fit(longer, tmp_path, announce=said.append, report=seen.append)

    def rate(step, epochs):
        return 0.04 * 0.5 * (1 + math.cos(math.pi * step / (epochs * STEPS)))

    assert len(said) == 1
    assert said[0].startswith(f"starts over and keeps {tmp_path}/{first} (epoch 2 of 2, commit ")
    assert said[0].endswith(
        "): the cosine schedule of train.epochs=2 had a learning rate of "
        f"{rate(5, 2):.3g} at the last step done, that of train.epochs=4 has {rate(5, 4):.3g} "
        f"there and continues with {rate(6, 4):.3g}; --resume-anyway resumes from it"
    )
    assert {one.epoch for one in seen} == {1, 2, 3, 4}
    # As the message says, the user may want it all the same.
    shutil.rmtree(next(one for one in tmp_path.iterdir() if one.is_dir() and one.name != first))
    said.clear()
    seen.clear()
    resumed = fit(longer, tmp_path, announce=said.append, report=seen.append, resume_anyway=True)
    assert said[0].startswith(f"resumes from {tmp_path}/{first} (epoch 2 of 2, commit ")
    assert "as --resume-anyway demands, although the cosine schedule" in said[0]
    assert {one.epoch for one in seen} == {3, 4}
    last = rate(4 * STEPS - 1, 4)
    assert resumed.history[-1]["learning_rate"] == pytest.approx(last, rel=1e-4)
    assert found.history[-1]["learning_rate"] == pytest.approx(last, rel=1e-4)
    (made,) = (one for one in tmp_path.iterdir() if one.is_dir() and one.name != first)
    origin = json.loads((made / "identity.json").read_text())["resumed_from"]
    assert (origin["folder"], origin["epoch"]) == (first, 2)


def test_other_data_is_no_reason_to_offer_a_state(constant, records, tmp_path):
    fit(override(constant, ["train.epochs=1"]), tmp_path / "work")
    data = shutil.copytree(records[0], tmp_path / "data")
    described = json.loads((data / "dataset.json").read_text())
    described["classes"] = described["classes"][::-1]
    (data / "dataset.json").write_text(json.dumps(described))
    said = []
    other = override(constant, ["train.epochs=1", f"data.dir={data}"])
    found = fit(other, tmp_path / "work", announce=said.append)
    assert said == []
    assert found.info.classes == tuple(described["classes"])
    assert len(folders(tmp_path / "work")) == 2


def test_changes_in_words():
    record = CodeRecord({"a": "1", "b": "1"}, {"tensorflow": "2.16.2", "numpy": "1"}, "c0ffee")
    assert record.changes(Code({"a": "1", "b": "1"}, {"tensorflow": "2.16.2", "numpy": "1"})) == ""
    packages = {"tensorflow": "2.21.0", "scipy": "1.12"}
    assert record.changes(Code({"a": "2", "b": "1"}, packages)) == (
        "a, numpy 1 -> none, scipy none -> 1.12, tensorflow 2.16.2 -> 2.21.0"
    )
    many = Code({f"m{n}": "1" for n in range(5)}, dict(record.packages))
    assert record.changes(many) == "a, b, m0, 4 more modules"
