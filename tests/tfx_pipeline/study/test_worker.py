"""The guard that ends a training at its time, and the probe."""

import subprocess
import sys
from types import SimpleNamespace

from tfx_pipeline.study import worker


def test_the_time_that_tensorflow_takes_to_load_is_measured():
    code = "import sys, tfx_pipeline.study.worker; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_first_step_does_not_count_for_the_next_epoch(monkeypatch):
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: now.value))
    clock = worker.EpochClock()
    assert clock.next_s() == 0.0
    # Tracing took 100 s; then a step a second, and 10 s of validation.
    clock.at(1, 41)
    now.value += 20
    clock.at(21, 41)
    now.value += 20
    clock.at(41, 41)
    now.value += 10
    assert clock.next_s() == 50 * 41 / 40
    # The next epoch is measured by itself.
    now.value += 1
    clock.at(1, 41)
    now.value += 40
    assert clock.next_s() == 40 * 41 / 40
