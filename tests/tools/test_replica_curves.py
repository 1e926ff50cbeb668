"""The section on curves of one and two replicas."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_curves_and_their_difference_are_shown():
    spec = importlib.util.spec_from_file_location("page", ROOT / "tools" / "benchmarks_md.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.replicas_section(
        {
            "config": {
                "model": {"name": "vit"},
                "data": {"dir": "cifar10"},
                "train": {"global_batch": 128, "seed": 1},
            },
            "runs": {
                "one device": [{"loss": 2.0}, {"loss": 1.5}],
                "two processes": [{"loss": 2.0}, {"loss": 1.5000004}],
            },
            "greatest_difference": {"one device": 0.0, "two processes": 2.7e-7},
        }
    )
    assert "`vit` on cifar10, global batch 128, seed 1" in page
    assert "| | epoch 1 | epoch 2 | difference |\n|---|---|---|---|\n" in page
    assert "| two processes | 2.000000 | 1.500000 | 2.7e-07 |" in page
