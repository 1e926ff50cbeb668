"""The smoke pipeline through TFX: killed, resumed, refused. Minutes, so `make test-slow`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import tensorflow as tf

from core.bundle import find_models, open_bundle
from tfx_pipeline.ingest import ingest
from tfx_pipeline.notebooks import quality
from tfx_pipeline.notebooks.catalog import catalog
from trainers.data.reader import raw_examples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]


def command(root, *arguments):
    quick = ("train.epochs=2", "compress.prune_epochs=1", "compress.qat_epochs=1")
    where = ("--data", str(root / "data"), "--root", str(root))
    return [sys.executable, "-m", "tfx_pipeline.cli", "run", "smoke", *quick, *where, *arguments]


def environment():
    return {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def finish(root, *arguments):
    return subprocess.run(
        command(root, *arguments), capture_output=True, text=True, check=False, env=environment()
    )


def summary(root):
    return json.loads((root / "runs/smoke/reports/latest/summary.json").read_text())


def states(root):
    return {node["name"]: node["state"] for node in summary(root)["components"]}


def runners(root):
    """Process ids of runners of this root."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes()
        except OSError:
            continue
        if b"tfx_pipeline.runners.local" in line and str(root).encode() in line:
            found.append(int(process.parent.name))
    return found


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A root in which a run was killed -9 after its first Trainer, in the middle of the next."""
    root = tmp_path_factory.mktemp("root")
    ingest("digits", root / "data")
    log = root / "first.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command(root), stdout=out, stderr=subprocess.STDOUT, env=environment()
        )
        # Lines of progress have its name, too.
        while not re.search(r"done +Trainer\.digits_cnn", log.read_text()):
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        time.sleep(3)
        process.kill()
        process.wait()
    deadline = time.monotonic() + 60
    while runners(root) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not runners(root), "the runner outlived the command that started it"
    return root


def test_killed_resumed_refused_and_run_again(killed):
    root = killed
    assert find_models(root / "bundles") == {}

    resumed = finish(root)
    # Two epochs are too few for the gates: that is exit status 3, and nothing is pushed.
    assert resumed.returncode == 3, resumed.stdout + resumed.stderr
    found = states(root)
    assert found["Trainer.digits_cnn"] == "cached"
    assert found["Trainer.digits_resnet"] == "done"
    assert find_models(root / "bundles") == {}
    refused = summary(root)["models"]
    assert all(model["pushed"] is None for model in refused)
    assert "value/top1" in resumed.stdout
    assert (root / "runs/smoke/reports/latest/report.html").is_file()

    again = finish(root)
    assert again.returncode == 3
    assert "nothing changed since run" in again.stdout

    partial = finish(root, "--from", "Benchmarker")
    assert partial.returncode == 3, partial.stdout + partial.stderr
    found = states(root)
    assert found["Compressor.digits_cnn"] == "cached"
    assert found["Evaluator.digits_cnn"] == "cached"
    assert found["Benchmarker.digits_cnn"] == "done"
    assert found["SignificanceGate.digits_cnn"] == "done"

    unknown = finish(root, "--from", "Benchmark")
    assert unknown.returncode == 1
    assert "Benchmarker" in unknown.stdout


def sightline(*arguments):
    line = [sys.executable, "-m", "tfx_pipeline.cli", *map(str, arguments)]
    ran = subprocess.run(line, capture_output=True, text=True, check=False, env=environment())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_errors_of_a_refused_run_have_a_map(killed, tmp_path):
    assert finish(killed).returncode == 3  # At once after the test above.
    run = f"{killed / 'runs' / 'smoke'}:digits_cnn"
    assert "There is no map" not in sightline("errors", run, "--out", tmp_path / "gallery")
    assert "<svg" in (tmp_path / "gallery" / "index.html").read_text(encoding="utf-8")


def test_every_notebook_shows_a_refused_run(killed, tmp_path):
    assert finish(killed).returncode == 3
    run = killed / "runs" / "smoke"
    for one in catalog():
        path = tmp_path / f"{one.name}.ipynb"
        sightline("notebook", one.name, run, "--out", path, "--execute")
        outputs = [o for c in json.loads(path.read_text())["cells"] for o in c.get("outputs", ())]
        assert {one["output_type"] for one in outputs} <= {"execute_result", "stream"}
        assert not [one for one in outputs if one.get("name") == "stderr"]

    counted: dict[str, Counter[str]] = {}
    for split in ("train", "test"):
        records = raw_examples(killed / "data", split)
        features = [tf.train.Example.FromString(record).features.feature for record in records]
        values = [one["slice/brightness"].bytes_list.value[0].decode() for one in features]
        counted[split] = Counter(values)
    shares = quality.slice_shares(quality.open_data(str(run)))
    found = {row["value"]: row for row in shares[shares["key"] == "brightness"].to_dict("records")}
    assert found.keys() == counted["train"].keys() | counted["test"].keys()
    for value, row in found.items():
        assert row["images"] == counted["test"][value]
        expected = counted["train"][value] / sum(counted["train"].values())
        assert row["train share"] == pytest.approx(expected)


def test_interrupted_by_ctrl_c_says_so(killed):
    process = subprocess.Popen(
        command(killed, "--force"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "StatisticsValidator" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait() == 1
    assert "interrupted" in rest
    assert "resumes from the component that failed" in rest
    assert not runners(killed)
    for models in find_models(killed / "bundles").items():
        open_bundle(killed / "bundles" / models[0])
