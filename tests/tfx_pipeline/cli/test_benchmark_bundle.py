"""`sightline benchmark BUNDLE`: its options, its tables, and its file."""

import json

from typer.testing import CliRunner

from serving.benchmark import preprocessing, variants
from serving.benchmark.errors import BenchmarkError
from serving.benchmark.preprocessing import PreprocessingFigures
from serving.benchmark.rounds import RatioOverRounds
from serving.benchmark.variants import VariantFigures
from tfx_pipeline.cli import app

FLOAT = VariantFigures(
    size_bytes=400_000,
    gzip_bytes=390_000,
    latency_ms_p50=1.5,
    latency_ms_p90=1.75,
    latency_ms_p99=2.0,
    images_per_second=640.0,
    bytes_to_label_ms_p50=2.5,
    bytes_to_label_ms_p90=2.625,
    bytes_to_label_ms_p99=3.0,
    bytes_to_label_images_per_second=390.0,
    bytes_to_label_ratio=RatioOverRounds(1.6, 1.5, 1.7),
    speedup=RatioOverRounds(1.0, 1.0, 1.0),
    runs=7,
    threads=2,
)
INT8 = VariantFigures(
    **{**FLOAT.to_dict(), "gzip_bytes": 97_500, "speedup": RatioOverRounds(3.25, 3.125, 3.375)},
)


def run(*arguments):
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


def test_both_latencies_are_in_the_tables_and_the_file(tmp_path, monkeypatch):
    given = {}

    def measure(bundle, **options):
        given.update(options, bundle=str(bundle))
        return {"none_fp32": FLOAT, "ptq_int8": INT8}

    decoding = PreprocessingFigures(
        "ptq_int8", [700.0, 720.0], [1300.0, 1400.0], RatioOverRounds(1.9, 1.8, 2.0)
    )
    monkeypatch.setattr(variants, "benchmark", measure)
    monkeypatch.setattr(preprocessing, "benchmark_preprocessing", lambda *a, **options: decoding)
    image, out = tmp_path / "dot.gif", tmp_path / "figures.json"
    image.write_bytes(GIF)
    result = run("b", "--runs", 7, "--threads", 2, "--image", image, "--out", out)
    assert result.exit_code == 0, result.output
    assert given == {"bundle": "b", "runs": 7, "threads": 2, "images": [GIF]}
    shown = [line.split() for line in result.output.splitlines()]
    assert ["none_fp32", "400", "390", "1.00x", "1.00x"] in shown
    assert ["ptq_int8", "400", "98", "4.00x", "3.25x", "3.12", "to", "3.38"] in shown
    assert ["none_fp32", "engine", "alone", "1.500", "1.750", "2.000", "640"] in shown
    label = [
        "bytes",
        "to",
        "label",
        "2.500",
        "2.625",
        "3.000",
        "390",
        "1.60x",
        "1.50",
        "to",
        "1.70",
    ]
    assert shown.count(label) == 2
    text = " ".join(result.output.split())
    for name, definition in variants.DEFINITIONS.items():
        assert f"{name}: {definition}" in text
    line = "710 img/s with one caller, 1,350 with two: 1.90x (1.80 to 2.00); target 1.8x"
    assert f"preprocessing (ptq_int8): {line}" in text
    stored = json.loads(out.read_text())
    assert stored["preprocessing"] == json.loads(json.dumps(decoding.to_dict()))
    assert stored["definitions"] == variants.DEFINITIONS
    assert (stored["images"], stored["runs"], stored["threads"]) == ("dot.gif", 7, 2)
    assert stored["variants"]["ptq_int8"]["speedup"] == [3.25, 3.125, 3.375]
    assert stored["variants"]["none_fp32"] == json.loads(json.dumps(FLOAT.to_dict()))


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    result = run("b", "--image", tmp_path / "absent.jpg")
    assert isinstance(result.exception, BenchmarkError)
    assert "absent.jpg" in str(result.exception)


#: One white pixel.
GIF = bytes.fromhex(
    "474946383961010001008000000000ffffff21f90401000000002c00000000010001000002024401003b"
)
