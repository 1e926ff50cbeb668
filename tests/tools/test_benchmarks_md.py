"""BENCHMARKS.md matches its results."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from serving.benchmark.targets import rows_of

ROOT = Path(__file__).resolve().parents[2]


def load():
    spec = importlib.util.spec_from_file_location("page", ROOT / "tools" / "benchmarks_md.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIGURES = {
    "machine": {"cpu": "Abacus", "cores": 2},
    "source": "../images.tar",
    "images": 3,
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


def test_ratios_are_of_the_rounds_with_their_interval():
    page = load().data_section(FIGURES)
    assert "`sightline benchmark data images.tar`: 3 JPEGs of 1.5 kB" in page
    assert "224 x 192 px, 3 interleaved rounds on 2 cores of Abacus" in page
    limits = stats.ttest_1samp(np.log([0.8, 0.4, 0.6]), 0.0).confidence_interval(0.95)
    low, high = np.exp(limits)
    assert f"| evaluation | 80 | 60 | 80 | 0.58 | {low:.2f} to {high:.2f} | >= 0.70 |" in page
    assert "| decode_jpeg alone | 100 | 100 | 200 | 1.00 |  |  |" in page
    assert "| ingest | 50 | 50 | 50 | 0.50 |  |  |" in page
    assert "700 MB with 320 MiB of records, 1,710 MB with ten times" in page


def test_figures_of_an_earlier_version_are_read(tmp_path):
    former = {"pictures" if key == "images" else key: value for key, value in FIGURES.items()}
    (tmp_path / "data.json").write_text(json.dumps(former))
    load().main(tmp_path, tmp_path / "page.md")
    assert "images.tar`: 3 JPEGs of 1.5 kB" in (tmp_path / "page.md").read_text()


def test_the_committed_page_matches_the_committed_results(tmp_path):
    load().main(ROOT / "benchmarks", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == (ROOT / "BENCHMARKS.md").read_text()
    for file in (ROOT / "benchmarks").glob("*.json"):
        # No path of the machine that measured.
        assert '"/' not in file.read_text(), file.name


def test_committed_intervals_are_of_the_committed_rounds():
    def read(name):
        return json.loads((ROOT / "benchmarks" / name).read_text())

    for variant in read("serving.json")["variants"].values():
        assert variant["rows"] == [
            {**row, **{end: pytest.approx(row[end]) for end in ("value", "low", "high")}}
            for row in rows_of(variant["turns"])
        ]
    training = read("train.json")
    base = training["contenders"][training["against"]]["step_seconds"]
    for found in training["contenders"].values():
        logs = np.log(np.divide(found["step_seconds"], base))
        reach = stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs)
        ends = np.exp([logs.mean(), logs.mean() - reach, logs.mean() + reach])
        assert found["ratio"] == pytest.approx(ends.tolist())
    study = read("cifar10.json")
    for run in study["runs"].values():
        total, right = study["examples"]["test"], run["test_top1"][0] * study["examples"]["test"]
        exact = stats.binomtest(round(right), total).proportion_ci(method="exact")
        assert run["test_top1"][1:] == pytest.approx([exact.low, exact.high])


def test_a_study_shows_runs_and_pairs():
    run = {
        "test_top1": [0.7125, 0.692, 0.7315],
        "epochs": 14,
        "parameters": 1_084_586,
        "multiply_adds": 41_256_192,
        "seconds": 1200.0,
        "cpu_seconds": 1500.0,
    }
    pair = {"a": "x-0", "b": "y-0", "difference": [0.021, 0.001, 0.04], "p_value": 0.0312}
    page = load().study_section(
        {
            "machine": {"cpu": "Abacus", "cores": 2},
            "examples": {"train": 9016, "validation": 984, "test": 2000},
            "runs": {"x-0": run},
            "pairs": [pair],
        }
    )
    assert "| x-0 | 1.08 | 41 | 14 | 71.2% | 69.2% to 73.2% | 20 | 12 |" in page
    assert "| x-0 - y-0 | +2.1 points | +0.1 to +4.0 | 0.031 |" in page


def test_models_are_shown_with_published_figures():
    known = {"parameters": 25.557, "giga_multiply_adds": 4.09, "source": "who", "whole": False}
    row = {
        "model": "net",
        "image_size": [224, 224],
        "parameters": 25_557_032,
        "multiply_adds": 4_089_184_256,
        "published": known,
    }
    page = load().models_section([row])
    wanted = "| net | 224 | 25.56 | 25.56 | 4.09 | 4.09 | who; ours has one dense layer |"
    assert wanted in page


def test_training_steps_show_the_ratio_with_its_interval():
    figures = {
        "machine": {"cpu": "Abacus", "cores": 2},
        "model": "ours",
        "against": "theirs",
        "image_size": 224,
        "batch": 16,
        "rounds": 3,
        "steps": 4,
        "contenders": {
            "ours": {
                "step_seconds": [1.0, 1.2, 1.1],
                # As an older version wrote it; the page is of the rounds.
                "ratio": [0.95, 0.91, 0.99],
                "stall": 0.012,
                "peak_mb": 2345.6,
            },
            "theirs": {"step_seconds": [1.0, 1.0, 1.25], "stall": 0.0, "peak_mb": 2000.0},
        },
    }
    page = load().training_section(figures)
    limits = stats.ttest_1samp(np.log([1.0, 1.2, 0.88]), 0.0).confidence_interval(0.95)
    low, high = np.exp(limits)
    assert f"| ours | 1,100 | 1.018 | {low:.3f} to {high:.3f} | 1.2% | 2,346 |" in page
    assert "| theirs | 1,000 | 1.000 |  | 0.0% | 2,000 |" in page


def test_the_server_is_shown_with_its_targets():
    names = ["gRPC x1", "gRPC floor x1", "REST x1", "Client over gRPC x1", "Client over REST x1"]
    turn = {"p50_ms": [1.2, 1.5], "images_per_second": [80.0, 90.0], "caller_cores": [0.2, 0.1]}
    engine = {**turn, "p50_ms": [1.0, 1.1], "images_per_second": [100.0, 120.0]}
    turns = {**dict.fromkeys(names, turn), "engine x1": engine}
    figures = {
        "machine": {"cpu": "Abacus", "cores": "2"},
        "model": "digits",
        "source": "a.jpg",
        "mean_kb": 23.4,
        "rounds": 2,
        "seconds": 0.5,
        "variants": {"ptq_int8": {"rows": [], "turns": turns}},
    }
    page = load().serving_section(figures)
    assert "`sightline benchmark serving digits`: images of 23.4 kB on average (a.jpg), 2" in page
    assert "interleaved rounds of 0.5 s on 2 cores of Abacus" in page
    assert "the median of the 2 rounds, with their minimum and maximum" in page
    assert "| ptq_int8 | | value | 95 % (ratios) or min..max | target | met |" in page
    assert "| one caller | engine, p50 | 1.050 ms | 1.000..1.100 |  |  |" in page
    assert "|  | gRPC beyond the engine | 0.300 ms | 0.200..0.400 | <= 1.00 | yes |" in page
    low, high = np.exp(stats.ttest_1samp(np.log([0.8, 0.75]), 0.0).confidence_interval(0.95))
    assert (
        f"|  | gRPC relative to the engine | 0.775 | {low:.3f} to {high:.3f} | >= 0.90 | no |"
        in page
    )


def test_a_load_test_shows_each_rate_with_its_intervals():
    percentile = {"value": 5.25, "low": 5.0, "high": None}
    run = {
        "plan": {"rate": 50.0, "seconds": 20.0},
        "source": "8 images",
        "achieved_rate": 49.96,
        "errors": {"503": 2, "deadline": 1},
        "latency_ms": dict.fromkeys(("p50", "p90", "p99", "p99.9"), percentile),
        "generator": {"lag_ms_p99": 0.44},
        "valid": True,
        "problems": [],
    }
    late = {**run, "valid": False, "problems": ["late", "busy"]}
    machine = {"cpu": "Abacus", "cores": "2"}
    page = load().loadtest_section({"machine": machine, "command": "load it", "runs": [run, late]})
    cells = " | ".join(["5.2 (5.0 to ?)"] * 4)
    assert "`load it`: Poisson arrivals over 20 s" in page
    assert f"| 50 | 50.0 | 3 | {cells} | 0.4 | yes |" in page
    assert f"| 50 | 50.0 | 3 | {cells} | 0.4 | no: late; busy |" in page


def test_a_soak_test_shows_its_criteria_and_results():
    row = {"name": "p99", "found": "2 x", "allowed": "1.5 x"}
    figures = {
        "machine": {"cpu": "Abacus", "cores": "2"},
        "options": {
            "model_dir": "/far/away/net",
            "seconds": 1800.0,
            "rate": 20.0,
            "swap_s": 10.0,
            "malformed_s": 20.0,
        },
        "swap_seconds": [1.0, 3.0, 2.5],
        "criteria": [
            {**row, "passed": False, "judged": True},
            {**row, "passed": True, "judged": True},
            {**row, "passed": True, "judged": False},
        ],
    }
    page = load().soak_section(figures)
    assert "`python -m serving.benchmark.loadtest.soak net`: 1800 s of 20 requests/s" in page
    assert "A swap took 2.50 s (1.00 to 3.00)." in page
    for met in ("no", "yes", "not judged"):
        assert f"| p99 | 2 x | 1.5 x | {met} |" in page


def test_small_data_sets_are_shown_with_their_baseline():
    found = {
        "train": 300,
        "test": 430,
        "top1": 0.615,
        "interval": [0.567, 0.661],
        "each": [0.6, 0.61, 0.62, 0.63, 0.615],
        "seconds": [100.0, 120.0],
        "cpu_seconds": [180.0, 200.0],
        "baseline": {
            "top1": [0.4, 0.5],
            "difference": [0.165, 0.11, 0.22],
            "mcnemar_p": 3.2e-8,
        },
    }
    machine = {"cores": 2, "cpu": "a processor"}
    page = load().small_data_section({"machine": machine, "sets": {"signs": found}})
    assert "| signs | 300 | 5 | 430 | 0.615 | 0.567 to 0.661 | 110 | 190 |" in page
    assert "has 0.450; the difference over all test images is +0.165" in page
    assert "(95 % interval +0.110 to +0.220, McNemar p 3.2e-08)" in page


def test_agreement_has_the_exact_interval():
    rows = [
        {"dtype": "int8", "photos": "all", "agree": 19, "of": 20},
        {"dtype": "int8", "photos": "not calibrated on", "agree": 0, "of": 0},
    ]
    machine = {"cpu": "Abacus", "cores": "2"}
    figures = {"model": "lite", "machine": machine, "calibration": 7, "rows": rows}
    page = load().agreement_section(figures)
    limits = stats.binomtest(19, 20).proportion_ci(0.95, method="exact")
    assert f"| int8 | all | 19 | 20 | 95.00% | {limits.low:.1%} to {limits.high:.1%} |" in page
    assert "| int8 | not calibrated on | 0 | 0 |  |  |" in page
    assert "calibrated on 7 images, on 2 cores of Abacus" in page
