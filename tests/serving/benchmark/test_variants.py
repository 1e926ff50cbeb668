import gzip

import pytest

from core.bundle import BundleError
from serving.benchmark.variants import benchmark, environment


def test_every_variant_is_measured(tiny_draft):
    figures = benchmark(tiny_draft, runs=12, warmup=1, threads=1)
    assert list(figures) == ["saved_model", "none_fp32"]
    for measured in figures.values():
        assert measured.runs == 12
        assert 0 < measured.latency_ms_p50 <= measured.latency_ms_p90 <= measured.latency_ms_p99
        assert measured.images_per_second > 0
    file = tiny_draft / "model_none_fp32.tflite"
    assert figures["none_fp32"].size_bytes == file.stat().st_size
    assert figures["none_fp32"].gzip_bytes == len(gzip.compress(file.read_bytes(), 9, mtime=0))
    assert figures["saved_model"].size_bytes > (tiny_draft / "saved_model.pb").stat().st_size
    assert figures["none_fp32"].to_dict()["runs"] == 12


def test_one_variant(tiny_draft):
    assert list(benchmark(tiny_draft, ["none_fp32"], runs=1, warmup=0, threads=2)) == ["none_fp32"]


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
