import numpy as np
import pytest
from scipy import stats

from serving.benchmark.loadtest import LoadError, LoadPlan, LoadTarget, Requests
from serving.benchmark.loadtest.plan import draw_requests, poisson_arrivals
from serving.benchmark.loadtest.run import _split


def test_arrivals_are_a_poisson_process():
    arrivals = poisson_arrivals(200.0, 60.0, seed=3)
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals[0] >= 0
    assert arrivals[-1] < 60
    gaps = np.diff(arrivals)
    assert stats.kstest(gaps, "expon", args=(0, 1 / 200)).pvalue > 0.05
    # Gaps that follow each other know nothing of one another.
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 3 / np.sqrt(len(gaps))


def test_even_arrivals_would_be_found_out():
    assert stats.kstest(np.full(1000, 0.005), "expon", args=(0, 1 / 200)).pvalue < 1e-6


def test_counts_vary_as_poisson_counts_do():
    counts = [len(poisson_arrivals(50.0, 2.0, seed)) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(100, abs=2)
    assert np.var(counts) == pytest.approx(100, rel=0.25)


def test_the_seed_decides():
    assert (poisson_arrivals(9, 9, 1) == poisson_arrivals(9, 9, 1)).all()
    assert len(poisson_arrivals(9, 9, 1)) != len(poisson_arrivals(9, 9, 2))
    assert (draw_requests(50, 7, 1) == draw_requests(50, 7, 1)).all()
    assert set(draw_requests(500, 7, 1)) == set(range(7))


def test_processes_share_one_schedule():
    target = LoadTarget("http://h", "m")
    jobs = _split(target, Requests((b"a", b"b")), LoadPlan(rate=100, seconds=3, processes=3))
    together = np.sort(np.concatenate([job.arrivals for job in jobs]))
    assert (together == poisson_arrivals(100, 5, 0)).all()
    assert all(len(job.arrivals) == len(job.numbers) for job in jobs)
    assert sum(job.max_in_flight for job in jobs) == 512
    closed = _split(target, Requests((b"a",)), LoadPlan(clients=5, processes=2))
    assert [job.clients for job in closed] == [3, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give either"),
        ({"rate": 1, "clients": 1}, "give either"),
        ({"rate": 0}, "`rate` must be above 0, got 0"),
        ({"rate": float("nan")}, "`rate`"),
        ({"clients": -1}, "`clients`"),
        ({"rate": 1, "seconds": 0}, "`seconds`"),
        ({"rate": 1, "warm_up_s": -1}, "`warm_up_s`"),
        ({"rate": 1, "processes": 0}, "`processes` must be 1 to 512"),
        ({"clients": 2, "processes": 3}, "`processes` must be 1 to 2"),
    ],
)
def test_plans_out_of_range(options, words):
    with pytest.raises(LoadError, match=words):
        LoadPlan(**options)


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("localhost:8501", {}, "http://host:8501"),
        ("ftp://h", {}, "not a server address"),
        ("http://", {}, "not a server address"),
        ("http://h:x", {}, "not a server address"),
        ("http://h:99999", {}, "not a server address"),
        ("http://h/v1/models/m", {}, "the model as --model"),
        ("grpc://h", {"verb": "classify"}, "over grpc must be predict"),
        ("http://h", {"verb": "train"}, "'train'"),
        ("http://h", {"model": ""}, "no model is given"),
        ("http://h", {"version": 1, "label": "x"}, "not both; got 1 and 'x'"),
        ("http://h", {"headers": (("a", "b\r\nc: d"),)}, "the header 'a' cannot be sent"),
        ("http://h", {"headers": (("a b", "c"),)}, "the header 'a b'"),
        ("http://h", {"headers": (("", "b"),)}, "write `Name: value`"),
        ("http://h", {"headers": (("Content-Length", "1"),)}, "except for content-length"),
        ("https://h", {"ca_file": "no/such.pem"}, "no/such.pem does not exist"),
        ("grpc://h", {"ca_file": "no/such.pem"}, "is not encrypted"),
    ],
)
def test_targets_that_cannot_be(url, options, words):
    with pytest.raises(LoadError, match=words):
        LoadTarget(**{"url": url, "model": "m", **options})


def test_addresses():
    assert LoadTarget("http://[::1]", "a/b", version=3).authority == "[::1]:8501"
    assert LoadTarget("http://h:1", "a/b", version=3).path == "/v1/models/a%2Fb/versions/3:predict"
    assert LoadTarget("grpc://h", "m").port == LoadTarget("grpcs://h", "m").port == 8500
    assert LoadTarget("grpcs://h", "m").is_grpc
    assert LoadTarget("http://h", "m", label="a/b").path == "/v1/models/m/labels/a%2Fb:predict"
