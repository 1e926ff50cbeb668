import gzip
from types import SimpleNamespace

import numpy as np
import pytest

from core.bundle import BundleError
from serving.benchmark import variants
from serving.benchmark.variants import benchmark, environment
from serving.engines.engine import EngineError


def test_every_variant_is_measured(tiny_draft):
    figures = benchmark(tiny_draft, runs=12, warmup=1, threads=1)
    assert list(figures) == ["saved_model", "none_fp32"]
    for measured in figures.values():
        assert measured.runs == 12
        assert 0 < measured.latency_ms_p50 <= measured.latency_ms_p90 <= measured.latency_ms_p99
        assert measured.images_per_second > 0
        assert 0 < measured.bytes_to_label_ms_p50 <= measured.bytes_to_label_ms_p90
        assert measured.bytes_to_label_ms_p90 <= measured.bytes_to_label_ms_p99
        assert measured.bytes_to_label_images_per_second > 0
    file = tiny_draft / "model_none_fp32.tflite"
    assert figures["none_fp32"].size_bytes == file.stat().st_size
    assert figures["none_fp32"].gzip_bytes == len(gzip.compress(file.read_bytes(), 9, mtime=0))
    assert figures["saved_model"].size_bytes > (tiny_draft / "saved_model.pb").stat().st_size
    assert figures["none_fp32"].to_dict()["runs"] == 12


def test_one_variant(tiny_draft):
    assert list(benchmark(tiny_draft, ["none_fp32"], runs=1, warmup=0, threads=2)) == ["none_fp32"]


class Machine:
    """Engines whose calls take a known time, by a clock that only they advance."""

    def __init__(self, network_ms, decode_ms=0.0):
        self.now, self.network_ms, self.decode_ms = 0.0, network_ms, decode_ms
        self.order = []

    def open(self, bundle, variant, **options):
        return Engine(self, bundle, variant)

    def load(self, path):
        return SimpleNamespace(close=lambda: None)

    def take(self, variant, ms, what):
        self.now += ms / 1000
        self.order.append((variant, what))


class Engine:
    image_size = (4, 4)

    def __init__(self, machine, bundle, variant):
        self.machine, self.bundle, self.variant = machine, bundle, variant
        self.saved_model = self

    def predict_images(self, images):
        self.machine.take(self.variant, self.machine.network_ms[self.variant], "engine")
        return np.array([[0.2, 0.7, 0.1]], np.float32)

    def predict_bytes(self, encoded):
        self.machine.now += self.machine.decode_ms / 1000
        return self.predict_images(encoded)

    def run(self, signature, inputs):
        assert (signature, inputs["image_bytes"].tolist()) == ("serving_default", [b"JPEG"])
        self.predict_bytes(inputs)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def test_both_latencies_by_a_known_clock(tiny_draft, monkeypatch):
    machine = Machine({"saved_model": 8.0, "none_fp32": 2.0}, decode_ms=3.0)
    monkeypatch.setattr(variants, "open_engine", machine.open)
    monkeypatch.setattr(variants, "load_saved_model", machine.load)
    monkeypatch.setattr(variants.time, "perf_counter", lambda: machine.now)
    found = benchmark(tiny_draft, runs=20, warmup=0, images=[b"JPEG"])
    for name, engine_ms in machine.network_ms.items():
        measured, whole = found[name], engine_ms + 3
        assert measured.latency_ms_p50 == pytest.approx(engine_ms)
        assert measured.latency_ms_p99 == pytest.approx(engine_ms)
        assert measured.images_per_second == pytest.approx(1000 / engine_ms)
        assert measured.bytes_to_label_ms_p50 == pytest.approx(whole)
        assert measured.bytes_to_label_ms_p90 == pytest.approx(whole)
        assert measured.bytes_to_label_ms_p99 == pytest.approx(whole)
        assert measured.bytes_to_label_images_per_second == pytest.approx(1000 / whole)
        assert measured.bytes_to_label_ratio == pytest.approx((whole / engine_ms,) * 3)
        assert measured.speedup == pytest.approx((2 / engine_ms,) * 3)
        assert (measured.runs, measured.threads) == (20, 1)
    # Two calls of each latency per round, in turn.
    names = [name for name, _ in machine.order]
    assert names == (["saved_model"] * 4 + ["none_fp32"] * 4) * 10


def test_a_single_run_has_no_intervals(tiny_draft):
    found = benchmark(tiny_draft, ["none_fp32"], runs=1, warmup=0)["none_fp32"]
    assert (found.bytes_to_label_ratio, found.speedup) == (None, None)
    assert found.bytes_to_label_ms_p50 == found.bytes_to_label_ms_p99 > 0


@pytest.mark.parametrize("variant", ["saved_model", "none_fp32"])
def test_bytes_to_label_decodes_the_given_images(tiny_draft, make_png, variant):
    benchmark(tiny_draft, [variant], runs=1, warmup=0, images=[make_png((1, 2, 3))])
    with pytest.raises(EngineError, match="not an image"):
        benchmark(tiny_draft, [variant], runs=1, warmup=0, images=[b"not an image"])


def test_bad_arguments(tiny_draft):
    with pytest.raises(ValueError, match="runs=0"):
        benchmark(tiny_draft, runs=0)
    with pytest.raises(BundleError, match="no variant 'x'"):
        benchmark(tiny_draft, ["x"])


def test_environment_names_the_machine():
    found = environment()
    assert found["cpu"]
    assert int(found["cores"]) >= 1
    assert found["tensorflow"].startswith("2.")
