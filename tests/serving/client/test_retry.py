import math
import random

import pytest

from serving.client.errors import DEADLINE_EXCEEDED, ClientError, Failure
from serving.client.retry import Deadline, Tries, call, finite


def busy(wait_s=None):
    return Failure("busy", "503", again=True, wait_s=wait_s)


def failing(times, failure):
    """`attempt` that fails that often, and the list of its timeouts."""
    given = []

    def attempt(left):
        given.append(left)
        if len(given) <= times:
            raise failure()
        return "answer"

    return attempt, given


def test_waits_double_up_to_five_seconds(no_jitter):
    attempt, given = failing(8, busy)
    assert call(attempt, Tries(Deadline(math.inf), 8)) == "answer"
    assert no_jitter == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert given == [math.inf] * 9


def test_full_jitter(monkeypatch):
    from serving.client import retry

    waits = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    monkeypatch.setattr(retry, "random", random.Random(5))
    for _ in range(2000):
        attempt, _ = failing(1, busy)
        call(attempt, Tries(Deadline(9), 1))
    assert 0 <= min(waits) < 0.001
    assert 0.099 < max(waits) <= 0.1
    assert sum(waits) / len(waits) == pytest.approx(0.05, abs=0.003)


def test_the_servers_wait_is_the_least(no_jitter):
    attempt, _ = failing(2, lambda: busy(3.0))
    call(attempt, Tries(Deadline(60), 3))
    assert no_jitter == [3.1, 3.2]


def test_no_wait_beyond_the_deadline(no_jitter):
    attempt, given = failing(1, lambda: busy(30.0))
    with pytest.raises(
        ClientError, match=r"busy; the next attempt in 30\.1 s would be after"
    ) as caught:
        call(attempt, Tries(Deadline(5), 3))
    assert (len(given), no_jitter) == (1, [])
    assert (caught.value.status, caught.value.tries) == ("503", 1)


def test_the_final_error_has_the_number_of_tries(no_jitter):
    attempt, given = failing(9, busy)
    with pytest.raises(ClientError, match=r"^busy \(tried 3 times in \d+\.\d s\)$") as caught:
        call(attempt, Tries(Deadline(60), 2))
    assert (len(given), caught.value.tries, caught.value.status) == (3, 3, "503")
    assert isinstance(caught.value.__cause__, Failure)


def test_a_rejection_is_final(no_jitter):
    attempt, given = failing(1, lambda: Failure("no such model", "404"))
    with pytest.raises(ClientError, match=r"^no such model$"):
        call(attempt, Tries(Deadline(60), 5))
    assert len(given) == 1


def test_a_timeout_is_final(no_jitter):
    attempt, given = failing(1, lambda: Failure("slow", DEADLINE_EXCEEDED, again=True))
    with pytest.raises(ClientError, match=r"slow \(tried once in") as caught:
        call(attempt, Tries(Deadline(60), 5))
    assert (len(given), caught.value.status) == (1, DEADLINE_EXCEEDED)


def test_each_attempt_has_the_remaining_time(monkeypatch):
    from serving.client import retry

    now = [100.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: high)
    monkeypatch.setattr(retry.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    attempt, given = failing(2, busy)
    deadline = Deadline(2.0)
    call(attempt, Tries(deadline, 3))
    assert given == pytest.approx([2.0, 1.9, 1.7])
    now[0] += 1.7
    with pytest.raises(ClientError, match="timed out after 2 s; raise `timeout_s`") as caught:
        call(attempt, Tries(deadline, 3))
    assert caught.value.status == DEADLINE_EXCEEDED
    assert len(given) == 3


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan])
def test_no_time_at_all(timeout_s):
    with pytest.raises(ValueError, match="`timeout_s` must be above 0, got"):
        Deadline(timeout_s)


def test_bounds():
    with pytest.raises(ValueError, match="`retries` must be 0 or more, got -1"):
        Tries(Deadline(1), -1)
    assert (finite(math.inf), finite(2.5)) == (None, 2.5)
