"""Memory after unloading, in a separate process, in which nothing else grows."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from serving.server.models import inference
from serving.server.models.background import Background
from serving.server.scheduling.calls import run_now
from serving.server.models.config import ServedModel
from serving.server.models.manager import ModelManager

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20

configs = []
background = Background()
manager = ModelManager(lambda: configs, background=background)

def cycle():
    configs[:] = [ServedModel("m", Path(sys.argv[1]))]
    manager.sync()
    with manager.use("m") as servable:
        x = np.ones(4, np.float32)
        assert run_now(inference.predict(servable, "", {"x": x}))["y"].tolist() == [2.5] * 4
    configs.clear()
    manager.sync()
    assert manager.available() == {}
    assert [status.state.name for status in manager.status("m")] == ["END"]

# The first ones fill TensorFlow's own caches.
for _ in range(3):
    cycle()
background.settle()
cycle()
before = resident()
for _ in range(20):
    cycle()
print(before, resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_returns_after_unload(half_plus_two):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(half_plus_two)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    before, after = map(float, done.stdout.split()[-2:])
    assert after < before * 1.05, (before, after)
