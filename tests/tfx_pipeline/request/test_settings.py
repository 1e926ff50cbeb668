"""`gates.<field>=value` and `--accept-undecided` on the command line."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from components.gates import GateSettings
from tfx_pipeline.config import make_experiments
from tfx_pipeline.pipelines.smoke import smoke
from tfx_pipeline.request.settings import with_settings
from trainers.config import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def test_every_gate_can_be_set_and_the_rest_goes_to_the_experiments(tmp_path):
    values = {int: "7", float: "0.5", str: "accept", tuple: "accuracy"}
    for one in fields(GateSettings):
        text = values[type(getattr(GateSettings(), one.name))]
        shape, others = with_settings(smoke(), [f"gates.{one.name}={text}", "train.epochs=2"])
        assert others == ("train.epochs=2",)
        value = [text] if one.default == () else type(one.default)(text)
        expected = json.loads(json.dumps(asdict(GateSettings(**smoke().gates)))) | {one.name: value}
        assert shape.gates == expected
    mixed = ["digits_vit:train.epochs=3", "gates.min_top1=0.5", "train.seed=7"]
    shape, others = with_settings(smoke(), mixed)
    found = make_experiments(shape, tmp_path, others)
    assert (found["digits_vit"].train.epochs, found["digits_vit"].train.seed) == (3, 7)


def test_accept_undecided_is_a_gate_setting():
    shape, _ = with_settings(smoke(), (), accept=["undecided"])
    assert shape.gates["undecided"] == "accept"
    assert with_settings(smoke(), ())[0].gates["undecided"] == "refuse"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("gates.min_topp1=0.9", "did you mean .*min_top1"),
        ("gates.undecided=yes", r"gates\.undecided must be refuse or accept, got 'yes'"),
        ("gates.min_top1=90", r"gates\.min_top1 must be in \[0, 1\], got 90"),
        ("gates.max_size_bytes=big", r"gates\.max_size_bytes takes int, got 'big'"),
        ("gates=1", r"set one of gates\.min_top1"),
        ("gates.min_top1", "is not `key=value`"),
    ],
)
def test_a_mistyped_gate_names_what_there_is(assignment, message):
    with pytest.raises(ConfigError, match=message):
        with_settings(smoke(), [assignment])


def test_a_mistyped_gate_ends_the_command_before_anything_runs(tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "tfx_pipeline.cli", "run", "smoke", "gates.min_top=0.9"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    )
    assert found.returncode == 1
    assert "unknown config key 'gates.min_top'" in found.stderr
    assert "min_top1" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_gates_load_nothing_heavy():
    code = (
        "import sys; import tfx_pipeline.request.settings\n"
        "heavy = {'tensorflow', 'tfx', 'apache_beam', 'numpy', 'scipy', 'tf_keras'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
