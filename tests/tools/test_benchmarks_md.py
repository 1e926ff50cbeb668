"""The page of figures is what the figures say."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load():
    spec = importlib.util.spec_from_file_location("page", ROOT / "tools" / "benchmarks_md.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIGURES = {
    "machine": {"cpu": "Abacus", "cores": 2},
    "source": "../pictures.tar",
    "pictures": 3,
    "mean_kb": 1.5,
    "image_size": [224, 192],
    "rounds": 3,
    "rates": {
        "ingest": [50.0],
        "decode_jpeg alone": [100.0, 200.0, 100.0],
        "evaluation": [80.0, 80.0, 60.0],
    },
    "memory_mb": {"1x": 700.0, "10x": 1710.4},
}


def test_ratios_are_medians_of_the_rounds():
    page = load().data_section(FIGURES)
    assert "`sightline benchmark data pictures.tar`: 3 JPEGs of 1.5 kB" in page
    assert "224 x 192 px, 3 rounds in turns on 2 cores of Abacus" in page
    assert "| evaluation | 80 | 60 | 80 | 0.60 | >= 0.70 |" in page
    assert "| ingest | 50 | 50 | 50 | 0.50 |  |" in page
    assert "700 MB with 320 MiB of records, 1,710 MB with ten times" in page


def test_the_committed_page_is_the_one_of_the_committed_figures(tmp_path):
    load().main(ROOT / "benchmarks" / "data.json", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == (ROOT / "BENCHMARKS.md").read_text()
    measured = json.loads((ROOT / "benchmarks" / "data.json").read_text())
    assert not measured["source"].startswith("/")
