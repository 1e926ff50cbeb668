"""huggingface_hub reads the header and the results of `README.md`."""

import json
import subprocess
from pathlib import Path

import pytest

from core.bundle import Manifest
from trainers.bundles.card.card_markdown import markdown_card

HERE = Path(__file__).parent
PYTHON = HERE.parents[4] / ".tools" / "peers" / "huggingface" / "bin" / "python"


@pytest.mark.peers
def test_hugging_face_reads_the_card(tmp_path):
    if not PYTHON.is_file():
        pytest.fail(f"{PYTHON} does not exist; `make test-peers` and tools/peers.sh create it")
    manifest = Manifest(
        "faces",
        "classification",
        2,
        {},
        2,
        (),
        "none_fp32",
        data={"name": "fairface"},
        metrics={"none_fp32": {"top1": [0.9, 0.8, 0.95], "macro_f1": [0.89, 0.8, 0.95]}},
    )
    file = tmp_path / "README.md"
    file.write_text(markdown_card(manifest, {}), encoding="utf-8")
    run = subprocess.run(
        [PYTHON, HERE / "ask_huggingface.py", file], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["data"] == {
        "license": "unknown",
        "library_name": "sightline",
        "pipeline_tag": "image-classification",
        "tags": ["sightline", "tensorflow", "tflite", "image-classification"],
        "datasets": ["fairface"],
        "metrics": ["accuracy", "f1"],
        "model_name": "faces",
    }
    assert found["results"] == [
        ["image-classification", "fairface", "accuracy", 0.9],
        ["image-classification", "fairface", "f1", 0.89],
    ]
    assert found["title"] == "# faces"
