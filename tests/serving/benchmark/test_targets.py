"""Ranges, ratios and targets of invented measurements."""

import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from serving.benchmark.server import contenders
from serving.benchmark.targets import rows_of, tables


@pytest.fixture
def measured():
    """Measurements of all contenders in three rounds; in one the machine is half as fast."""
    slow = np.array([1.0, 2.0, 1.0])

    def of(name):
        p50, rate = {
            "engine x1": (4.0, 250.0),
            "gRPC x1": (4.8, 200.0),
            "gRPC baseline x1": (0.7, 1400.0),
            "REST x1": (6.5, 150.0),
            "REST baseline x1": (0.9, 1100.0),
            "engine x2": (5.0, 400.0),
            "gRPC x4": (9.0, 380.0),
            "REST x8": (9.0, 352.0),
            "batching gRPC x1": (5.0, 190.0),
            "adaptive gRPC x1": (4.8, 200.0),
            "engine of 8 x1": (16.0, 500.0),
            "engine of 8 x2": (26.0, 600.0),
            "gRPC x16": (40.0, 370.0),
            "batching gRPC x16": (30.0, 481.0),
            "adaptive gRPC x16": (38.0, 407.0),
        }.get(name, (10.0, 100.0))
        return {
            "p50_ms": (p50 * slow).tolist(),
            "images_per_second": (rate / slow).tolist(),
            "caller_cores": [0.2, 0.1, 0.3],
        }

    counted = [contender.name for contender in contenders(batching=True)]
    # Of any machine, whatever this one's cores are.
    return {name: of(name) for name in {*counted, "engine of 8 x2"}}


def found(measured):
    return {row["name"]: row for row in rows_of(measured)}


def test_overhead_is_the_median_of_the_rounds_differences(measured):
    rows = found(measured)
    assert rows["engine, p50"]["value"] == 4.0
    grpc = rows["gRPC beyond the engine"]
    assert grpc["value"] == pytest.approx(0.8)
    assert (grpc["low"], grpc["high"]) == (pytest.approx(0.8), pytest.approx(1.6))
    assert (grpc["target"], grpc["met"]) == ("<= 1.00", True)
    rest = rows["REST beyond the engine"]
    assert (rest["value"], rest["target"], rest["met"]) == (pytest.approx(2.5), "<= 2.00", False)
    client = rows["Client over gRPC beyond the engine"]
    assert (client["value"], client["target"], client["met"]) == (pytest.approx(6.0), "", None)


def test_the_baseline_follows_the_overhead_that_it_is_part_of(measured):
    names = list(found(measured))
    for transport, baseline in (("gRPC", 0.7), ("REST", 0.9)):
        name = f"{transport} library alone, p50"
        assert names.index(name) == names.index(f"{transport} beyond the engine") + 1
        row = found(measured)[name]
        assert (row["value"], row["unit"]) == (pytest.approx(baseline), "ms")
        assert (row["target"], row["met"]) == ("", None)


def test_the_servers_own_share_has_a_target(measured):
    rows = found(measured)
    grpc, rest = (rows[f"{name} beyond the engine and the library"] for name in ("gRPC", "REST"))
    assert grpc["value"] == pytest.approx(4.8 - 4.0 - 0.7)
    assert (rest["value"], rest["high"]) == (pytest.approx(6.5 - 4.0 - 0.9), pytest.approx(3.2))
    assert [(row["target"], row["met"]) for row in (grpc, rest)] == [
        ("<= 1.00", True),
        ("<= 1.00", False),
    ]


def test_figures_from_before_the_baselines_are_read(measured):
    older = {name: values for name, values in measured.items() if "baseline" not in name}
    assert set(found(measured)) - set(found(older)) == {
        "gRPC library alone, p50",
        "REST library alone, p50",
        "gRPC beyond the engine and the library",
        "REST beyond the engine and the library",
    }


def test_the_earlier_name_of_the_baselines_is_read(measured):
    earlier = {name.replace(" baseline ", " floor "): one for name, one in measured.items()}
    assert earlier.keys() != measured.keys()
    assert rows_of(earlier) == rows_of(measured)


def test_saturation_compares_the_best_number_of_callers(measured):
    rows = found(measured)
    assert rows["engine x2"]["value"] == 400
    # Both are slow in the slow round, so that the interval has no width.
    grpc, rest = rows["gRPC relative to the engine"], rows["REST relative to the engine"]
    assert (grpc["value"], grpc["low"], grpc["high"]) == pytest.approx((0.95, 0.95, 0.95))
    assert (grpc["target"], grpc["met"]) == (">= 0.90", True)
    assert rest["value"] == pytest.approx(0.88)
    assert rest["met"] is False
    assert rows["gRPC: used by the callers"]["value"] == 0.2


def test_batching_has_the_gain_of_the_engine_as_its_target(measured):
    rows = found(measured)
    assert rows["engine, 8 images per call to 1, one caller"]["value"] == pytest.approx(2.0)
    assert rows["engine, 8 images per call to 1, all cores"]["value"] == pytest.approx(1.5)
    one = rows["--enable_batching, 1 caller, p50"]
    assert (one["value"], one["met"]) == (pytest.approx(0.96), False)
    assert rows["--adaptive_batching, 1 caller, p50"]["met"] is True
    assert rows["--enable_batching, 1 caller, images/s"]["value"] == pytest.approx(0.95)
    many = rows["--enable_batching, 16 callers, images/s"]
    assert (many["value"], many["target"], many["met"]) == (pytest.approx(1.3), ">= 1.20", True)
    assert rows["--adaptive_batching, 16 callers, images/s"]["met"] is False


def test_an_engine_without_a_gain_sets_no_target(measured):
    measured["engine of 8 x1"] = measured["engine of 8 x2"] = measured["engine x2"]
    row = found(measured)["--adaptive_batching, 16 callers, images/s"]
    assert (row["value"], row["target"], row["met"]) == (pytest.approx(1.1), "", None)


def test_one_caller_is_not_slower_when_the_interval_reaches_1(measured):
    rates, shares = np.array(measured["gRPC x1"]["images_per_second"]), [0.97, 1.01, 0.97]
    measured["adaptive gRPC x1"]["images_per_second"] = (rates * shares).tolist()
    row = found(measured)["--adaptive_batching, 1 caller, images/s"]
    limits = stats.ttest_1samp(np.log(shares), 0.0).confidence_interval(0.95)
    assert row["value"] == pytest.approx(stats.gmean(shares))
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.exp(limits)))
    assert (row["target"], row["met"]) == ("interval reaches 1.00", True)


def test_without_batching_there_is_no_such_part(measured):
    fewer = {contender.name: measured[contender.name] for contender in contenders(batching=False)}
    assert {row["part"] for row in rows_of(fewer)} == {"one caller", "all cores busy"}


def test_the_table_shows_which_targets_are_met(measured):
    figures = {
        "machine": {"cpu": "Abacus", "cores": "2"},
        "model": "digits",
        "source": "seven.jpg",
        "images": 1,
        "mean_kb": 23.4,
        "seconds": 0.5,
        "rounds": 3,
        "variants": {"saved_model": {"rows": rows_of(measured), "turns": measured}},
    }
    console = Console(width=130, record=True, file=io.StringIO())
    console.print(tables(figures))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[0].startswith("Abacus, 2 cores; images: seven.jpg, 23.4 kB on average; 3")
    assert "digits, saved_model" in lines
    assert "gRPC beyond the engine 0.800 ms 0.800..1.600 <= 1.00 yes" in lines
    assert "REST beyond the engine 2.500 ms 2.500..5.000 <= 2.00 no" in lines
    assert "gRPC relative to the engine 0.950 0.950 to 0.950 >= 0.90 yes" in lines
    assert "all cores busy engine x2 400.0 images/s 200.0..400.0" in lines
