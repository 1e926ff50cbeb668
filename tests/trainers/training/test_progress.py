"""Events over a real pipe."""

import json
import os

from trainers.training.epoch import Progress
from trainers.training.progress import EVENTS_FD, emit, reporter

PROGRESS = Progress(
    epoch=1,
    epochs=3,
    step=2,
    steps=10,
    loss=0.5,
    top1=0.25,
    learning_rate=0.1,
    images_per_second=100.0,
    input_stall=0.02,
    eta_seconds=4.0,
)


def test_events_are_one_json_line_each(monkeypatch):
    read, write = os.pipe()
    monkeypatch.setenv(EVENTS_FD, str(write))
    emit("step", name="export")
    reporter()(PROGRESS)
    os.close(write)
    with os.fdopen(read) as handle:
        lines = [json.loads(line) for line in handle]
    assert lines[0] == {"event": "step", "name": "export"}
    assert lines[1]["event"] == "progress"
    assert Progress(**{key: lines[1][key] for key in lines[1] if key != "event"}) == PROGRESS


def test_nobody_listens(monkeypatch):
    monkeypatch.delenv(EVENTS_FD, raising=False)
    assert reporter() is None
    emit("step", name="export")


def test_a_listener_that_went_away_stops_nothing(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setenv(EVENTS_FD, str(write))
    report = reporter()
    report(PROGRESS)
    assert EVENTS_FD not in os.environ, "it is not tried again"
    report(PROGRESS)
    os.close(write)
