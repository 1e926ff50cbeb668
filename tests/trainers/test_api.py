"""The public Python API: cheap to import, and its page of documentation runs as it is printed."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import serving
import trainers
from core.bundle import open_bundle
from serving.server.lifecycle.server_process import ServerProcess
from trainers.data.features import DATASET_FILE, IMAGE
from trainers.data.pipeline import eval_batches

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PUBLIC = {
    "trainers": {"compress", "evaluate", "export", "fit", "load_recipe"},
    "serving": {"Client", "load_bundle"},
}


def test_imports_load_nothing_heavy():
    program = (
        "import sys, trainers, serving\n"
        "from trainers import load_recipe\n"
        "assert load_recipe('digits_cnn', 'train.epochs=2').train.epochs == 2\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not {"tensorflow", "tf_keras", "numpy", "scipy", "grpc"} & set(run.stdout.split())


def test_the_page_lists_every_public_name():
    for module in (trainers, serving):
        assert set(module.__all__) == PUBLIC[module.__name__]
        assert all(callable(getattr(module, name)) for name in module.__all__)
        listed = re.findall(rf"^\| `{module.__name__}\.(\w+)", PAGE, re.MULTILINE)
        assert set(listed) == PUBLIC[module.__name__]
        with pytest.raises(AttributeError, match="has no attribute 'unknown'"):
            _ = module.unknown


@pytest.mark.onednn
def test_evaluation_counts_every_image_of_the_split_once(trained, tmp_path):
    right = []
    for batch in eval_batches(trained.config, trained.info, "test", batch=1):
        logits = trained.model(batch.images, training=False).numpy()
        right.append(int(logits.argmax()) == int(batch.labels[0]))
    found = trainers.evaluate(trained)["top1"]
    assert found.value == pytest.approx(np.mean(right))
    assert found.low < found.value < found.high
    # Labels are paired by name where the records list the classes in another order.
    data = shutil.copytree(trained.config.data.dir, tmp_path / "data")
    info = replace(trained.info, classes=trained.info.classes[::-1])
    (data / DATASET_FILE).write_text(info.to_json(), encoding="utf-8")
    moved = trainers.evaluate(trained, "validation", data=data)["top1"].value
    batches = eval_batches(trained.config, trained.info, "validation", batch=1)
    mirrored = [
        int(trained.model(one.images, training=False).numpy().argmax()) == 9 - int(one.labels[0])
        for one in batches
    ]
    assert moved == pytest.approx(np.mean(mirrored))


@pytest.mark.onednn
def test_the_examples_of_the_page_run(records, tmp_path, monkeypatch):
    folder, splits = records
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits").symlink_to(folder)
    example = tf.train.Example.FromString(splits["test"][0])
    (tmp_path / "seven.png").write_bytes(example.features.feature[IMAGE].bytes_list.value[0])
    monkeypatch.chdir(tmp_path)
    local, remote = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(local, "docs/api.md", "exec"), {})
    first, label = printed.getvalue().splitlines()
    assert re.fullmatch(r"top-1 [\d.]+%, 95 % interval [\d.]+% to [\d.]+%", first)
    bundle = open_bundle(Path("bundles/digits_cnn"))
    assert label in bundle.labels
    assert bundle.manifest.recommended == "ptq_int8"
    found: dict = {}
    with ServerProcess(tmp_path / "bundles") as server:
        assert "http://127.0.0.1:8501" in remote
        exec(remote.replace("http://127.0.0.1:8501", server.rest_url), found)
    assert found["label"] in bundle.labels
    assert 0 < found["score"] <= 1
