"""A split network compared with the whole one, in a child process with virtual devices."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from tfx_pipeline.benchmarks.parallel import measure

CHILD = """
import io, json, sys
from rich.console import Console
from tfx_pipeline.benchmarks.parallel import measure, view

figures = measure(
    "resnet8", ["zero_init=false"], stages=2, batch=6, micro_batch=2, size=32, classes=7, rounds=4
)
console = Console(width=130, record=True, file=io.StringIO())
console.print(view(figures))
print(json.dumps([figures, console.export_text()]))
"""


def test_a_split_network_beside_the_whole_one():
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures, shown = json.loads(done.stdout.splitlines()[-1])
    assert 0 <= figures["difference"] < 1e-5 * figures["largest"]
    assert figures["virtual"] is True
    assert [stage["device"][-5:] for stage in figures["stages"]] == ["CPU:0", "CPU:1"]
    # Three micro-batches through two stages take four steps, and each stage is idle in one.
    assert figures["bubble"] == pytest.approx(1 / 4)
    for key in ("whole_images_per_second", "split_images_per_second"):
        assert len(figures[key]) == 4
        assert min(figures[key]) > 0
    value, low, high = figures["ratio"]
    ratios = [
        split / whole
        for whole, split in zip(
            figures["whole_images_per_second"], figures["split_images_per_second"], strict=True
        )
    ]
    limits = stats.ttest_1samp(np.log(ratios), 0.0).confidence_interval(0.95)
    assert [value, low, high] == pytest.approx([stats.gmean(ratios), *np.exp(limits)])
    shown = " ".join(shown.split())
    interval = f"(95 % interval {low:.2f} to {high:.2f})"
    assert f"ratio {value:.2f} {interval} over 4 alternating rounds" in shown
    assert "the devices are virtual devices of one processor" in shown


@pytest.mark.parametrize(("batch", "rounds"), [(0, 5), (4, 1)])
def test_too_little_to_measure_is_refused(batch, rounds):
    with pytest.raises(ValueError, match=f"at least 2, got {batch}, {rounds}"):
        measure("resnet8", batch=batch, rounds=rounds)
