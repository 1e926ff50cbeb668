"""A canary's share, and shadow traffic: chosen, bounded, compared."""

import asyncio
import contextlib
import json
import math
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server.errors import ServerError, ServingError, invalid
from serving.server.extras.hooks import Exchange, Hooks
from serving.server.extras.shadow import Shadow, compare, read_shadow
from serving.server.extras.side_thread import SideThread
from serving.server.extras.traffic import Canary, read_split, share_point
from serving.server.http.pages import REPORT_PATH, shadow_page
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import EngineCall

WAIT = 20


class Models:
    """Versions by label or number; an engine is a function on arrays."""

    def __init__(self, **labels):
        self.labels = labels

    @contextlib.contextmanager
    def use(self, name, version=None, label=None):
        found = self.labels.get(label or str(version))
        if found is None:
            raise invalid("no such version")
        yield found


def servable(version, function=None):
    def run_tensors(feeds, fetches):
        return function(**feeds)

    engine = SimpleNamespace(run_tensors=run_tensors)
    return SimpleNamespace(name="m", version=version, engine=engine, batching=None)


def predict(servable, signature, inputs, output_filter):
    return (yield EngineCall(servable, inputs, ()))


def canary(split="m=stable:90,canary:10", **labels):
    labels = labels or {"stable": servable(1), "canary": servable(2)}
    metrics = Metrics()
    draws = iter(np.linspace(0, 1, 1000, endpoint=False))
    return Canary([read_split(split)], Models(**labels), metrics, draw=lambda: next(draws)), metrics


def test_shares_without_an_id():
    chooser, metrics = canary()
    chosen = Counter(chooser.choose("m", {}) for _ in range(1000))
    assert chosen == {(None, "stable"): 900, (None, "canary"): 100}
    assert 'canary_count{model_name="m",label="canary"} 100' in metrics.text()


def test_an_id_always_goes_to_the_same_side_and_shares_hold():
    chooser, _ = canary()
    first = [chooser.choose("m", {"x-request-id": str(i)}) for i in range(4000)]
    again = [chooser.choose("m", {"x-request-id": str(i)}) for i in range(4000)]
    assert first == again
    # A binomial share of 4,000 lies within four of its standard deviations.
    canaries = sum(label == "canary" for _, label in first)
    assert abs(canaries - 400) < 4 * math.sqrt(4000 * 0.1 * 0.9)


def test_a_larger_share_keeps_those_who_were_in_it():
    small, large = canary()[0], canary("m=stable:80,canary:20")[0]
    ids = [{"x-request-id": str(i)} for i in range(2000)]
    before = {i for i, h in enumerate(ids) if small.choose("m", h)[1] == "canary"}
    after = {i for i, h in enumerate(ids) if large.choose("m", h)[1] == "canary"}
    assert before < after


@given(st.text(), st.text(max_size=5))
def test_points_lie_in_the_unit_interval(identity, model):
    assert 0 <= share_point(model, identity) < 1


def test_versions_by_number():
    chooser, _ = canary("m=3:1,4:0", **{"3": servable(3), "4": servable(4)})
    assert chooser.choose("m", {}) == (3, None)


def test_the_share_of_an_unserved_version_goes_to_the_largest():
    chooser, metrics = canary(stable=servable(1))
    assert {chooser.choose("m", {}) for _ in range(1000)} == {(None, "stable")}
    assert "canary" not in metrics.text().replace("canary_count", "")


def test_other_models_and_named_versions_are_left_alone():
    chooser, _ = canary("m=canary:1,stable:0")
    hooks = Hooks(canary=chooser)
    assert hooks.choose_version("other", None, None, {}) == (None, None)
    assert hooks.choose_version("m", 1, None, {}) == (1, None)
    assert hooks.choose_version("m", None, "stable", {}) == (None, "stable")
    assert hooks.choose_version("m", None, None, {}) == (None, "canary")


@pytest.mark.parametrize(
    "text", ["m", "m=a", "m=a:1", "m=a:1,b", "m=a:1,a:2", "m=a:0,b:0", "=a:1,b:1", "m=a:-1,b:1"]
)
def test_splits_that_make_no_sense(text):
    with pytest.raises(ServerError, match="--canary"):
        read_split(text)


def test_one_split_a_model():
    splits = [read_split("m=a:1,b:1")] * 2
    with pytest.raises(ServerError, match="twice"):
        Canary(splits, Models(), Metrics())


@pytest.mark.parametrize("text", ["m", "m=", "m=a:101", "m=a:x", "=a"])
def test_shadows_that_make_no_sense(text):
    with pytest.raises(ServerError, match="--shadow must be"):
        read_shadow(text)


def top_k(classes, scores):
    return {"classes": np.array(classes), "scores": np.array(scores, np.float32)}


@pytest.mark.parametrize(
    ("served", "other", "rows", "wrong", "score"),
    [
        # The second row's best classes are swapped; class 1 scores 0.6 and 0.3.
        (
            top_k([[0, 1], [1, 2]], [[0.9, 0.1], [0.6, 0.4]]),
            top_k([[0, 1], [2, 1]], [[0.8, 0.2], [0.7, 0.3]]),
            2,
            1,
            0.3,
        ),
        # Scores of classes that only one side lists say nothing.
        (top_k([[5]], [[0.9]]), top_k([[6]], [[0.2]]), 1, 1, 0.0),
        ({"p": np.array([[0.2, 0.8]])}, {"p": np.array([[0.6, 0.4]])}, 1, 1, 0.4),
        ({"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, 2.5])}, 0, 0, 0.5),
        ({"y": np.array([1.0])}, {"z": np.array([9.0])}, 0, 0, 0.0),
        ({"y": np.zeros((0, 3))}, {"y": np.zeros((0, 3))}, 0, 0, 0.0),
        (
            {"labels": np.array([[b"a"], [b"b"]], object)},
            {"labels": np.array([[b"a"], [b"c"]], object)},
            2,
            1,
            0.0,
        ),
        # Another number of classes: no rows side by side.
        ({"y": np.zeros((2, 3))}, {"y": np.zeros((1, 3))}, 0, 0, 0.0),
    ],
)
def test_compare(served, other, rows, wrong, score):
    difference = compare(served, other)
    assert (difference.rows, difference.top1_disagreements) == (rows, wrong)
    assert difference.score == pytest.approx(score, abs=1e-6)


def scores_of(values):
    return lambda x: {"scores": np.array([values] * len(x), np.float32)}


def exchange(values=(0.2, 0.8), version=1):
    inputs = {"x": np.zeros((2, 1), np.float32)}
    outputs = scores_of(values)(**inputs)
    return Exchange("Predict", servable(version), "", inputs, outputs)


def shadow_of(spec="m=candidate", *, draw=lambda: 0.0, max_waiting=32, **labels):
    metrics = Metrics()
    made = Shadow(
        [read_shadow(spec)],
        Models(**labels),
        metrics,
        predict=predict,
        draw=draw,
        max_waiting=max_waiting,
    )
    return made, metrics


def drained(shadow):
    shadow._thread.close(drain=True)
    return shadow.reports()["m"]


def test_a_shadow_reports_what_differs():
    shadow, metrics = shadow_of(candidate=servable(2, scores_of((0.7, 0.3))))
    shadow(exchange())
    shadow(exchange((0.7, 0.25)))
    report = drained(shadow)
    assert report["max_score_difference"] == pytest.approx(0.5, abs=1e-6)
    kept = ("requests", "rows", "top1_disagreements", "requests_that_differ", "versions")
    assert [report[key] for key in kept] == [2, 4, 2, 1, [(1, 2)]]
    # The second agrees on the class, and its scores are others.
    assert report["requests_of_other_values"] == 2
    assert 'shadow_count{model_name="m",outcome="disagreed"} 2' in metrics.text()
    assert 'shadow_latency_count{model_name="m"} 2' in metrics.text()
    response = asyncio.run(shadow_page(shadow)("GET", REPORT_PATH, {}, b""))
    assert json.loads(response.body)["m"]["requests"] == 2
    assert asyncio.run(shadow_page(shadow)("GET", "/v1/models/m", {}, b"")) is None


def test_only_a_share_is_copied_and_nothing_to_itself():
    draws = iter([0.1, 0.3, 0.2, 0.6])
    shadow, _ = shadow_of(
        "m=candidate:25", draw=lambda: next(draws), candidate=servable(2, scores_of((0.2, 0.8)))
    )
    for version in (1, 1, 2, 1):
        shadow(exchange(version=version))
    assert drained(shadow)["requests"] == 1


def test_failures_are_counted_by_their_code():
    def fail(x):
        raise ServingError("INTERNAL", "no")

    shadow, _ = shadow_of(candidate=servable(2, fail))
    shadow(exchange())
    report = drained(shadow)
    assert (report["failed"], report["errors"], report["requests"]) == (1, {"INTERNAL": 1}, 0)


def test_a_target_that_is_not_loaded_is_counted():
    shadow, _ = shadow_of()
    shadow(exchange())
    assert drained(shadow)["not_served"] == 1


def test_a_slow_shadow_drops_and_never_holds_up():
    started, gate = threading.Event(), threading.Event()

    def slow(x):
        started.set()
        assert gate.wait(WAIT)
        return {"scores": np.zeros((2, 2), np.float32)}

    shadow, _ = shadow_of(max_waiting=3, candidate=servable(2, slow))
    shadow(exchange())
    assert started.wait(WAIT)
    for _ in range(10):
        shadow(exchange())
    assert shadow.reports()["m"]["dropped"] == 7
    gate.set()
    assert drained(shadow)["requests"] == 4


def test_side_thread_bounds_bytes_and_survives_errors(caplog):
    entered, gate, done = threading.Event(), threading.Event(), []

    def work(item):
        entered.set()
        assert gate.wait(WAIT)
        done.append(item)
        if item == "bad":
            raise RuntimeError("side work")

    thread = SideThread("side", work, max_bytes=100)
    assert thread.offer("bad", 60)
    assert entered.wait(WAIT)
    assert not thread.offer("large", 41)
    assert thread.offer("small", 40)
    gate.set()
    thread.close(drain=True)
    assert done == ["bad", "small"]
    assert "side work" in caplog.text
    assert not thread.offer("late", 1)


def test_side_thread_that_does_not_drain_forgets():
    entered, gate, done = threading.Event(), threading.Event(), []

    def work(item):
        entered.set()
        assert gate.wait(WAIT)
        done.append(item)

    thread = SideThread("side", work)
    assert thread.offer(1, 1)
    assert entered.wait(WAIT)
    assert thread.offer(2, 1)
    closing = threading.Thread(target=lambda: thread.close(drain=False))
    closing.start()
    while thread.offer(3, 1):
        pass
    gate.set()
    closing.join(WAIT)
    assert done[:1] == [1]
    assert 2 not in done
