"""One page of metrics for several processes."""

import json
import os
import time

import pytest

from serving.server.observability.metrics import Metrics, SharedMetrics

WAIT = 20


def filled(ok, seconds):
    metrics = Metrics()
    for _ in range(ok):
        metrics.request("m", "Predict", "REST", "OK", seconds)
    return metrics


@pytest.fixture
def shared(tmp_path):
    made = SharedMetrics(filled(2, 1e-5), tmp_path, period_s=0.01)
    yield made
    made.close()


def write(folder, name, metrics):
    # As another process would: through JSON, which knows no tuples.
    (folder / f"{name}.metrics").write_text(json.dumps(metrics.snapshot()))


def test_numbers_add_up(shared, tmp_path):
    write(tmp_path, "1", filled(3, 1e-5))
    other = filled(1, 2e-5)
    other.count("refused_count", reason="max_queue")
    write(tmp_path, "2", other)
    together = filled(5, 1e-5)
    together.request("m", "Predict", "REST", "OK", 2e-5)
    together.count("refused_count", reason="max_queue")
    assert sorted(shared.text().splitlines()) == sorted(together.text().splitlines())
    labels = '{model_name="m",API="Predict",entrypoint="REST"}'
    # Microseconds: five times ten, and twenty.
    assert f"request_latency_sum{labels} 70" in shared.text()
    assert f"request_latency_count{labels} 6" in shared.text()


def test_the_own_file_is_written_and_not_counted_twice(shared, tmp_path):
    file = tmp_path / f"{os.getpid()}.metrics"
    deadline = time.monotonic() + WAIT
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 'request_count{model_name="m",status="OK"} 2' in shared.text()


def test_a_file_that_cannot_be_read_is_passed_over(shared, tmp_path):
    (tmp_path / "9.metrics").write_text("{")
    assert 'request_count{model_name="m",status="OK"} 2' in shared.text()


def test_the_last_numbers_are_written_at_the_end(tmp_path):
    metrics = filled(1, 1e-5)
    shared = SharedMetrics(metrics, tmp_path, period_s=1000)
    metrics.count("shadow_count", model_name="m", outcome="agreed")
    shared.close()
    written = json.loads((tmp_path / f"{os.getpid()}.metrics").read_text())
    assert written["counters"]["shadow_count"] == [
        [[["model_name", "m"], ["outcome", "agreed"]], 1]
    ]


def test_a_removed_folder_stops_nothing(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    shared = SharedMetrics(filled(2, 1e-5), folder, period_s=1000)
    folder.rmdir()
    shared.close()
    assert "request_count" in shared.text()


def test_gauges_are_those_of_the_living(shared, tmp_path):
    shared._metrics.gauge("waiting_requests", lambda: 1)
    other = filled(0, 0)
    other.gauge("waiting_requests", lambda: 5)
    write(tmp_path, os.getppid(), other)
    # Process numbers end below 2^22.
    write(tmp_path, 2**30, other)
    assert ":sightline:serving:waiting_requests 6" in shared.text()
