"""`sightline new` and `run` in a folder whose files have the names of our modules."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.shared_data, pytest.mark.timeout(1500)]

SIGHTLINE = Path(sys.executable).with_name("sightline")
MODEL = '''

from trainers.keras import keras
from trainers.registry import models


@models.register("tiny")
def tiny(images, *, width: int = 8):
    """One convolution."""
    x = keras.layers.Conv2D(width, 3, strides=2, activation="relu", name="conv")(images)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)
'''
SMALL = (
    *("model.name=tiny", "model.init=", "data.image_size=32,32", "data.augment=flip"),
    *("train.epochs=1", "train.freeze_epochs=0", "benchmark_runs=5", "serving_requests=2"),
    *("gates.max_drop=1", "gates.min_agreement=0", "best.ptq=int8"),
    *(f"statistics.skew_{kind}=1" for kind in ("share", "divergence", "distance")),
)


@pytest.fixture(scope="module")
def home(extract, tmp_path_factory):
    """A folder with 40 photographs, and files that must not be imported."""
    home = tmp_path_factory.mktemp("home")
    for name in ("cats", "dogs"):
        (home / "photos" / name).mkdir(parents=True)
        for file in sorted((extract("cats_dogs_A") / "train" / name).iterdir())[:20]:
            shutil.copy(file, home / "photos" / name)
    for name in ("core", "serving", "trainers", "tfx_pipeline", "random", "socket"):
        (home / f"{name}.py").write_text(f"raise SystemExit('took {name}.py of the user')\n")
    (home / "components").mkdir()
    (home / "components" / "__init__.py").write_text("raise SystemExit('took components')\n")
    return home


def sightline(home, *arguments):
    done = subprocess.run(
        [SIGHTLINE, *arguments], cwd=home, capture_output=True, text=True, check=False
    )
    assert "of the user" not in done.stdout + done.stderr
    return done


def states(home):
    """Node -> its state in the newest run."""
    file = home / "pets" / "runs" / "pets" / "reports" / "latest" / "summary.json"
    return {one["name"]: one["state"] for one in json.loads(file.read_text())["components"]}


@pytest.fixture(scope="module")
def project(home):
    """The project `pets` with a custom model, after its first run."""
    made = sightline(home, "new", "pets", "photos")
    assert made.returncode == 0, made.stderr
    file = home / "pets" / "pipeline.py"
    file.write_text(file.read_text() + MODEL)
    ran = sightline(home, "run", "pets", *SMALL)
    assert ran.returncode in (0, 3), ran.stdout + ran.stderr
    assert "failed" not in states(home).values()
    assert states(home)["CardWriter.pets"] == "done"
    return file


def test_words_change_nothing_and_a_report_is_printed_again(home, project):
    project.write_text(project.read_text().replace("One convolution.", "Just one."))
    again = sightline(home, "run", "pets", *SMALL)
    assert "nothing changed since run" in again.stdout
    assert "nothing changed since run" in sightline(home, "run", "./pets", *SMALL).stdout
    shown = sightline(home, "report", "pets")
    assert "report       " in shown.stdout
    assert (home / "pets" / "runs" / "pets" / "reports" / "latest").exists()
    assert not (home / "runs").exists()


def test_another_gate_trains_nothing_and_another_model_everything(home, project):
    text = project.read_text()
    project.write_text(text.replace("gates={", 'gates={\n            "min_top1": 0.01,', 1))
    assert sightline(home, "run", "pets", *SMALL).returncode in (0, 3)
    found = states(home)
    assert (found["Trainer.pets"], found["SignificanceGate.pets"]) == ("cached", "done")
    project.write_text(project.read_text().replace("strides=2", "strides=1"))
    assert sightline(home, "run", "pets", *SMALL).returncode in (0, 3)
    found = states(home)
    assert (found["Trainer.pets"], found["StatisticsGen"]) == ("done", "cached")


@pytest.mark.usefixtures("project")
def test_two_workers_compress_and_export_know_the_model(home):
    given = ("--plugins", "pets/pipeline.py")
    small = [one for one in SMALL if one.partition(".")[0] in ("model", "data", "train")]
    trained = sightline(
        home, "train", "pets", *small, "train.global_batch=8", "--workers", "2", *given
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    # The folder records the file of its model.
    out = ("--method", "qat", "--out", "work/draft")
    compressed = sightline(home, "compress", "work/pets", *out)
    assert compressed.returncode == 0, compressed.stdout + compressed.stderr
    assert sightline(home, "describe", "work/draft").returncode == 0
