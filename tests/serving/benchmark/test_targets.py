"""Ranges, ratios and targets of made-up turns."""

import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from serving.benchmark.server import things
from serving.benchmark.targets import rows_of, tables


@pytest.fixture
def turns():
    """Three rounds in which the machine is once twice as slow; `things` names what takes part."""
    slow = np.array([1.0, 2.0, 1.0])

    def of(name):
        p50, rate = {
            "engine x1": (4.0, 250.0),
            "gRPC x1": (4.8, 200.0),
            "gRPC floor x1": (0.7, 1400.0),
            "REST x1": (6.5, 150.0),
            "REST floor x1": (0.9, 1100.0),
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

    counted = [thing.name for thing in things(batching=True)]
    # Of any machine, whatever this one's cores are.
    return {name: of(name) for name in {*counted, "engine of 8 x2"}}


def found(turns):
    return {row["name"]: row for row in rows_of(turns)}


def test_overhead_is_the_median_of_the_rounds_differences(turns):
    rows = found(turns)
    assert rows["engine, p50"]["value"] == 4.0
    grpc = rows["gRPC beyond the engine"]
    assert grpc["value"] == pytest.approx(0.8)
    assert (grpc["low"], grpc["high"]) == (pytest.approx(0.8), pytest.approx(1.6))
    assert (grpc["target"], grpc["met"]) == ("<= 1.00", True)
    rest = rows["REST beyond the engine"]
    assert (rest["value"], rest["target"], rest["met"]) == (pytest.approx(2.5), "<= 2.00", False)
    client = rows["Client over gRPC beyond the engine"]
    assert (client["value"], client["target"], client["met"]) == (pytest.approx(6.0), "", None)


def test_the_floor_stands_behind_what_it_is_part_of(turns):
    names = list(found(turns))
    for transport, floor in (("gRPC", 0.7), ("REST", 0.9)):
        name = f"of that {transport}'s library alone, p50"
        assert names.index(name) == names.index(f"{transport} beyond the engine") + 1
        row = found(turns)[name]
        assert (row["value"], row["unit"]) == (pytest.approx(floor), "ms")
        assert (row["target"], row["met"]) == ("", None)


def test_what_is_neither_the_engine_nor_the_library_has_a_target(turns):
    rows = found(turns)
    grpc, rest = (rows[f"{name} beyond the engine and its library"] for name in ("gRPC", "REST"))
    assert grpc["value"] == pytest.approx(4.8 - 4.0 - 0.7)
    assert (rest["value"], rest["high"]) == (pytest.approx(6.5 - 4.0 - 0.9), pytest.approx(3.2))
    assert [(row["target"], row["met"]) for row in (grpc, rest)] == [
        ("<= 1.00", True),
        ("<= 1.00", False),
    ]


def test_figures_of_before_there_were_floors_are_read(turns):
    older = {name: values for name, values in turns.items() if "floor" not in name}
    assert set(found(turns)) - set(found(older)) == {
        "of that gRPC's library alone, p50",
        "of that REST's library alone, p50",
        "gRPC beyond the engine and its library",
        "REST beyond the engine and its library",
    }


def test_saturation_compares_the_best_of_each(turns):
    rows = found(turns)
    assert rows["engine x2"]["value"] == 400
    # Round by round: the slow one slows both, and the interval has no width.
    grpc, rest = rows["gRPC of the engine"], rows["REST of the engine"]
    assert (grpc["value"], grpc["low"], grpc["high"]) == pytest.approx((0.95, 0.95, 0.95))
    assert (grpc["target"], grpc["met"]) == (">= 0.90", True)
    assert rest["value"] == pytest.approx(0.88)
    assert rest["met"] is False
    assert rows["gRPC: the callers' own use"]["value"] == 0.2


def test_batching_is_asked_for_what_the_engine_gains(turns):
    rows = found(turns)
    assert rows["engine, 8 a call to 1, one caller"]["value"] == pytest.approx(2.0)
    assert rows["engine, 8 a call to 1, all cores"]["value"] == pytest.approx(1.5)
    one = rows["--enable_batching, 1 caller, p50"]
    assert (one["value"], one["met"]) == (pytest.approx(0.96), False)
    assert rows["--adaptive_batching, 1 caller, p50"]["met"] is True
    assert rows["--enable_batching, 1 caller, images/s"]["value"] == pytest.approx(0.95)
    many = rows["--enable_batching, 16 callers, images/s"]
    assert (many["value"], many["target"], many["met"]) == (pytest.approx(1.3), ">= 1.20", True)
    assert rows["--adaptive_batching, 16 callers, images/s"]["met"] is False


def test_an_engine_that_gains_nothing_sets_no_target(turns):
    turns["engine of 8 x1"] = turns["engine of 8 x2"] = turns["engine x2"]
    row = found(turns)["--adaptive_batching, 16 callers, images/s"]
    assert (row["value"], row["target"], row["met"]) == (pytest.approx(1.1), "", None)


def test_one_caller_is_not_slower_when_the_interval_reaches_1(turns):
    rates, shares = np.array(turns["gRPC x1"]["images_per_second"]), [0.97, 1.01, 0.97]
    turns["adaptive gRPC x1"]["images_per_second"] = (rates * shares).tolist()
    row = found(turns)["--adaptive_batching, 1 caller, images/s"]
    limits = stats.ttest_1samp(np.log(shares), 0.0).confidence_interval(0.95)
    assert row["value"] == pytest.approx(stats.gmean(shares))
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.exp(limits)))
    assert (row["target"], row["met"]) == ("interval reaches 1.00", True)


def test_without_batching_nothing_is_said_of_it(turns):
    fewer = {thing.name: turns[thing.name] for thing in things(batching=False)}
    assert {row["part"] for row in rows_of(fewer)} == {"one caller", "all cores busy"}


def test_the_table_says_what_is_met(turns):
    figures = {
        "machine": {"cpu": "Abacus", "cores": "2"},
        "model": "digits",
        "source": "seven.jpg",
        "images": 1,
        "mean_kb": 23.4,
        "seconds": 0.5,
        "rounds": 3,
        "variants": {"saved_model": {"rows": rows_of(turns), "turns": turns}},
    }
    console = Console(width=130, record=True, file=io.StringIO())
    console.print(tables(figures))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[0].startswith("Abacus, 2 cores; images: seven.jpg, 23.4 kB on average; 3")
    assert "digits, saved_model" in lines
    assert "gRPC beyond the engine 0.800 ms 0.800..1.600 <= 1.00 yes" in lines
    assert "REST beyond the engine 2.500 ms 2.500..5.000 <= 2.00 no" in lines
    assert "gRPC of the engine 0.950 0.950 to 0.950 >= 0.90 yes" in lines
    assert "all cores busy engine x2 400.0 images/s 200.0..400.0" in lines
