"""The search against a queue in virtual time, whose maximum rate is known in closed form."""

import math

import numpy as np
import pytest

from serving.benchmark.loadtest import (
    LoadError,
    LoadPlan,
    LoadResult,
    LoadTarget,
    Requests,
    find_max,
    search,
)
from serving.benchmark.loadtest.plan import poisson_arrivals
from serving.benchmark.loadtest.quantiles import meets_bound

TARGET = LoadTarget("http://h", "m")
REQUESTS = Requests((b"{}",))
CAPACITY = 100.0


def simulated(plan, *, capacity=CAPACITY, lag_ms=0.0):
    """An M/M/1 queue by Lindley's recursion."""
    arrivals = poisson_arrivals(plan.rate, plan.total_s, plan.seed)
    services = np.random.default_rng([plan.seed, 9]).exponential(1 / capacity, len(arrivals))
    free, latency = 0.0, np.zeros(len(arrivals))
    for i, (at, service) in enumerate(zip(arrivals, services, strict=True)):
        free = max(at, free) + service
        latency[i] = (free - at) * 1000
    lag = np.full(len(arrivals), lag_ms)
    codes = np.full(len(arrivals), "OK")
    return LoadResult(TARGET, plan, "simulation", arrivals, lag, latency + lag, codes)


@pytest.fixture
def queue(monkeypatch):
    def use(**options):
        fake = lambda target, requests, plan, on_progress=None: simulated(plan, **options)  # noqa: E731
        monkeypatch.setattr(search, "run_load", fake)
        monkeypatch.setattr(search, "_PAUSE_S", 0.0)

    return use


def test_it_finds_the_rate_that_theory_gives(queue):
    queue()
    bound_ms = 150.0
    # The time in an M/M/1 system is exponential with rate capacity - arrivals.
    expected = CAPACITY - math.log(100) / (bound_ms / 1000)
    plan = LoadPlan(rate=5, seconds=600, warm_up_s=5)
    found = find_max(TARGET, REQUESTS, plan, bound_ms=bound_ms)
    # Below it, as each step has to prove its claim; the tolerance is 5 %.
    assert 0.8 * expected < found.rate < 1.03 * expected
    rates = [step.plan.rate for step in found.steps]
    assert rates[:5] == [5, 10, 20, 40, 80]
    passing = max((s for s in found.steps if found.passed(s)), key=lambda s: s.plan.rate)
    assert passing.plan.rate == found.rate
    assert not found.is_limited_by_generator
    assert len({step.plan.seed for step in found.steps}) == len(rates), "steps are independent"


def test_steps_are_long_enough_for_the_claim(queue):
    queue()
    found = find_max(TARGET, REQUESTS, LoadPlan(rate=40, seconds=1), bound_ms=200)
    assert found.min_queries == 1307
    assert all(step.requests >= found.min_queries for step in found.steps)
    assert all(
        found.passed(s) == meets_bound(s.requests, int((s.ordered_ms > 200).sum()), 99)
        for s in found.steps
    )


def test_a_first_rate_that_is_too_much_is_halved(queue):
    queue()
    found = find_max(TARGET, REQUESTS, LoadPlan(rate=400, seconds=60), bound_ms=200)
    assert [s.plan.rate for s in found.steps[:4]] == [400, 200, 100, 50]
    assert 50 <= found.rate < 90


def test_a_bound_that_no_rate_meets_ends(queue):
    queue()
    found = find_max(TARGET, REQUESTS, LoadPlan(rate=50, seconds=1), bound_ms=1.0)
    assert found.rate == 0
    assert len(found.steps) < 6


def test_the_generators_limit_is_not_the_servers(queue):
    queue(capacity=1e9, lag_ms=30.0)
    found = find_max(TARGET, REQUESTS, LoadPlan(rate=50, seconds=1), bound_ms=20)
    assert found.rate == 0
    assert found.is_limited_by_generator


@pytest.mark.parametrize("options", [{"bound_ms": 0}, {"bound_ms": 1, "percent": 100}])
def test_bad_arguments(options):
    with pytest.raises(LoadError, match="above 0 ms"):
        find_max(TARGET, REQUESTS, LoadPlan(rate=1), **options)
